"""What the banks, their clients and their checker agree on."""

from __future__ import annotations

ACCOUNTS = 40
"""Accounts of one bank: a00, a01, ..."""
OPENING = 1000
"""What everybody has at first."""
METHOD = "/crash.Bank/Move"
"""The banks' own API: JSON with the arguments of `move`."""
