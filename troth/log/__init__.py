"""The durable log: one row a record, append-only, one writer.

`contract` says what a log is; `sqlite` is the one for production; `memory` is the one for contract tests and simulation.
"""
