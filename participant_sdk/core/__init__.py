"""The participant's pure core: no I/O, no clock, no randomness.

`events` says what goes in, `effects` what comes out, `work` what is asked of a resource; `core` has all transitions, with the
theory above them. `locks` keeps declared keys.
"""
