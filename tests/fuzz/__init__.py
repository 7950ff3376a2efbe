"""Hostile input: on the wire, on the port, in the files. See `docs/explanation/testing.md`."""
