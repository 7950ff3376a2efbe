"""The second level of the simulator: the production code with asyncio in it, on a loop whose time is virtual.

The daemon, its services, the guard, the engine, the link, the participant's runtime and session, and the client are those of
production; so are the cores. Replaced are the clock, the network under gRPC, the disks, and the life of processes.

    loop      virtual time; each callback belongs to a life of a process, and a life ends between two callbacks
    network   streams and calls that break, wait, and are cut; what gRPC's channel and server are to the code
    process   lives, one after another, of a process; its disks; crash, stop, slowness
    resource  the simulated bank as the log of its own branches, and a ledger behind a `LogResource`
    roles     the daemon and the participants as processes
    client    the real client, with callers that are cancelled
    faults    what goes wrong
    run       one run and its judgement
    mutants   known-bad changes to the engine, the link, the log and the shells
"""
