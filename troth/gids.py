"""What a prepared branch is called in a database that other software uses too: `troth:SERVICE:SLOT:TRANSACTION`.

    troth:payments::c1.7.9f2c4e1a.3.42       of the participant `payments`
    troth:payments:2:c1.7.9f2c4e1a.3.42      of its slot `payments/2`

No part can hold a colon, so parts are compared whole, and a name that is a prefix of another is not taken for it. PostgreSQL takes
at most 199 bytes, and MariaDB 64 of the transaction: an id that would make the name longer is replaced by its digest, which is
`sha-` and no id.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

GID_BYTES_MAX = 199
"""Of a whole name; PostgreSQL's own limit (`GIDSIZE` is 200, with the zero at its end)."""
_MARK = "troth"


@dataclass(frozen=True, slots=True)
class Gid:
    """A name, taken apart."""

    participant: str
    """The participant, or its slot: `payments`, `payments/2`."""
    transaction: str
    """The transaction's id, or its digest."""


def gid_prefix(participant: str) -> str:
    """What the names of all branches of a participant (or of one slot of it) begin with, and no others."""
    service, _, slot = participant.partition("/")
    return f"{_MARK}:{service}:{slot}:"


def gid_of(participant: str, transaction_id: str, *, transaction_bytes_max: int = GID_BYTES_MAX) -> str:
    """The name of a participant's branch of a transaction; `transaction_bytes_max` is of the transaction's part."""
    assert transaction_id and ":" not in participant + transaction_id, "a colon separates the parts"
    prefix = gid_prefix(participant)
    whole = prefix + transaction_id
    if len(whole.encode()) <= GID_BYTES_MAX and len(transaction_id.encode()) <= transaction_bytes_max:
        return whole
    return f"{prefix}sha-{hashlib.sha256(transaction_id.encode()).hexdigest()[:48]}"


def parse_gid(gid: str) -> Gid | None:
    """A name taken apart; `None` for one that other software has given."""
    parts = gid.split(":")
    if len(parts) != 4 or parts[0] != _MARK or not parts[1] or not parts[3]:
        return None
    _, service, slot, transaction = parts
    return Gid(f"{service}/{slot}" if slot else service, transaction)
