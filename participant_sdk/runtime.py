"""What runs behind a `Participant`: engine, core, driver and session, wired together.

                      Work                          Send
      driver ◄──────────────── engine ◄──► core ────────────► session ◄──► coordinator
         └──── answers ───────►  ▲                                │
                                 └──────── frames as events ──────┘

It starts in the order that recovery needs (log, core, resource, identity; only then the session), and stops when the log
fails or the coordinator sends it away for good: `ended` says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import structlog

from participant_sdk.causes import cause_of, error_of
from participant_sdk.core.branches import Config
from participant_sdk.core.core import ParticipantCore
from participant_sdk.core.effects import LocalReply, Reply, ReportsComplete, Send, Started
from participant_sdk.core.events import (
    Call,
    Cancelled,
    Connected,
    Disconnected,
    FromCoordinator,
    LocalWork,
    PrepareReceived,
    SchemaChange,
    Start,
    Stop,
)
from participant_sdk.core.work import ResourceKind
from participant_sdk.drivers import Driver, Invoked
from participant_sdk.external import ExternalDriver
from participant_sdk.identity import IdentityLog, stale_epoch
from participant_sdk.registry import Registry
from participant_sdk.resources.contract import BoundResource
from participant_sdk.resources.log_only import LogResource
from participant_sdk.session import PROTOCOL, ROLE, Owner, Session
from troth import __version__
from troth.engine import Engine, EngineCounters
from troth.errors import ProtocolError, Reason, RequestError, TrothError
from troth.log.contract import Log
from troth.log.sqlite import SqliteLog
from troth.ready import Effect, Event
from troth.v1 import common_pb2, participant_pb2
from troth.values import decode_value

BATCH_MAX = 2048
"""Records of one batch, for a resource that names no number."""
FAREWELL_SECONDS = 1.0
"""How long the last frames may take when the participant stops."""

_log = structlog.get_logger("participant_sdk")


class SessionLike(Protocol):
    """A session, over gRPC or in memory; see `participant_sdk.session.Session`."""

    def send(self, stream: int, field: str, message: Any, *, patient: bool = False) -> None:
        """Put a message into the next frame; one that is `patient` lets that frame wait for others."""

    def send_reports_complete(self, stream: int) -> None:
        """Mark the end of the reports."""

    def drop(self, stream: int, error: TrothError) -> None:
        """End a stream; another attempt follows."""

    def end(self) -> None:
        """Write what waits, then let `run` return."""

    async def run(self) -> None:
        """Connect, and connect again. Raises the error of a Goodbye that is for good."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """How a participant reaches files and the coordinator; `participant_sdk.testing` has another one."""

    session: Callable[[str, str, Owner], SessionLike] = Session
    """Makes the session from the participant's name, the coordinator's address and the owner."""
    log: Callable[[Path, str], Log] = lambda path, name: SqliteLog(path, role=ROLE, name=name)
    """Makes a log in a file, for the participant of a name."""


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a participant was given."""

    name: str
    resource: Any
    data_directory: Path
    coordinator: str
    limits: dict[str, Any]
    wiring: Wiring


def kind_of(resource: BoundResource) -> ResourceKind:
    """Where a resource's work and outcomes live."""
    if resource.atomic:
        return ResourceKind.ATOMIC
    return resource.kind if isinstance(resource, LogResource) else ResourceKind.EXTERNAL


