"""The deterministic simulator: production cores in a world whose clock, network, disks and processes are replaced.

Everything that happens in a run follows from one seed. `world` is time and chance, `disk` what survives a crash, `process` the
shell around a core, `network` the streams, `bank` the resource, `clients` the workload, `faults` what goes wrong, `checkers` what
must hold all the same, `run` puts a run together, `mutants` are known-bad changes that must be caught.
See docs/explanation/testing.md.
"""
