"""An outbox as a relay sees it, whichever database has it.

Here is what a relay may rely on; the databases say it in their words (`of_postgres`, `of_mariadb`):

- What a branch in doubt has left is not seen, and of one key nothing can appear below what is seen.
- No question reads more than it answers, however much waits: each goes along an index from where it is told to begin, to a limit.
- What is taken is locked until the transaction ends, and another relay passes it by. A relay that is gone without a word loses its
  transaction after `idle_seconds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from participant_sdk.outbox.message import Message
from troth.logs import get_logger
from troth.mariadb.address import is_address

_log = get_logger("participant_sdk.outbox")
_NOBODY = 0
"""A position that no message has."""


class Place(NamedTuple):
    """Where to go on in a topic; without more, its beginning."""

    topic: str
    key: str = ""
    """Keys greater than this come next; empty: all of them."""
    position: int = 0
    """Of messages without a key, those behind this come next."""
    last_key: str | None = None
    """Where this round of the keys ends, whatever comes meanwhile; None: nowhere."""
    last_position: int | None = None
    """Where that of the messages without a key ends."""


class Waiting(NamedTuple):
    """A message that waits, as far as it takes to choose it."""

    position: int
    topic: str
    key: str | None
    due: bool
    size: int
    """Bytes of its body."""


class OutboxStore(Protocol):
    """The outbox of one database. Whatever the database says is raised as one of `kinds`."""

    @property
    def kinds(self) -> tuple[type[Exception], ...]:
        """For `except`."""

    def connected(self) -> AbstractAsyncContextManager[Any]:
        """A connection for the time of the block. Whatever keeps a delivery from being recorded (a privilege that is missing, a
        setting of the server) is raised here, before anything is delivered: otherwise it would be delivered again for ever."""

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """A transaction for the time of the block; it is rolled back when that raises."""

    async def topics(self, connection: Any, after: str, topics_max: int) -> Sequence[str]:
        """The topics behind this one, in their order, of which something is not set aside."""

    async def lines(self, connection: Any, places: Sequence[Place], each_max: int) -> Sequence[tuple[str, str | None, int]]:
        """Topic, key and position of what is not set aside: of each topic its messages with a key, ordered by key and position,
        and those without one that are due, by position; at most `each_max` of either. It waits for nobody, and locks nothing."""

    async def last(self, connection: Any, topic: str) -> tuple[str | None, int | None]:
        """The greatest key, and the last position of a message without one, of what is not set aside; None where there is none."""

    async def heads(
        self, connection: Any, keys: Sequence[str], positions: Sequence[int], each_max: int
    ) -> Sequence[Waiting]:
        """The first messages of each key that are not set aside, whatever their topics, and those that wait at these
        positions; in any order."""

    async def take(self, connection: Any, positions: Sequence[int], *, put_off: bool = False) -> list[Message]:
        """Lock these, in their order, as far as they are there, are not set aside, and nobody else has them. Since they were chosen
        another relay may have put one off, and deliver it now: so they are due, too, except where `put_off` is told."""

    async def done(self, connection: Any, positions: Sequence[int]) -> None:
        """Delete these, which were taken and delivered."""

    async def failed(self, connection: Any, position: int, error: str, wait_seconds: float, attempts_max: int) -> None:
        """Count a failure of one that was taken; it is due again later, or set aside where it has failed `attempts_max` times."""

    async def put_off(self, connection: Any, position: int, error: str, wait_seconds: float) -> None:
        """Let one that was taken be due later, by no fault of its own."""


async def try_to_record(outbox: OutboxStore, connection: Any) -> None:
    """Record what came of no message, as each store does before it gives a connection (`OutboxStore.connected`). Raises what keeps
    deliveries from being recorded."""
    await outbox.done(connection, [_NOBODY])
    await outbox.failed(connection, _NOBODY, "", 0.0, 1)


def tell_of_missing_index(where: str) -> None:
    """The table was made by an earlier version. The relay delivers; what it asks reads more than it answers."""
    hint = "Run `troth store init --participant NAME` again."
    _log.warning("the outbox lacks its index of topics", where=where, hint=hint)


def store_of(dsn: str, idle_seconds: float) -> OutboxStore:
    """The outbox of the database that `dsn` names. Raises `ConfigError` for an address of MariaDB that is none, or whose driver is
    missing."""
    if is_address(dsn):
        from participant_sdk.outbox.of_mariadb import MariadbOutbox

        return MariadbOutbox(dsn, idle_seconds)
    from participant_sdk.outbox.of_postgres import PostgresOutbox

    return PostgresOutbox(dsn, idle_seconds)
