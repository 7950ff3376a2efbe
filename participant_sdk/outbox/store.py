"""An outbox as a relay sees it, whichever database has it.

Here is what a relay may rely on; the databases say it in their words (`of_postgres`, `of_mariadb`):

- Of each key only the first message is due that is not set aside. What a branch in doubt has left is not seen.
- What is taken is locked until the transaction ends, and another relay passes it by. A relay that is gone without a word loses its
  transaction after `idle_seconds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from participant_sdk.outbox.message import Message
from troth.mariadb.address import is_address

_NOBODY = 0
"""A position that no message has."""


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

    async def first(self, connection: Any, messages_max: int) -> Sequence[tuple[int, int]]:
        """Positions and bytes of bodies of what is due, the oldest first. It waits for nobody, and locks nothing."""

    async def take(self, connection: Any, positions: Sequence[int]) -> list[Message]:
        """Lock these, in their order, as far as they are there, are not set aside, and nobody else has them."""

    async def done(self, connection: Any, positions: Sequence[int]) -> None:
        """Delete these, which were taken and delivered."""

    async def failed(self, connection: Any, position: int, error: str, wait_seconds: float, attempts_max: int) -> None:
        """Count a failure of one that was taken; it is due again later, or set aside where it has failed `attempts_max` times."""


async def try_to_record(outbox: OutboxStore, connection: Any) -> None:
    """Record what came of no message, as each store does before it gives a connection (`OutboxStore.connected`). Raises what keeps
    deliveries from being recorded."""
    await outbox.done(connection, [_NOBODY])
    await outbox.failed(connection, _NOBODY, "", 0.0, 1)


def store_of(dsn: str, idle_seconds: float) -> OutboxStore:
    """The outbox of the database that `dsn` names. Raises `ConfigError` for an address of MariaDB that is none, or whose driver is
    missing."""
    if is_address(dsn):
        from participant_sdk.outbox.of_mariadb import MariadbOutbox

        return MariadbOutbox(dsn, idle_seconds)
    from participant_sdk.outbox.of_postgres import PostgresOutbox

    return PostgresOutbox(dsn, idle_seconds)
