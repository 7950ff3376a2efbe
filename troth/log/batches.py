"""How the records of a batch lie in one row of a database, whichever server it is.

A row has the seq of its first record, how many there are, the seq below which everything is dropped, the bodies packed behind each
other, and a checksum over them. One row a batch is five times as fast as one row a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

from troth.errors import LogDamaged, Reason
from troth.log.contract import StoredRecord


def pack(bodies: Sequence[bytes]) -> bytes:
    """The bodies of one batch, each behind its length in four bytes, most significant first."""
    return b"".join(part for body in bodies for part in (len(body).to_bytes(4, "big"), body))


def checksum(first_seq: int, body: bytes) -> int:
    """What the column `crc` holds: a batch that stands at another seq does not match either."""
    return crc32(body, first_seq & 0xFFFFFFFF)


def read_batches(rows: Iterable[Any], where: str) -> list[StoredRecord]:
    """The rows (first_seq, records, drop_below, crc, body), by seq, as records, without what is dropped. Raises `LogDamaged`, with
    the place."""
    found: list[StoredRecord] = []
    head, expected = 0, None
    for first_seq, count, drop_below, crc, body in rows:
        if expected is not None and first_seq != expected:
            raise damaged(where, f"batch {expected}", f"it is missing before batch {first_seq}")
        bodies = _unpack(bytes(body))
        if checksum(first_seq, bytes(body)) != crc or bodies is None or len(bodies) != count:
            raise damaged(where, f"batch {first_seq}", "its body does not match its checksum")
        found += [StoredRecord(seq, record) for seq, record in enumerate(bodies, first_seq)]
        head, expected = max(head, drop_below), first_seq + count
    return [stored for stored in found if stored.seq >= head]


def _unpack(body: bytes) -> list[bytes] | None:
    """The bodies of a batch, or `None` if it was not packed by `pack`."""
    bodies: list[bytes] = []
    at = 0
    while at < len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4], "big")
        if end > len(body) or at + 4 > len(body):
            return None
        bodies.append(body[at + 4 : end])
        at = end
    return bodies


def damaged(where: str, place: str, what: str) -> LogDamaged:
    """A damaged log; nothing was changed."""
    return LogDamaged(
        Reason.LOG_DAMAGED,
        f"{where} is damaged at {place}: {what}",
        hint="Nothing was changed. Keep a copy of Troth's tables (pg_dump --schema=troth, mariadb-dump), and restore a backup.",
    )
