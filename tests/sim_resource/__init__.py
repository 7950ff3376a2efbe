"""The simulator's third level: the real SQLite resource under the participant's real core.

One run is one seed: a service with its SQLite file, an author who writes all kinds of statements, a coordinator on paper that
decides at random, crashes (of the process, or of the power), and a plain second database that says what must stand. `author` writes
the operations, `shadow` is the second database, `files` what survives a crash, `shell` and `service` the process, `paper` the
coordinator, `checkers` what must hold, `run` puts it together, `promises` lists what DESIGN section 6 says, `mutants` breaks each
of them. See docs/explanation/testing.md.
"""
