"""The names under which a transaction travels, in gRPC's metadata and in HTTP headers alike, and how a header has bytes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping

CONTEXT_KEY = "troth-context-bin"
"""With a call: a serialised TransactionContext."""
ROUTE_KEY = "troth-transaction"
"""With a call: the transaction's id in clear."""
ACKNOWLEDGED_KEY = "troth-acknowledged-bin"
"""With an answer (trailing metadata): a serialised AcknowledgedOperations for each participant."""
CAUSE_KEY = "troth-cause-bin"
"""With an answer: a serialised Cause, when the transaction is why the call failed."""
ACKNOWLEDGED_BYTES_MAX = 4096
"""Characters of all that an answer acknowledges: over HTTP they are one header, and servers and proxies cut those off, or refuse
them, from 8 KiB on, as gRPC does with trailing metadata. Some ninety participants in one call, or thirty that vote early."""

Metadata = tuple[tuple[str, str | bytes], ...]


def packed(data: Iterable[bytes]) -> str:
    """The value of a `-bin` header, as gRPC writes it: base64, several joined by commas."""
    return ",".join(base64.b64encode(one).decode() for one in data)


def packed_length(count: int) -> int:
    """How long so many bytes become in a header of several values, with the comma."""
    return 4 * -(-count // 3) + 1


def unpacked(value: str | bytes) -> list[bytes]:
    """The values in a `-bin` header. Raises `ValueError`. Padding may be left out."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    try:
        return [base64.b64decode(one + "=" * (-len(one) % 4), validate=True) for one in (part.strip() for part in text.split(","))]
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def said(headers: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """What an answer's headers say, as trailing metadata would. What is no base64 is handed on as bytes that are no message."""
    found: list[tuple[str, bytes]] = []
    for name in (ACKNOWLEDGED_KEY, CAUSE_KEY):
        value = headers.get(name)
        if value is not None:
            try:
                found.extend((name, one) for one in unpacked(value))
            except ValueError:
                found.append((name, b"\xff"))
    return found
