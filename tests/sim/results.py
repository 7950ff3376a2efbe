"""What clients leave under keys."""

from __future__ import annotations

from typing import Any

RESULT = b"what %-40.40b came to"
RESULT_BYTES = len(RESULT % b"")


def result_of(attempt: Any) -> bytes:
    """What an attempt leaves under its key with its commit; some leave nothing."""
    return RESULT % attempt.transaction_id.encode() if attempt.key and attempt.interactive and attempt.number % 4 else b""
