"""`troth conform`: a scripted coordinator against which any participant, in any language, can be run.

    wire        one gRPC service that says what a case tells it to, byte by byte if need be
    peer        the participant as a case sees it: its session, its branches, what it said
    process     how the participant is started, and killed at the moments when something must be durable
    case        a case, its rule, and the list of all
    caller      calls of the participant's own API, inside a transaction
    hello, votes, decisions, settling, watermarks, forces, matrix, calls, parked, frames, durable, positions     the cases
    run         runs them, one after the other

The rules are those of protos/README.md, which each case names in words. Nothing here knows how a participant is written.
"""