class Runtime:
    """One life of a participant: started once, stopped once."""

    def __init__(self, setup: Setup, registry: Registry) -> None:
        self._setup = setup
        self._registry = registry
        self._kind = kind_of(setup.resource)
        atomic = self._kind is ResourceKind.ATOMIC
        self._core = ParticipantCore(
            Config(participant=setup.name, resource=self._kind, keeps_identity=not atomic, **setup.limits)
        )
        log = setup.resource if atomic else self._file("participant.db")
        self._identity = IdentityLog(setup.name, self._file("identity.db")) if atomic else None
        self._engine = Engine(
            ROLE, self._core, log, self._perform, on_violation=self._violated,
            batch_max=getattr(setup.resource, "batch_max", BATCH_MAX),
        )  # fmt: skip
        self._driver = self._make_driver()
        self._performers = self._make_performers()
        self._session = setup.wiring.session(setup.name, setup.coordinator, self)
        self._log_id = ""
        self._tickets: set[asyncio.Future[Any]] = set()
        self._started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._supervisor: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()
        """Set while there is a session whose Hello the coordinator has heard to its end."""
        self.ended: asyncio.Future[TrothError | None] = asyncio.get_running_loop().create_future()
        """Why the participant does not serve any more; `None` when it was stopped."""

    def _file(self, name: str) -> Log:
        return self._setup.wiring.log(self._setup.data_directory / name, self._setup.name)

    def _make_driver(self) -> Driver | None:
        if self._kind is ResourceKind.ATOMIC:
            return None
        if isinstance(self._setup.resource, LogResource):
            return self._setup.resource.driver(self._engine.submit)
        return ExternalDriver(self._setup.name, self._setup.resource, self._engine.submit)

    # ---- life

    @property
    def counters(self) -> EngineCounters:
        """What the engine did."""
        return self._engine.counters

    @property
    def core(self) -> ParticipantCore:
        """The core, to look at."""
        return self._core

    async def start(self) -> None:
        """Recover, then begin to dial. Raises `LogError`, `ConfigError`; everything is closed again then."""
        try:
            await self._recover()
        except BaseException:
            await self._close()
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name=f"troth-participant-{self._setup.name}")

    async def stop(self) -> None:
        """Refuse new work, make durable what is under way, say the last words, release the files."""
        if self._supervisor is None:
            return
        if not self.ended.done():
            self.ended.set_result(None)
            self._engine.submit(Stop())
        await asyncio.shield(self._supervisor)

    async def crash(self) -> None:
        """End as a killed process does, as far as that can be done inside of one: nothing is said any more. For tests.

        What the engine had taken on may still reach the log; it might have been written a moment before the kill.
        """
        if self._supervisor is not None:
            if not self.ended.done():
                self.ended.set_result(RequestError(Reason.SHUTTING_DOWN, f"participant {self._setup.name} was crashed"))
            await asyncio.shield(self._supervisor)

    async def _recover(self) -> None:
        identity = await self._engine.start()
        self._log_id = identity.log_id
        if self._kind is ResourceKind.ATOMIC:
            # Before the engine writes anything: it has not had a turn yet.
            for transaction_id, rows in self._core.recovered_rows():
                self._setup.resource.recover_locks(transaction_id, rows)
        if self._identity is None:
            incarnation = self._core.incarnation_seen + 1
        else:
            await self._identity.start()
            incarnation = self._identity.incarnation
        if self._driver is not None:
            await self._driver.open(dict(self._core.resource_branches()))
        self._engine.submit(Start(incarnation))
        await asyncio.wait((self._started, self._engine.failed), return_when=asyncio.FIRST_COMPLETED)
        if self._engine.failed.done():
            raise self._engine.failed.result()
        _log.info("recovered", participant=self._setup.name, incarnation=incarnation)

    async def _supervise(self) -> None:
        """Wait for whatever ends the participant, then close everything."""
        session = asyncio.create_task(self._session.run(), name=f"troth-session-{self._setup.name}")
        await asyncio.wait((session, self._engine.failed, self.ended), return_when=asyncio.FIRST_COMPLETED)
        if not self.ended.done():
            self.ended.set_result(self._why_ended(session))
        error = self.ended.result()
        if error is not None:
            _log.critical("stopped", participant=self._setup.name, reason=error.reason.name, error=error.message, hint=error.hint)
        if error is None:
            await self._engine.stop()
            self._session.end()
            await asyncio.wait((session,), timeout=FAREWELL_SECONDS)
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)
        self._fail_tickets(error)
        await self._close()

    def _why_ended(self, session: asyncio.Task[None]) -> TrothError:
        if self._engine.failed.done():
            return self._engine.failed.result()
        error = session.exception()
        if isinstance(error, TrothError):
            return error
        _log.error("the session failed", participant=self._setup.name, exc_info=error)
        return RequestError(Reason.INTERNAL, f"the session failed: {type(error).__name__}")

    async def _close(self) -> None:
        if self._driver is not None:
            await self._driver.close()
        await self._engine.stop()
        if self._identity is not None:
            await self._identity.close()

    # ---- callers

    async def ask(self, make_event: Callable[[asyncio.Future[Any]], Call | LocalWork | SchemaChange]) -> Any:
        """Submit an event with a ticket, and wait for its answer. Whoever is cancelled only stops waiting."""
        if self.ended.done():
            raise self.ended.result() or not_running(self._setup.name)
        ticket: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._tickets.add(ticket)
        try:
            self._engine.submit(make_event(ticket))
            return await ticket
        except asyncio.CancelledError:
            self._engine.submit(Cancelled(ticket))
            raise
        finally:
            self._tickets.discard(ticket)

    def _fail_tickets(self, error: TrothError | None) -> None:
        for ticket in list(self._tickets):
            if not ticket.done():
                ticket.set_exception(error or not_running(self._setup.name))

    # ---- what the engine calls

    def _perform(self, effect: Effect) -> None:
        self._performers[type(effect)](effect)

    def _make_performers(self) -> dict[type, Callable[[Any], None]]:
        """Who carries out what. An atomic resource is never asked for work: it is the log."""
        asked = {} if self._driver is None else dict.fromkeys(get_args(Invoked), self._driver.invoke)
        return {
            Send: self._send,
            Reply: lambda e: _answer(e.ticket, e.result, _error(e.cause, None), decode=True),
            LocalReply: lambda e: _answer(e.ticket, e.value, _error(e.cause, e.error)),
            ReportsComplete: lambda e: self._session.send_reports_complete(e.stream),
            Started: lambda e: self._started.set_result(e.incarnation),
            **asked,
        }

    def _send(self, effect: Send) -> None:
        self._session.send(effect.stream, effect.field, effect.message, patient=effect.patient)

    def _violated(self, event: Event, error: ProtocolError) -> None:
        _log.warning("protocol error", participant=self._setup.name, event_kind=type(event).__name__, error=str(error))
        if isinstance(event, Connected):
            self._session.drop(event.stream, error)
        elif isinstance(event, Call | LocalWork | SchemaChange):
            _answer(event.ticket, None, error)

    # ---- what the session calls

    def hello(self) -> participant_pb2.Hello:
        """See `Owner`."""
        return participant_pb2.Hello(
            protocol=PROTOCOL,
            participant=self._setup.name,
            log_id=self._log_id,
            incarnation=self._started.result(),
            software=f"troth-python/{__version__}",
            operations=self._registry.names(),
        )

    async def accept(self, welcome: participant_pb2.Welcome) -> None:
        """See `Owner`. Without an identity log the core keeps the epochs."""
        if self._identity is not None:
            await self._identity.see(welcome.coordinator, welcome.epoch)
        elif welcome.epoch < (seen := self._core.epoch_seen(welcome.coordinator)):
            raise stale_epoch(welcome.coordinator, welcome.epoch, seen)

    def opened(self, stream: int, welcome: participant_pb2.Welcome) -> None:
        """See `Owner`."""
        self._engine.submit(Connected(stream, welcome.coordinator, welcome.epoch))
        _log.info("connected", participant=self._setup.name, coordinator=welcome.coordinator, epoch=welcome.epoch)

    def closed(self, stream: int) -> None:
        """See `Owner`."""
        self.connected.clear()
        self._engine.submit(Disconnected(stream))

    def backlog(self) -> int:
        """See `Owner`."""
        return self._engine.backlog()

    def received(self, stream: int, frame: participant_pb2.SessionResponse) -> None:
        """See `Owner`. Fields are handled in the order of their numbers."""
        # Sliced to lists: the end of a loop over protobuf's own container is an exception, even when it is empty.
        events: list[Event] = [FromCoordinator(stream, message) for message in frame.enlisted[:]]
        events += [self._prepare_received(stream, message) for message in frame.prepares[:]]
        events += [FromCoordinator(stream, message) for message in frame.decisions[:]]
        events += [FromCoordinator(stream, message) for message in frame.settles[:]]
        if frame.HasField("watermark"):
            events.append(FromCoordinator(stream, frame.watermark))
            self.connected.set()
        events += [FromCoordinator(stream, message) for message in frame.forces[:]]
        self._engine.submit_all(events)

    def _prepare_received(self, stream: int, message: participant_pb2.Prepare) -> PrepareReceived:
        operations = message.operations[:]
        try:
            return PrepareReceived(stream, message, operations, self._registry.keys(operations))
        except RequestError as error:
            return PrepareReceived(stream, message, operations, refusal=cause_of(error, self._setup.name))


def not_running(name: str) -> RequestError:
    """The participant has not started, or has stopped."""
    return RequestError(Reason.SHUTTING_DOWN, f"participant {name} does not run")


def _error(cause: common_pb2.Cause | None, error: BaseException | None) -> BaseException | None:
    return error_of(cause) if cause is not None else error


def _answer(ticket: asyncio.Future[Any], value: Any, error: BaseException | None, *, decode: bool = False) -> None:
    """Answer a caller, unless it is gone."""
    if ticket.done():
        return
    if error is not None:
        ticket.set_exception(error)
    else:
        ticket.set_result(decode_value(value) if decode else value)
