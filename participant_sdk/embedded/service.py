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

It is the daemon's core on the daemon's engine, in the service's own loop; participants and callers reach it by function calls. With
its log in a file one process at a time has it, and the next one finishes what the last one has decided. With all logs in databases
any number of processes run at once, each with a coordinator of its own, and any of them finishes what a dead one left (`slots`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from coordinator.core.settings import CoreSettings
from participant_sdk import background
from participant_sdk.client.client import GRACE_SECONDS, Call, Client
from participant_sdk.client.results import Committed
from participant_sdk.client.transaction import Transaction
from participant_sdk.context import Scope, within
from participant_sdk.embedded.blocking import EmbeddedSyncClient
from participant_sdk.embedded.client import NOWHERE, InProcessClient
from participant_sdk.embedded.coordinator import Gone, InProcessCoordinator
from participant_sdk.embedded.session import InProcessSession
from participant_sdk.embedded.slots import NAME_OF_ITS_OWN, ROLE, CoordinatorLogs, OwnedLogs, strangers, visited
from participant_sdk.session import Owner
from participant_sdk.slots import LOOK_SECONDS, Visits, claimed
from participant_sdk.starting import Starting
from participant_sdk.wiring import Wiring
from troth.errors import ConfigError, LogError, Reason, RequestError, TrothError
from troth.ids import check_name
from troth.log.contract import Log
from troth.log.sqlite import SqliteLog
from troth.payload_keys import Source, keyring
from troth.tasks import all_of, is_cancelling, side_by_side

if TYPE_CHECKING:
    from participant_sdk.participant import Participant

FILE = "coordinator.db"
"""The log in its directory, as the daemon calls it."""
FINISH_SECONDS = 5.0
"""How long `close` waits for the participants to do what is decided: a database may be away."""
FINISH_LOOK_SECONDS = 0.02
"""Between two looks at that."""


class Embedded:
    """The coordinator of one service, and its client. Give it to the service's participants as `coordinator`.

    `log`         a directory for its log, never shared; or `PostgresLog(dsn)`: in one of the databases, with nothing on local disk.
                  Then, if the participants' logs are in databases too, up to its `slots_max` processes run at once
    `name`        of this coordinator, in the ids of its transactions; participants refuse another log under the same name. In
                  processes beyond the first it has a number behind it
    `settings`    limits, as the daemon's
    `payload_keys` what seals idempotency keys and reasons in its log, as for a `Participant`
    `on_failure`  called once, in the loop, with the error when its log fails: then nothing is promised any more, and the process
                  should end (`participant_sdk.terminate`); the next start recovers

    Raises `ConfigError`.
    """

    def __init__(
        self, log: str | Path | OwnedLogs, *, name: str = "embedded", settings: CoreSettings | None = None,
        on_failure: Callable[[TrothError], object] | None = None, payload_keys: Source = "",
    ) -> None:
        try:
            check_name("coordinator", name)
        except RequestError as error:
            raise ConfigError(error.message) from None
        self.name = name
        self._directory = Path(log) if isinstance(log, str | Path) else None
        self._logs = None if isinstance(log, str | Path) else CoordinatorLogs(log, name)
        self._settings = settings or CoreSettings()
        self._keyring = keyring(payload_keys)
        self.on_failure = on_failure
        self._participants: list[Participant] = []
        self._number = 0
        self._coordinators: dict[int, InProcessCoordinator] = {}
        """This process's own one, by the number of its slot, and those that it visits."""
        self._visits: Visits | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._letting_go: asyncio.Task[None] | None = None
        self._starting = Starting()
        self._closing: asyncio.Task[None] | None = None
        self._started = False
        self._client: Client | None = None
        self.sync = EmbeddedSyncClient(self)
        """The same for code that is not asynchronous: `troth.sync.run(...)`, `with troth.sync.transaction(): ...`."""

    def adopt(self, participant: Participant, wiring: Wiring) -> tuple[Wiring, str]:
        """A participant is made with this coordinator: how it reaches it, and what stands for an address. It is started with it."""
        self._participants.append(participant)
        return replace(wiring, session=self._session, slot=lambda: self._number if self._is_shared else None), NOWHERE

    def _session(self, name: str, address: str, owner: Owner) -> InProcessSession:
        number = int(name.partition("/")[2]) if self._is_shared else 0
        return InProcessSession(name, owner, self._coordinators[number])

    @property
    def _is_shared(self) -> bool:
        """Whether several processes may run it at once."""
        return self._logs is not None and all(participant.has_slots for participant in self._participants)

    # ---- life

    async def start(self) -> None:
        """Open the log, recover, start the participants, and serve. Raises `LogError` (`LogLocked` while others have all there is),
        `ConfigError`, and `TrothError` (SHUTTING_DOWN) when it is closed meanwhile; with everything closed again."""
        if self._started:
            raise ConfigError("this Embedded was started before", hint="Make a new one, with new participants.")
        self._started = True
        try:
            await self._starting.of(self._begin(), f"the coordinator {self.name}")
        except BaseException:
            await self.close()
            raise

    async def _begin(self) -> None:
        own = await self._claim()
        own.failed.add_done_callback(self._failed)
        await asyncio.gather(*(participant.start() for participant in self._participants))
        self._client = await self.make_client().__aenter__()
        await asyncio.gather(*(participant.wait_connected() for participant in self._participants))
        if self._is_shared:
            self._tasks.append(asyncio.create_task(self._look(), name=f"troth-embedded-{self.name}"))

    async def close(self) -> None:
        """Give up a start that is under way. Wait for what is being decided, and for the participants to do it, but not for long
        (`FINISH_SECONDS`); make durable what is under way, and close everything; a database that does not answer holds it up for
        about half a minute. What could not be done is finished after the next start, or by another process. Whoever closes it,
        too, waits for the same; who is cancelled does not interrupt it."""
        if self._closing is None or self._closing.done():
            self._closing = asyncio.create_task(self._close(), name=f"troth-embedded-{self.name}-closing")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._starting.give_up()
        client, self._client = self._client, None
        steps: list[Callable[[], Awaitable[object]]] = []
        if client is not None:
            steps += [partial(client.__aexit__, None, None, None), self._finish]
        steps += [self._let_go, self._leave, self._stop_coordinators]
        if self._logs is not None:
            steps.append(self._logs.close)
        await all_of(*steps)

    async def _finish(self) -> None:
        """A process that goes leaves no branch prepared, whose rows are locked until there is another process."""
        own = self._coordinators[self._number]
        with suppress(Gone, TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):  # its log may be silent, and it with it
                while await own.owing():  # noqa: ASYNC110 - nothing signals it
                    await asyncio.sleep(FINISH_LOOK_SECONDS)

    async def _let_go(self) -> None:
        if self._letting_go is not None:
            await self._letting_go

    async def _leave(self) -> None:
        """End what is begun beside the coordinator, so that others may have it."""
        steps: list[Callable[[], Awaitable[object]]] = []
        if self._logs is not None:
            steps.append(self._logs.hurry)
        steps.append(self._unlooked)
        if self._visits is not None:
            steps.append(self._visits.end)
        await all_of(*steps, self._close_participants)

    async def _unlooked(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close_participants(self) -> None:
        await side_by_side(participant.close() for participant in self._participants)

    async def _stop_coordinators(self) -> None:
        await side_by_side(coordinator.stop() for coordinator in self._coordinators.values())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _claim(self) -> InProcessCoordinator:
        """A coordinator for this process."""
        if self._logs is None:
            assert self._directory is not None, "a log is in a directory or in a database"
            self._directory.mkdir(parents=True, exist_ok=True)
            return await self._begun(self.name)
        if not self._is_shared:
            await self._logs.make(self.name)
            return await self._begun(self.name)
        slot, coordinator = await claimed(self._logs, self.name, self._begun)
        self._number = CoordinatorLogs.number(slot)
        owing = strangers(await coordinator.owing(), self._participants)
        if owing:
            raise ConfigError(
                f"the coordinator {slot!r} has work of {', '.join(owing)}, which this service has not", hint=NAME_OF_ITS_OWN
            )
        self._visits = Visits(self._logs, self.name, self._visit)
        return coordinator

    async def _begun(self, slot: str) -> InProcessCoordinator:
        coordinator = InProcessCoordinator(slot, self._settings, lambda: self._make_log(slot), self._keyring)
        await coordinator.start()
        self._coordinators[CoordinatorLogs.number(slot) if self._is_shared else 0] = coordinator
        return coordinator

    def _make_log(self, slot: str) -> Log:
        if self._logs is not None:
            return self._logs.log(slot)
        assert self._directory is not None, "a log is in a directory or in a database"
        return SqliteLog(self._directory / FILE, role=ROLE, name=slot)

    async def _look(self) -> None:
        """Look after what other processes have left."""
        assert self._visits is not None, "several processes may run it"
        while not is_cancelling():
            await asyncio.sleep(LOOK_SECONDS)
            with suppress(LogError):
                await self._visits.look()

    async def _visit(self, slot: str) -> None:
        await visited(slot, self._begun, self._participants, self._left)

    async def _left(self, coordinator: InProcessCoordinator) -> None:
        await coordinator.stop()
        del self._coordinators[CoordinatorLogs.number(coordinator.name)]

    def _failed(self, failed: asyncio.Future[TrothError]) -> None:
        if failed.cancelled() or self._closing is not None:
            return  # who closes it needs not be told to end
        if self._is_shared:  # another process is to have the participants' slots of this number
            self._letting_go = asyncio.create_task(self._leave(), name=f"troth-embedded-{self.name}")
        if self.on_failure is not None:
            self.on_failure(failed.result())

    def make_client(self) -> Client:
        """A further client, not entered."""
        keyed = self._logs is None or not self._is_shared or self._logs.slots_max == 1
        return InProcessClient(self._coordinators[self._number], grace_seconds=GRACE_SECONDS, keyed=keyed)

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
