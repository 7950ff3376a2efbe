"""`Participant`: the one object that a service author holds.

    bank = Participant("payments", resource=SqliteResource("payments.db", schema=SCHEMA),
                       data_directory="var/payments", coordinator="127.0.0.1:7420")

    @bank.operation(locks=lambda account, amount: [f"account/{account}"])
    def debit(db, *, account: str, amount: int) -> int: ...

    async with bank:
        await bank.serve()

Inside it recovers fully before it connects, keeps connecting for as long as it lives, and stops when its log fails: nothing
can be promised on a log that may have lied.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, overload

import grpc.aio

from participant_sdk import background, program
from participant_sdk.branch import Branch, SyncBranch
from participant_sdk.carriers import SyncCarrier
from participant_sdk.causes import not_running
from participant_sdk.cell_session import CellSession
from participant_sdk.client.transaction import transaction_here
from participant_sdk.codec import Coded, PayloadCodec
from participant_sdk.context import (
    Scope,
    SyncTransactionInterceptor,
    TransactionInterceptor,
    around,
    current_scope,
    onward_carriers,
    onward_sync_carriers,
)
from participant_sdk.core.events import Call, LocalWork, SchemaChange
from participant_sdk.core.work import WHOLE_RESOURCE
from participant_sdk.health import Condition, Health
from participant_sdk.invariants import Finding, Invariants
from participant_sdk.limits import Limits
from participant_sdk.lock_keys import LockKey, Locks, keys_of_local_work
from participant_sdk.pins import pins_of
from participant_sdk.registry import Registry
from participant_sdk.resources.contract import AtomicResource, Resource
from participant_sdk.resources.log_only import LogResource
from participant_sdk.runtime import Runtime
from participant_sdk.slots import SlotLogs, Slots, checked_log
from participant_sdk.starting import Starting
from participant_sdk.tracing import call_under_way
from participant_sdk.watch import Watch
from participant_sdk.wiring import Setup, Wiring
from troth import tracing
from troth.address import check_dialled
from troth.backoff import Backoff
from troth.engine import EngineCounters
from troth.errors import Aborted, ConfigError, Reason, RequestError, TrothError
from troth.identity.tls import Tls
from troth.ids import check_name
from troth.payload_keys import Source, keyring
from troth.tasks import all_of
from troth.v1 import common_pb2

Function = TypeVar("Function", bound=Callable[..., Any])
Value = TypeVar("Value")
Http = TypeVar("Http")

IN_THE_WAY = frozenset({Reason.TIMEOUT, Reason.CONFLICT, Reason.GROUP_LOST})
"""Why local work was not done that may be done later."""
LOCAL_AGAIN = Backoff(first_seconds=0.05, cap_seconds=2.0)
"""The wait between two attempts at local work."""


class Nearby(Protocol):
    """A coordinator in the same process (`participant_sdk.Embedded`)."""

    def adopt(self, participant: Participant, wiring: Wiring) -> tuple[Wiring, str]:
        """Take it on; returns how it reaches this coordinator, and what stands for an address."""


class Participant:
    """A named service with one resource.

    `name`            as the coordinator knows it: a-z, 0-9, '-' and '_'.
    `resource`        a `SqliteResource`, a `LogResource`, or anything with the contract of `resources.contract`.
    `data_directory`  for the SDK's own log; made when it is not there, and never shared.
    `log`             instead of a directory: `PostgresLog(dsn)`, for a service that runs as several processes on one database.
    `loosely_coupled` whether one interactive transaction may reach several of these processes. Their branches do not see each
                      other's work, and may wait for each other's locks until they time out; by default the second is refused.
    `coordinator`     HOST:PORT, or HOST:PORT,HOST:PORT where it has several nodes; or the service's own `Embedded`, which starts
                      and closes this participant.
    `tls`             how the coordinator is believed, and who this participant is; without it nothing is encrypted.
    `payload_keys`    what seals arguments, results and reasons in the participant's log: a file of `troth keys`, `env:VARIABLE`, or
                      `exec:COMMAND`. Without it they are there in clear.
    `codec`           what decodes arguments and encodes results, so that the coordinator sees neither; clients need the same.
    `on_failure`      called once, in the loop, with the error when the participant ends by itself and for good (see `serve`): for a
                      program that does not wait in `serve`. `participant_sdk.terminate` ends the process in an orderly way.

    Raises `ConfigError` when any of these cannot be.
    """

    def __init__(
        self,
        name: str,
        *,
        resource: AtomicResource | Resource | LogResource,
        data_directory: str | Path = "",
        coordinator: str | Nearby,
        log: SlotLogs | None = None,
        loosely_coupled: bool = False,
        limits: Limits | None = None,
        tls: Tls | None = None,
        payload_keys: Source = "",
        codec: PayloadCodec | None = None,
        on_failure: Callable[[TrothError], object] | None = None,
        wiring: Wiring | None = None,
    ) -> None:
        try:
            check_name("participant", name)
        except RequestError as error:
            raise ConfigError(error.message) from None
        if not isinstance(coordinator, str):
            if not hasattr(coordinator, "adopt"):
                check_dialled(coordinator)  # it is neither, which is told here
            wiring, coordinator = coordinator.adopt(self, wiring or Wiring())
            if codec is not None:
                raise ConfigError("a codec keeps payload from the coordinator, which is in this process", hint="Leave it out.")
        self._logs = checked_log(log, data_directory, resource)
        if tls is not None:
            tls.check()
            wiring = replace(wiring or Wiring(), session=functools.partial(CellSession, tls=tls))
        self._setup = Setup(
            name, resource, Path(data_directory), check_dialled(coordinator), asdict(limits or Limits()), wiring or Wiring(),
            on_failure, loosely_coupled=loosely_coupled, keyring=keyring(payload_keys),
        )  # fmt: skip
        results_bytes_max = getattr(resource, "results_bytes_max", 0)
        if results_bytes_max > self._setup.limits["calls_bytes_max"]:
            what = f"results_bytes_max of the resource is {results_bytes_max}, above calls_bytes_max"
            raise ConfigError(what, hint="What one call may return must fit into what all calls may hold: lower it, or raise that.")
        self._registry = Registry(
            async_reason=resource.async_reason, plain_reason=getattr(resource, "plain_reason", ""),
            undecided_seen=resource.atomic, isolated=getattr(resource, "isolates", False),
            coded=None if codec is None else Coded(codec), participant=name,
        )  # fmt: skip
        self._pins = pins_of(resource, self._registry)
        self._invariants = Invariants(resource)
        self._runtime: Runtime | Slots | None = None
        self._starting = Starting()
        self._watch: Watch | None = None
        resource.bind(name, self._registry)

    @property
    def name(self) -> str:
        """The participant's name."""
        return self._setup.name

    @property
    def slot(self) -> str:
        """The slot that this process has, such as `payments/2`; the participant's name when it has none."""
        return self.name if self._runtime is None else self._runtime.name

    # ---- operations

    @overload
    def operation(self, function: Function, /) -> Function: ...

    @overload
    def operation(self, /, *, locks: Locks | None = None, name: str = "") -> Callable[[Function], Function]: ...

    def operation(self, function: Any = None, /, *, locks: Locks | None = None, name: str = "") -> Any:
        """Register a function as an operation; use it as a decorator, with or without arguments.

        `locks`  what the operation *reads or changes*: a function of the operation's arguments (by name, any of them) that
                 returns a list of keys, or such a list. Nobody else who names one of these keys runs before the outcome, but
                 those who all name it as `Read(key)`, and change nothing under it. Rows that it changes are locked against
                 other changes anyway, but who reads them asks for keys. Without keys the whole resource is locked, which is
                 always right and never fast; an author who means that others may read undecided rows says `NO_LOCKS`. The
                 function must leave the arguments as they are: the operation gets them. A database that isolates its branches
                 itself (`Postgres`) needs no keys, and without them takes none.
        `name`   the name that clients use; the function's own by default.

        Raises `ConfigError` when the function cannot be an operation.
        """
        if function is not None:
            self._registry.add(function)
            return function

        def register(decorated: Function) -> Function:
            self._registry.add(decorated, locks=locks, name=name)
            return decorated

        return register

    def invariant(
        self, *, every_seconds: float = 60.0, seconds_max: float = 5.0, locks: Sequence[LockKey] | None = None, name: str = ""
    ) -> Callable[[Function], Function]:
        """Declare what must be true of the committed data; looked at now and then, and told when it is not (see `invariants.py`).

            @stock.invariant(every_seconds=60, locks=["stock"])
            def never_negative(db: Database) -> str | None:
                "No stock is below zero."
                row = db.one("SELECT item, left_over FROM stock WHERE left_over < 0")
                return f"{row[0]} has {row[1]}" if row else None

        The function returns `None`, `True` or an empty text when it holds; `False`, or what is wrong (300 characters), when not. It
        gets what operations get, to read; or, without a parameter, looks for itself: `async def` in the loop, `def` in a thread.

        `every_seconds`  between two checks; the first one is made at the start.
        `seconds_max`    of one check; then it is given up. So long a `SqliteResource` may do nothing else.
        `locks`          of a `SqliteResource`: what it looks at, in the words of the operations' keys; by default everything.
        `name`           as operators read it; the function's own by default.

        Raises `ConfigError` when the function cannot be one, or there are too many (50).
        """

        def declare(function: Function) -> Function:
            self._invariants.add(function, name, every_seconds, seconds_max, locks)
            return function

        return declare

    # ---- life

    async def start(self) -> None:
        """Open the log, recover, and begin to connect; once. Raises `LogError`, `ConfigError`, `TrothError` (SHUTTING_DOWN)."""
        if self._runtime is not None:
            raise ConfigError(f"participant {self.name} was started before", hint="Make a new Participant.")
        self._registry.close()
        runtime = Runtime(self._setup, self._registry) if self._logs is None else Slots(self._setup, self._registry, self._logs)
        await self._starting.of(runtime.start(), f"participant {self.name}")
        self._runtime = runtime
        self._watch = Watch(self.name, self._invariants.close(), runtime, self.read)
        self._watch.start()

    def start_in_background(self) -> None:
        """Start in the process's background loop, for a service that is not asynchronous. Once in each process, after the fork; a
        participant that was started before is left as it is. Raises what `start` raises."""
        if self._runtime is None:
            background.start(self)

    def close_in_background(self) -> None:
        """Close what was started there, as the end of the process does."""
        background.close(self)

    def wait(self, work: Coroutine[Any, Any, Value]) -> Value:
        """In a thread: wait for what is awaited in the participant's loop, such as `bank.wait(bank.read(...))`."""
        runtime = self._runtime
        if runtime is None:
            work.close()
            raise not_running(self.name)
        background.refuse_in_loop("wait()", "await")
        return asyncio.run_coroutine_threadsafe(work, runtime.loop).result()

    async def close(self) -> None:
        """Give up a start, refuse new work, make durable what is under way, disconnect. The next start takes up what is left."""
        await self._starting.give_up()
        if self._runtime is not None:
            await all_of(self._unwatched, self._runtime.stop)

    async def _unwatched(self) -> None:
        if self._watch is not None:
            await self._watch.close()

    def rewire(self, wiring: Wiring) -> None:
        """Reach files and the coordinator in another way; before the start. For `participant_sdk.testing`."""
        assert self._runtime is None, "the participant was started before"
        self._setup = replace(self._setup, wiring=wiring)

    @property
    def has_slots(self) -> bool:
        """Whether several processes may have it at once."""
        return self._logs is not None

    async def of_number(self, number: int) -> Runtime:
        """A further slot of it, recovered, beside its own; for `participant_sdk.embedded`. Raises `LogError`."""
        assert isinstance(self._runtime, Slots), "it was started, and has slots"
        return await self._runtime.of_number(number)

    async def crash(self) -> None:
        """End as a killed process does: nothing is said any more. For tests; see `participant_sdk.testing.cluster`."""
        if self._runtime is not None:
            await self._unwatched()
            await self._runtime.crash()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Whoever is cancelled while this runs still gets a closed log.
        await asyncio.shield(self.close())

    def run(self, prepare: Callable[[], Awaitable[object]] | None = None) -> int:
        """Start, serve until SIGTERM or Ctrl-C, and close: the whole program of a service that does nothing else.

            sys.exit(bank.run(prepare=seed))

        `prepare` is awaited after the start. Call it outside of an event loop. Returns the exit status: 0 after a signal, 1 when
        the coordinator sent the participant away for good, 2 for a wrong setting, 3 when the log failed or cannot be used; why
        is in the log. Raises what `prepare` raises.
        """
        return asyncio.run(program.run(self, prepare))

    async def serve(self) -> None:
        """Run until `close` is called, or this is cancelled.

        Raises `LogError` when the log failed: the process should end with status 3, and a restart recovers. Raises
        `RequestError` when the coordinator sent the participant away for good (FOREIGN_LOG, STALE_INCARNATION,
        VERSION_MISMATCH). A coordinator that is away ends nothing.
        """
        error = await asyncio.shield(self._running().ended)
        if error is not None:
            raise error

    async def wait_connected(self) -> None:
        """Return when there is a session, and the coordinator gives work to it from now on. Raises what `serve` raises."""
        runtime = self._running()
        waiting = asyncio.ensure_future(runtime.connected.wait())
        try:
            await asyncio.wait((waiting, runtime.ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if runtime.ended.done():
            raise runtime.ended.result() or not_running(self.name)

    @property
    def counters(self) -> EngineCounters:
        """Records, forced records, batches and syncs since the start."""
        return self._running().counters

    @property
    def health(self) -> Health:
        """How it is now, for probes; also before the start and after the end."""
        return Health(Condition.NEW) if self._runtime is None else self._runtime.health

    @property
    def findings(self) -> Mapping[str, Finding]:
        """What the invariants were found to be, by name; of those that this process has looked at."""
        return {} if self._watch is None else self._watch.findings

    @property
    def ages(self) -> Mapping[str, float]:
        """How many seconds ago each of them was found out last."""
        return {} if self._watch is None else self._watch.ages

    # ---- transactions

    def interceptors(self) -> list[TransactionInterceptor]:
        """For `grpc.aio.server(interceptors=...)`: gives `branch()` its transaction."""
        return [TransactionInterceptor(self.name)]

    def interceptors_sync(self) -> list[SyncTransactionInterceptor]:
        """The same for `grpc.server(...)`, whose handlers run in threads: gives `branch_sync()` its transaction."""
        return [SyncTransactionInterceptor(self.name)]

    def carry(self, http: Http) -> Http:
        """Make the calls of an `httpx.AsyncClient`, an `httpx.Client` or a `requests.Session` go on in the transaction of the
        handler that makes them, as `onward` does; returns the client."""
        from participant_sdk.frameworks.clients import carry

        return carry(http, around)

    def onward(self) -> list[grpc.aio.ClientInterceptor]:
        """For `grpc.aio.insecure_channel(address, interceptors=...)`: calls that a handler makes on it go on in its transaction.

        What the called service acknowledged, at any depth, is told to the client with this service's own, and a refusal that
        the handler lets out reaches the client with the participant and the code. Several calls may run in parallel. Outside
        of a transaction the calls pass unchanged. Read a stream of responses to its end: before that it has acknowledged nothing.
        """
        return onward_carriers()

    def onward_sync(self) -> list[SyncCarrier]:
        """The same for channels of the blocking API: `grpc.intercept_channel(channel, *participant.onward_sync())`.

        The thread that calls needs the handler's context; `asyncio.to_thread` carries it.
        """
        return onward_sync_carriers()

    def branch(self, context: common_pb2.TransactionContext | None = None) -> Branch:
        """The branch of the transaction in which the service was called, or of `context` when the service carries it itself.

        With `context` keep the branch for the whole call: its operations are numbered. Raises `RequestError` (NO_CONTEXT), and
        `Aborted` (COORDINATOR_AWAY) until a participant that was started again has reached its coordinator.
        """
        return self._branch(context, self._running)

    def _branch(self, context: common_pb2.TransactionContext | None, running: Callable[[], Runtime | Slots]) -> Branch:
        scope = current_scope() if context is None else Scope(context)
        if scope is None:
            raise RequestError(
                Reason.NO_CONTEXT,
                "the service was not called inside a transaction",
                hint="Give interceptors() to the server, use async handlers, and call with a transaction's channel.",
            )
        runtime = running()
        scope.votes_at_end(self.slot, runtime.incarnation, runtime.last_call, runtime.loop)
        return Branch(self.slot, runtime.incarnation, scope, self._call, self._registry.name_of, runtime.caller, self._pins)

    def branch_sync(self, context: common_pb2.TransactionContext | None = None) -> SyncBranch:
        """`branch()`, for a handler that runs in a thread and not in the participant's loop.

            with participant.branch_sync() as db:
                db.execute("UPDATE account SET ...")

        The thread needs the handler's context (`asyncio.to_thread` carries it), or gets the transaction's as an argument.
        """
        runtime = self._runtime
        if runtime is None:
            raise not_running(self.name)
        background.refuse_in_loop("branch_sync()", "async with branch()")
        return SyncBranch(self._branch(context, lambda: runtime), runtime.loop)

    def _call(self, scope: Scope, call_id: str, name: str, arguments: bytes) -> Awaitable[Any]:
        operation = common_pb2.Operation(name=name, arguments=self._registry.on_the_way(name, arguments), caller=scope.caller)
        context = scope.context
        keys = self._registry.keys([operation])
        undeclared = self._registry.undeclared([operation])
        answer = self._running().ask(
            lambda ticket: Call(
                ticket, context.transaction_id, call_id, context.first_attempt_ms, operation, keys, scope.tells, undeclared
            )
        )
        return answer if tracing.spans is None else self._traced(context, call_id, answer)

    async def _traced(self, context: common_pb2.TransactionContext, call_id: str, answer: Awaitable[Any]) -> Any:
        with call_under_way(self.slot, context, call_id):
            return await answer

    # ---- local work

    async def read(
        self, function: Callable[[Any], Value], *, locks: Sequence[LockKey] = (WHOLE_RESOURCE,), wait_seconds: float = 0.0
    ) -> Value:
        """Run a function on the resource that only reads, and return what it returned. It sees no undecided data.

        `locks` names what it reads, in the words of the operations' keys, and shares it with others who read; without keys it
        waits for every open branch, and with `NO_LOCKS` for none, and sees undecided rows. While it waits others wait behind
        it for a tenth of a second at a time only.
        `wait_seconds` is how long it is tried again while branches without an outcome are in the way; `math.inf` is for as long as
        it takes, which is what a service wants at its start. By default it is tried once, for `Limits.local_wait_seconds`.

        Raises what the function raised, `Aborted` (TIMEOUT) when the locks were not free in time, or `RequestError`
        (INVALID_ARGUMENT) when it is called in a transaction that holds them itself, and so would wait for its own end.
        """
        value: Value = await self._patiently(function, False, locks, wait_seconds)
        return value

    async def local(
        self, function: Callable[[Any], Value], *, locks: Sequence[LockKey] = (WHOLE_RESOURCE,), wait_seconds: float = 0.0
    ) -> Value:
        """Run a function on the resource in a local transaction, durably, and return what it returned.

        As `read`; when the function raises, nothing of it is kept. Rows of undecided branches cannot be changed: that is
        `Aborted` (CONFLICT), and within `wait_seconds` the function is called again.
        """
        value: Value = await self._patiently(function, True, locks, wait_seconds)
        return value

    async def _patiently(self, function: Callable[[Any], Any], write: bool, locks: Sequence[LockKey], wait_seconds: float) -> Any:
        runtime = self._running()
        keys, inside = keys_of_local_work(locks, reads=not write), transaction_here()
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        attempt = 0
        while True:
            try:
                return await runtime.ask(lambda ticket: LocalWork(ticket, function, write, keys, inside))
            except Aborted as aborted:
                if aborted.reason not in IN_THE_WAY:
                    raise
                delay = LOCAL_AGAIN.delay_seconds(attempt, self.name)
                if clock() + delay >= deadline:
                    hint = "Branches without an outcome are in the way: see `Participant.health`, or wait with wait_seconds=."
                    raise Aborted(aborted.reason, aborted.message, participant=self.name, hint=hint) from None
                await asyncio.sleep(delay)
                attempt += 1

    async def change_schema(self, statement: str) -> None:
        """Run SQL that changes the schema of a `SqliteResource`. Waits until nothing is undecided; nothing runs beside it."""
        from participant_sdk.resources.sqlite import SqliteResource, schema_change

        if not isinstance(self._setup.resource, SqliteResource):
            raise RequestError(Reason.INVALID_ARGUMENT, f"the resource of {self.name} has no schema to change")
        inside = transaction_here()
        await self._running().ask(lambda ticket: SchemaChange(ticket, schema_change(statement), statement, inside))

    def _running(self) -> Runtime | Slots:
        if self._runtime is None:
            raise not_running(self.name)
        self._runtime.check_place()
        return self._runtime
