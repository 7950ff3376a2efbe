"""`Embedded`: transactions over several databases of one service, without a daemon.

    troth = Embedded("var/troth")
    orders = Participant("orders", resource=Postgres(ORDERS), data_directory="var/orders", coordinator=troth)
    stock = Participant("stock", resource=Postgres(STOCK), data_directory="var/stock", coordinator=troth)

    async with troth:                                     # in the application's lifespan: recovers, then serves
        await troth.run(call("orders", "place", item="x"), call("stock", "take", item="x"))

        async with troth.transaction():
            async with orders.branch() as db:
                await db.execute(...)
            async with stock.branch() as db:
                await db.execute(...)

It is the daemon's core on the daemon's engine, in the service's own loop; participants and callers reach it by function calls. One
process at a time has its log. Whichever process of the service has it next finishes what the last one has decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from coordinator.core.settings import CoreSettings
from participant_sdk import background
from participant_sdk.client.client import GRACE_SECONDS, Call, Client
from participant_sdk.client.results import Committed
from participant_sdk.client.transaction import Transaction
from participant_sdk.context import Scope, within
from participant_sdk.embedded.blocking import EmbeddedSyncClient
from participant_sdk.embedded.client import NOWHERE, InProcessClient
from participant_sdk.embedded.coordinator import InProcessCoordinator
from participant_sdk.embedded.session import InProcessSession
from participant_sdk.wiring import Wiring
from troth.errors import ConfigError, Reason, RequestError, TrothError
from troth.ids import check_name
from troth.log.contract import Log
from troth.log.sqlite import SqliteLog

if TYPE_CHECKING:
    from participant_sdk.participant import Participant

ROLE = "coordinator"
FILE = "coordinator.db"
"""The log in its directory, as the daemon calls it."""


class OwnedLog(Protocol):
    """A place in a database for the log (`participant_sdk.PostgresLog`)."""

    async def make_named(self, role: str, name: str) -> None:
        """Make the log, if it is not there. Raises `LogError`."""

    def named(self, role: str, name: str) -> Log:
        """The log, not opened."""

    async def close(self) -> None:
        """Let go of what was opened, once all logs are closed."""


class Embedded:
    """The coordinator of one service, and its client. Give it to the service's participants as `coordinator`.

    `log`         a directory for its log, never shared; or `PostgresLog(dsn)`: in one of the databases, owned by one process at a
                  time, with nothing on local disk
    `name`        of this coordinator, in the ids of its transactions; participants refuse another log under the same name
    `settings`    limits, as the daemon's
    `on_failure`  called once, in the loop, with the error when its log fails: then nothing is promised any more, and the process
                  should end (`participant_sdk.terminate`); the next start recovers

    Raises `ConfigError`.
    """

    def __init__(
        self, log: str | Path | OwnedLog, *, name: str = "embedded", settings: CoreSettings | None = None,
        on_failure: Callable[[TrothError], object] | None = None,
    ) -> None:
        try:
            check_name("coordinator", name)
        except RequestError as error:
            raise ConfigError(error.message) from None
        self.name = name
        self._log = Path(log) if isinstance(log, str) else log
        self._settings = settings or CoreSettings()
        self.on_failure = on_failure
        self._participants: list[Participant] = []
        self._coordinator: InProcessCoordinator | None = None
        self._client: Client | None = None
        self.sync = EmbeddedSyncClient(self)
        """The same for code that is not asynchronous: `troth.sync.run(...)`, `with troth.sync.transaction(): ...`."""

    def adopt(self, participant: Participant, wiring: Wiring) -> tuple[Wiring, str]:
        """A participant is made with this coordinator: how it reaches it, and what stands for an address. It is started with it."""
        self._participants.append(participant)
        return replace(wiring, session=lambda name, address, owner: InProcessSession(name, owner, self._running())), NOWHERE

    # ---- life

    async def start(self) -> None:
        """Open the log, recover, start the participants, and serve. Raises `LogError` (`LogLocked` while another process has the
        log), `ConfigError`; with everything closed again."""
        if self._coordinator is not None:
            raise ConfigError("this Embedded was started before", hint="Make a new one, with new participants.")
        if isinstance(self._log, Path):
            self._log.mkdir(parents=True, exist_ok=True)
        else:
            await self._log.make_named(ROLE, self.name)
        coordinator = self._coordinator = InProcessCoordinator(self.name, self._settings, self._make_log)
        try:
            await coordinator.start()
            coordinator.failed.add_done_callback(self._failed)
            await asyncio.gather(*(participant.start() for participant in self._participants))
            self._client = await self.make_client().__aenter__()
            await asyncio.gather(*(participant.wait_connected() for participant in self._participants))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Wait for what is being decided, make durable what is under way, and close everything. What is decided and not yet done is
        finished after the next start."""
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)
        for participant in self._participants:
            await participant.close()
        if self._coordinator is not None:
            await self._coordinator.stop()
        if not isinstance(self._log, Path):
            await self._log.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.shield(self.close())

    def _make_log(self) -> Log:
        if isinstance(self._log, Path):
            return SqliteLog(self._log / FILE, role=ROLE, name=self.name)
        return self._log.named(ROLE, self.name)

    def _failed(self, failed: asyncio.Future[TrothError]) -> None:
        if not failed.cancelled() and self.on_failure is not None:
            self.on_failure(failed.result())

    def _running(self) -> InProcessCoordinator:
        assert self._coordinator is not None, "participants are started with their coordinator"
        return self._coordinator

    def make_client(self) -> Client:
        """A further client, not entered."""
        return InProcessClient(self._running(), grace_seconds=GRACE_SECONDS)

    # ---- in a service that is not asynchronous

    def start_in_background(self) -> None:
        """Start in the process's background loop, once in each process, after the fork. Raises what `start` raises."""
        background.start(self)

    def close_in_background(self) -> None:
        """Close what was started there, as the end of the process does."""
        self.sync.close()
        background.close(self)

    # ---- transactions

    @property
    def client(self) -> Client:
        """Its client, for `get`, `carry`, `interceptors` and `@transactional`. Raises `RequestError` before the start."""
        if self._client is None:
            raise RequestError(Reason.INVALID_ARGUMENT, "it does not run", hint="Use it inside `async with`.")
        return self._client

    async def run(self, *calls: Call, **options: Any) -> Committed:
        """Run all operations, everywhere or nowhere; arguments, results and errors are those of `Client.run`."""
        return await self.client.run(*calls, **options)

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[Transaction]:
        """A transaction in whose block the participants' `branch()` works; its end commits. As `Client.transaction`."""
        async with self.client.transaction(**options) as tx:
            carried = tx.carried()
            scope = Scope(carried.context(), tells=True)
            try:
                with within(scope):
                    yield tx
            finally:
                scope.tell(carried)
