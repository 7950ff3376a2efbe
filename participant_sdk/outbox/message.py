"""What a message is, and leaving one in a branch (`leaving` has how)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from participant_sdk.outbox.leaving import leave
from troth.errors import Reason, RequestError

BODY_BYTES_MAX = 1_048_576
"""Of one message."""
NAME_CHARACTERS_MAX = 200
"""Of a topic, and of a key."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is delivered."""

    id: uuid.UUID
    """The same at each delivery: who receives it twice knows by it."""
    topic: str
    key: str | None
    body: bytes
    attempts: int
    """How often it was tried before, and failed by its own fault."""
    position: int
    """Where it stands in the outbox."""


def put(db: Any, topic: str, body: bytes | str, *, key: str | None = None) -> Any:
    """Leave a message in the branch; returns its id, or something to await that returns it, as `db` is.

    `db`     what an operation or a block gets: a connection of psycopg, asyncpg, aiomysql, asyncmy or PyMySQL, SQLAlchemy's
             session, or Django's connection to PostgreSQL
    `topic`  where it goes: the stream at the broker
    `key`    messages of one key come in the order of commits; the branch holds the key until its outcome, and others wait for it

    Raises `RequestError` (INVALID_ARGUMENT, PAYLOAD_TOO_LARGE), and what the database raises.
    """
    data = body.encode() if isinstance(body, str) else bytes(body)
    for name, value in (("topic", topic), ("key", key)):
        if value is not None and not 0 < len(value) <= NAME_CHARACTERS_MAX:
            raise RequestError(Reason.INVALID_ARGUMENT, f"the {name} has {len(value)} characters: 1 to {NAME_CHARACTERS_MAX}")
    if len(data) > BODY_BYTES_MAX:
        raise RequestError(Reason.PAYLOAD_TOO_LARGE, f"the message has {len(data)} bytes, more than {BODY_BYTES_MAX}")
    return leave(db, topic, key, data)
