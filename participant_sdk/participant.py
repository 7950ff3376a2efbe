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
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from participant_sdk.branch import Branch
from participant_sdk.context import Scope, TransactionInterceptor, current_scope
from participant_sdk.core.events import Call, LocalWork, SchemaChange
from participant_sdk.registry import WHOLE_RESOURCE, Locks, Registry
from participant_sdk.resources.contract import AtomicResource, Resource
from participant_sdk.resources.log_only import LogResource
from participant_sdk.runtime import Runtime, Setup, Wiring, not_running
from troth.engine import EngineCounters
from troth.errors import ConfigError, Reason, RequestError
from troth.ids import check_name
from troth.v1 import common_pb2

Function = TypeVar("Function", bound=Callable[..., Any])
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a participant takes on, and how long things wait in it."""

    open_branches_max: int = 100_000
    """Branches that are not finished; a further one is refused as OVERLOADED."""
    calls_waiting_max: int = 10_000
    """Interactive calls that have not been answered; a further one is OVERLOADED."""
    operations_max: int = 10_000
    """Calls of one branch."""
    lock_wait_seconds: float = 2.0
    """Longest wait of a branch for locks; then it is a CONFLICT, and the client tries again."""
    local_wait_seconds: float = 10.0
    """Longest wait of `read` and `local` for locks; then it is a TIMEOUT."""
    enlist_wait_seconds: float = 5.0
    """Longest wait of a call for the coordinator's acceptance; then it is COORDINATOR_AWAY."""


class Participant:
    """A named service with one resource.

    `name`            as the coordinator knows it: a-z, 0-9, '-' and '_'.
    `resource`        a `SqliteResource`, a `LogResource`, or anything with the contract of `resources.contract`.
    `data_directory`  for the SDK's own log; made when it is not there, and never shared.
    `coordinator`     HOST:PORT.

    Raises `ConfigError` when any of these cannot be.
    """

    def __init__(
        self,
        name: str,
        *,
        resource: AtomicResource | Resource | LogResource,
        data_directory: str | Path,
        coordinator: str,
        limits: Limits | None = None,
        wiring: Wiring | None = None,
    ) -> None:
        try:
            check_name("participant", name)
        except RequestError as error:
            raise ConfigError(error.message) from None
        if not coordinator:
            raise ConfigError("the coordinator's address is empty", hint="Pass coordinator='HOST:PORT'.")
        self._setup = Setup(
            name, resource, Path(data_directory), coordinator, asdict(limits or Limits()), wiring or Wiring()
        )
        self._registry = Registry(async_reason=resource.async_reason)
        self._runtime: Runtime | None = None
        resource.bind(name, self._registry)

    @property
    def name(self) -> str:
        """The participant's name."""
        return self._setup.name

    # ---- operations

    @overload
    def operation(self, function: Function, /) -> Function: ...

    @overload
    def operation(self, /, *, locks: Locks | None = None, name: str = "") -> Callable[[Function], Function]: ...

    def operation(self, function: Any = None, /, *, locks: Locks | None = None, name: str = "") -> Any:
        """Register a function as an operation; use it as a decorator, with or without arguments.

        `locks`  what the operation *reads* and must not change before the outcome: a function of the operation's arguments
                 (by name, any of them) that returns keys, or a list of keys. Rows that it changes are locked anyway. Without
                 it the whole resource is locked, which is always right and never fast. The function must leave the arguments
                 as they are: the operation gets the same objects.
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

    # ---- life

    async def start(self) -> None:
        """Open the log, recover, and begin to connect. Raises `LogError`, `ConfigError`. Started once."""
        if self._runtime is not None:
            raise ConfigError(f"participant {self.name} was started before", hint="Make a new Participant.")
        self._registry.close()
        runtime = Runtime(self._setup, self._registry)
        await runtime.start()
        self._runtime = runtime

    async def close(self) -> None:
        """Refuse new work, make durable what is under way, disconnect. What is in doubt is taken up at the next start."""
        if self._runtime is not None:
            await self._runtime.stop()

    def rewire(self, wiring: Wiring) -> None:
        """Reach files and the coordinator in another way; before the start. For `participant_sdk.testing`."""
        assert self._runtime is None, "the participant was started before"
        self._setup = replace(self._setup, wiring=wiring)

    async def crash(self) -> None:
        """End as a killed process does: nothing is said any more. For tests; see `participant_sdk.testing.cluster`."""
        if self._runtime is not None:
            await self._runtime.crash()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Whoever is cancelled while this runs still gets a closed log.
        await asyncio.shield(self.close())

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

    # ---- transactions

    def interceptors(self) -> list[TransactionInterceptor]:
        """For `grpc.aio.server(interceptors=...)`: gives `branch()` its transaction."""
        return [TransactionInterceptor()]

    def branch(self, context: common_pb2.TransactionContext | None = None) -> Branch:
        """The branch of the transaction in which the service was called, or of `context` when the service carries it itself.

        With `context` keep the branch for the whole call: its operations are numbered. Raises `RequestError` (NO_CONTEXT).
        """
        scope = current_scope() if context is None else Scope(context)
        if scope is None:
            raise RequestError(
                Reason.NO_CONTEXT,
                "the service was not called inside a transaction",
                hint="Give interceptors() to the server, use async handlers, and call with a transaction's channel.",
            )
        return Branch(self._setup.name, scope, self._call, self._registry.name_of)

    def _call(self, scope: Scope, call_id: str, name: str, arguments: bytes) -> Awaitable[Any]:
        operation = common_pb2.Operation(name=name, arguments=arguments)
        context = scope.context
        keys = self._registry.keys([operation])
        return self._running().ask(
            lambda ticket: Call(ticket, context.transaction_id, call_id, context.first_attempt_ms, operation, keys)
        )

    # ---- local work

    async def read(self, function: Callable[[Any], Value], *, locks: Sequence[str] = (WHOLE_RESOURCE,)) -> Value:
        """Run a function on the resource that only reads, and return what it returned. It sees no undecided data.

        `locks` names what it reads, in the words of the operations' keys; without it, it waits for every open branch.
        Raises what the function raised, or `Aborted` (TIMEOUT) when the locks were not free in time.
        """
        value: Value = await self._running().ask(lambda ticket: LocalWork(ticket, function, False, tuple(locks)))
        return value

    async def local(self, function: Callable[[Any], Value], *, locks: Sequence[str] = (WHOLE_RESOURCE,)) -> Value:
        """Run a function on the resource in a local transaction, durably, and return what it returned.

        As `read`; when the function raises, nothing of it is kept. Rows of undecided branches cannot be changed
        (`Aborted` with CONFLICT).
        """
        value: Value = await self._running().ask(lambda ticket: LocalWork(ticket, function, True, tuple(locks)))
        return value

    async def change_schema(self, statement: str) -> None:
        """Run SQL that changes the schema of a `SqliteResource`. Waits until nothing is undecided; nothing runs beside it."""
        from participant_sdk.resources.sqlite import SqliteResource, schema_change

        if not isinstance(self._setup.resource, SqliteResource):
            raise RequestError(Reason.INVALID_ARGUMENT, f"the resource of {self.name} has no schema to change")
        await self._running().ask(lambda ticket: SchemaChange(ticket, schema_change(statement), statement))

    def _running(self) -> Runtime:
        if self._runtime is None:
            raise not_running(self.name)
        return self._runtime
