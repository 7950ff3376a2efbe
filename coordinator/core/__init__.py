"""The coordinator's pure core: no I/O, no clock, no randomness.

`events` says what goes in, `effects` what comes out; `core` has all transitions, with the theory above them.
"""
