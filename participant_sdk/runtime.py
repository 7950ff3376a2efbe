"""What runs behind a `Participant`: engine, core, driver and session, wired together.

                      Work                          Send
      driver ◄──────────────── engine ◄──► core ────────────► session ◄──► coordinator
         └──── answers ───────►  ▲                                │
                                 └──────── frames as events ──────┘

It starts in the order that recovery needs (log, core, resource, identity; only then the session), and stops when the log
fails or the coordinator sends it away for good: `ended` says why.

An incarnation begins when a coordinator would let it in, not before: the first Hello of a process only asks. So a start that is
refused, for its log was put back or is another, leaves that as it was, and a supervisor may repeat it as often as it likes.
(A log that never had an incarnation begins its first one at once: there is nothing in it that could be changed.)
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, get_args

from participant_sdk.border import Raised, answer, called
from participant_sdk.callers import Callers
from participant_sdk.causes import cause_of, error_in, error_of, not_running
from participant_sdk.core.branches import Config, State
from participant_sdk.core.core import ParticipantCore
from participant_sdk.core.effects import EarlyVoted, LocalReply, Reply, ReportsComplete, Send, Started, UndeclaredWait
from participant_sdk.core.events import (
    Call,
    Cancelled,
    Connected,
    Disconnected,
    FromCoordinator,
    LastCall,
    LocalWork,
    PrepareReceived,
    SchemaChange,
    Start,
    Stop,
)
from participant_sdk.core.work import WHOLE, ResourceKind
from participant_sdk.drivers import Driver, Invoked
from participant_sdk.external import ExternalDriver
from participant_sdk.health import Condition, Health
from participant_sdk.identity import IdentityLog
from participant_sdk.lock_keys import tell_undeclared
from participant_sdk.registry import Registry
from participant_sdk.resources.log_only import LogResource
from participant_sdk.session import PROTOCOL, ROLE
from participant_sdk.tracing import BranchSpans
from participant_sdk.wiring import Setup, kind_of
from troth import __version__, features, forks, tracing
from troth.cell import coordinator_of
from troth.engine import Engine, EngineCounters
from troth.errors import Aborted, ProtocolError, Reason, RemoteProtocolError, RequestError, TrothError
from troth.log.contract import Log
from troth.logs import get_logger
from troth.quiet import Quiet
from troth.ready import Effect, Event
from troth.seals import sealed
from troth.v1 import common_pb2, participant_pb2, record_pb2

BATCH_MAX = 2048
"""Records of one batch, for a resource that names no number."""
FAREWELL_SECONDS = 1.0
"""How long the last frames may take when the participant stops."""

_log = get_logger("participant_sdk")


class Runtime:
    """One life of a participant: started once, stopped once."""

    def __init__(self, setup: Setup, registry: Registry) -> None:
        self._setup = setup
        self._registry = registry
        self._kind = kind_of(setup.resource)
        atomic = self._kind is ResourceKind.ATOMIC
        self._core = ParticipantCore(Config(participant=setup.name, resource=self._kind, keeps_identity=not atomic, **setup.limits))
        log = setup.resource if atomic else setup.log() if setup.log is not None else self._file("participant.db")
        self._nonce = secrets.token_hex(8)
        self._identity = IdentityLog(setup.name, self._file("identity.db"), self._nonce) if atomic else None
        self._engine = Engine(
            ROLE, self._core, log, self._perform, on_violation=self._violated,
            batch_max=getattr(setup.resource, "batch_max", BATCH_MAX), keyring=setup.keyring,
        )  # fmt: skip
        self._driver = self._make_driver()
        self._performers = self._make_performers()
        self._session = setup.wiring.session(setup.name, setup.coordinator, self)
        self._callers = Callers(setup.name, lambda stream, question: self._session.send(stream, "callers", question))
        self.caller = self._callers.of
        self._log_id = ""
        self._opened_at = 0
        """The position of the log with the branches when this process opened it."""
        self._loop = asyncio.get_running_loop()
        self._generation, self._quiet = forks.generation(), Quiet()
        self._spans = BranchSpans(setup.name)
        self._tickets: set[asyncio.Future[Any]] = set()
        self._started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._beginning = asyncio.Lock()
        """Held while the incarnation begins: it may be welcome in several places at once."""
        self._supervisor: asyncio.Task[None] | None = None
        self._seals: dict[str, tuple[str, bytes]] = {}
        """Of each coordinator what the ids of its present life begin with, and the key for early votes on them."""
        self._heard_out: set[int] = set()
        """Streams whose Hello the coordinator has heard to its end."""
        self.connected = asyncio.Event()
        """Set once there is such a stream with every shard, until there is none."""
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
    def name(self) -> str:
        """The participant's name, or its slot's."""
        return self._setup.name

    @property
    def _owner(self) -> str:
        """Which process has a slot, for operators."""
        return f" {socket.gethostname()}/{os.getpid()}" if self._setup.log is not None else ""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it runs in."""
        return self._loop

    @property
    def counters(self) -> EngineCounters:
        """What the engine did."""
        return self._engine.counters

    @property
    def core(self) -> ParticipantCore:
        """The core, to look at."""
        return self._core

    @property
    def incarnation(self) -> int:
        """Of this life. One that was started before asks its coordinator before it begins the next one, and until then has none:
        raises `Aborted` (COORDINATOR_AWAY)."""
        if not self._started.done():
            message = f"{self._setup.name} has not reached its coordinator since it started"
            raise Aborted(Reason.COORDINATOR_AWAY, message, participant=self._setup.name, retryable=True)
        return self._started.result()

    async def start(self) -> None:
        """Recover, then begin to dial. Raises `LogError`, `ConfigError`; everything is closed again then."""
        forks.check_channels()
        try:
            await self._recover()
        except BaseException:
            await self._close()
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name=f"troth-participant-{self._setup.name}")

    async def stop(self) -> None:
        """Refuse new work, make durable what is under way, say the last words, release the files."""
        if self._supervisor is None or forks.generation() != self._generation:
            return  # in a forked child everything is its parent's
        if not self.ended.done():
            self.ended.set_result(None)
            self._engine.submit(Stop())
        await asyncio.wait((self._supervisor,))
        self._supervisor.result()

    async def crash(self) -> None:
        """End as a killed process does, as far as that can be done inside of one: nothing is said any more. For tests.

        What the engine had taken on may still reach the log; it might have been written a moment before the kill.
        """
        if self._supervisor is not None:
            if not self.ended.done():
                self.ended.set_result(RequestError(Reason.SHUTTING_DOWN, f"participant {self._setup.name} was crashed"))
            await asyncio.wait((self._supervisor,))

    async def _recover(self) -> None:
        identity = await self._engine.start()
        self._log_id = identity.log_id
        if self._kind is ResourceKind.ATOMIC:
            # Before the engine writes anything: it has not had a turn yet.
            for transaction_id, rows in self._core.recovered_rows():
                self._setup.resource.recover_locks(transaction_id, rows)
        self._opened_at = self._engine.position
        if self._identity is not None:
            await self._identity.open()
        if self._driver is not None:
            await self._driver.open(dict(self._core.resource_branches()))
        if self._last_incarnation == 0:
            await self._begin()
        if tracing.spans is not None:
            self._spans.recovered(self._core.in_doubt())
        _log.info("recovered", participant=self._setup.name)

    @property
    def _last_incarnation(self) -> int:
        return self._core.incarnation_seen if self._identity is None else self._identity.incarnation

    async def _begin(self) -> None:
        """Begin the next incarnation, durably, once all unprepared work is undone. Raises `LogError`."""
        if self._identity is not None:
            await self._identity.begin(self._opened_at)
            incarnation = self._identity.incarnation
        else:
            incarnation = self._core.incarnation_seen + 1
        self._engine.submit(Start(incarnation, self._nonce))
        await asyncio.wait((self._started, self._engine.failed), return_when=asyncio.FIRST_COMPLETED)
        if self._engine.failed.done():
            raise self._engine.failed.result()
        _log.info("began", participant=self._setup.name, incarnation=incarnation)

    async def _supervise(self) -> None:
        """Wait for whatever ends the participant, then close everything."""
        session = asyncio.create_task(self._session.run(), name=f"troth-session-{self._setup.name}")
        try:
            await self._until_ended(session)
        except asyncio.CancelledError:
            if forks.generation() != self._generation:
                return  # a forked child that unwinds: all of this is its parent's
            # Whoever cancels all tasks of a loop cancels this one too; what is left then must not look alive.
            self._ended_by(RequestError(Reason.SHUTTING_DOWN, f"the tasks of participant {self._setup.name} were cancelled"))
        finally:
            if forks.generation() == self._generation:
                session.cancel()
                await asyncio.gather(session, return_exceptions=True)
                self._fail_tickets(self.ended.result() if self.ended.done() else None)
                await self._close()

    async def _until_ended(self, session: asyncio.Task[None]) -> None:
        await asyncio.wait((session, self._engine.failed, self.ended), return_when=asyncio.FIRST_COMPLETED)
        if not self.ended.done():
            self._fail(self._why_ended(session))
        if self.ended.result() is None:
            await self._engine.stop()
            self._session.end()
            await asyncio.wait((session,), timeout=FAREWELL_SECONDS)

    def _fail(self, error: TrothError) -> None:
        self._ended_by(error)
        if self._setup.on_failure is not None:
            result = called(self._setup.on_failure, error)
            if type(result) is Raised:
                _log.error("on_failure failed", participant=self._setup.name, exc_info=result.error)

    def _ended_by(self, error: TrothError) -> None:
        """The participant does not serve any more, and nobody asked for that."""
        if not self.ended.done():
            self.ended.set_result(error)
            _log.critical("stopped", participant=self._setup.name, reason=error.reason.name, error=error.message, hint=error.hint)

    def _why_ended(self, session: asyncio.Task[None]) -> TrothError:
        if self._engine.failed.done():
            return self._engine.failed.result()
        error = None if session.cancelled() else session.exception()
        if isinstance(error, TrothError):
            return error
        _log.error("the session failed", participant=self._setup.name, exc_info=error)
        return RequestError(Reason.INTERNAL, f"the session failed: {type(error).__name__}")

    async def _close(self) -> None:
        async with AsyncExitStack() as stack:  # each is closed, also when one before it fails
            if self._identity is not None:
                stack.push_async_callback(self._identity.close)
            stack.callback(self._spans.stop)
            stack.push_async_callback(self._engine.stop)
            if self._driver is not None:
                stack.push_async_callback(self._driver.close)

    # ---- callers

    @property
    def health(self) -> Health:
        """How the participant is."""
        states = [state for _, state in self._core.states()]
        error = self.ended.result() if self.ended.done() else None
        if error is not None:
            condition = Condition.FAILED
        elif self.ended.done():
            condition = Condition.STOPPED
        else:
            condition = Condition.CONNECTED if self.connected.is_set() else Condition.AWAY
        in_doubt = sum(state is State.PREPARED for state in states)
        return Health(condition, error, len(states), in_doubt, *self._core.lock_counts())

    @property
    def resource(self) -> Any:
        """What it changes."""
        return self._setup.resource

    @property
    def heard_out(self) -> frozenset[int]:
        """The streams whose Hello was heard to its end."""
        return frozenset(self._heard_out)

    def tell(self, stream: int, field: str, message: Any) -> None:
        """Tell a coordinator something that only people read."""
        self._session.send(stream, field, message, patient=True)

    async def is_first(self) -> bool:
        """See `Slots`; without slots it is the only one."""
        return True

    def check_place(self) -> None:
        """Raise `RequestError` outside of the process and the event loop in which the participant was started."""
        name = self._setup.name
        if forks.generation() != self._generation:
            raise RequestError(
                Reason.INVALID_ARGUMENT,
                f"participant {name} was started before the process was forked, and belongs to the parent",
                hint="Start the participant in one process, after the fork: its files belong to that process.",
            )
        if asyncio._get_running_loop() is not self._loop:
            raise RequestError(
                Reason.INVALID_ARGUMENT,
                f"participant {name} was started in another event loop",
                hint="Call it in the loop in which it was started, for example through asyncio.run_coroutine_threadsafe.",
            )

    async def last_call(self, transaction_id: str) -> common_pb2.SealedVote | None:
        """Prepare the branch of a transaction whose client calls this service no more, and vote. `None`: the commit has to ask."""
        life, key = self._seals.get(coordinator_of(transaction_id), ("", b""))
        if not key or not transaction_id.startswith(life):
            return None
        voted, position = await self.ask(lambda ticket: LastCall(ticket, transaction_id))
        if not voted.operation_count:
            return None
        vote = participant_pb2.EarlyVote(
            transaction_id=transaction_id, incarnation=voted.incarnation, operation_count=voted.operation_count, position=position
        )
        return sealed(key, vote)

    async def ask(self, make_event: Callable[[asyncio.Future[Any]], Call | LastCall | LocalWork | SchemaChange]) -> Any:
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
            Reply: self._reply,
            EarlyVoted: lambda e: answer(e.ticket, (e, self._engine.position), None),
            LocalReply: lambda e: answer(e.ticket, e.value, error_in(e.cause, e.error)),
            ReportsComplete: lambda e: self._session.send_reports_complete(e.stream),
            UndeclaredWait: lambda e: tell_undeclared(self._setup.name, e.operation),
            Started: lambda e: self._started.set_result(e.incarnation),
            **asked,
        }

    def _send(self, effect: Send) -> None:
        if effect.field == "inquiries" and isinstance(self._driver, ExternalDriver):
            self._driver.asking(effect.message)
        if tracing.spans is not None and (tell := self._spans.going.get(effect.field)) is not None:
            tell(effect.message)
        self._session.send(effect.stream, effect.field, effect.message, patient=effect.patient)

    def _reply(self, effect: Reply) -> None:
        value, error = self._registry.result(effect.result) if effect.cause is None else (None, error_of(effect.cause))
        answer(effect.ticket, value, error)

    def _violated(self, event: Event, error: ProtocolError) -> None:
        kind = type(event).__name__
        self._quiet.tell(_log.warning, "protocol error", participant=self._setup.name, event_kind=kind, error=str(error))
        if isinstance(event, Connected):
            self._session.drop(event.stream, error)
        elif isinstance(event, Call | LastCall | LocalWork | SchemaChange):
            answer(event.ticket, None, error)

    # ---- what the session calls

    def hello(self) -> participant_pb2.Hello:
        """See `Owner`."""
        begun = self._started.done()
        keeper = self._identity or self._core
        if self._identity is not None:
            keeper.coordinators.join(self._core.coordinators)
        return participant_pb2.Hello(
            protocol=PROTOCOL,
            participant=self._setup.name,
            log_id=self._log_id,
            asks=not begun,
            incarnation=self._started.result() if begun else self._last_incarnation + 1,
            nonce=self._nonce if begun else "",
            heard=keeper.coordinators.heard(),
            starts=keeper.starts.known,
            starts_after=keeper.starts.after,
            software=f"troth-python/{__version__}{self._owner}",
            capabilities=["directory", *sorted(features.SPOKEN)],
            operations=self._registry.names(),
            loosely_coupled=self._setup.loosely_coupled,
        )

    def position(self) -> int:
        """See `Owner`."""
        return self._engine.position

    async def accept(self, welcome: participant_pb2.Welcome, position: int) -> bool:
        """See `Owner`. Without an identity log the core keeps the epochs."""
        if welcome.heard > self._engine.position:
            text = f"{welcome.coordinator} has heard our log to position {welcome.heard}, and it is at {self._engine.position}"
            raise RemoteProtocolError(text, reason=Reason.LOG_WENT_BACK)
        said = record_pb2.EpochSeen(
            coordinator=welcome.coordinator, epoch=welcome.epoch, log_id=welcome.log_id, nonce=welcome.nonce, position=position
        )
        if not self._started.done():
            (self._identity or self._core).coordinators.check(said)
            async with self._beginning:
                if not self._started.done():
                    await self._begin()
            return False
        if self._identity is not None:
            await self._identity.see(said)
        else:
            self._core.coordinators.check(said)
        return True

    def opened(self, stream: int, welcome: participant_pb2.Welcome, position: int) -> None:
        """See `Owner`."""
        life = (welcome.coordinator, welcome.epoch, welcome.log_id, welcome.nonce)
        self._seals[welcome.coordinator] = (f"{welcome.coordinator}.{welcome.epoch}.{welcome.nonce}.", welcome.seal_key)
        self._callers.opened(welcome.coordinator, stream, answers=features.CALLERS in welcome.capabilities)
        self._engine.submit(Connected(stream, *life, cell=self._session.cell, position=position))
        _log.info("connected", participant=self._setup.name, coordinator=welcome.coordinator, epoch=welcome.epoch)

    def closed(self, stream: int) -> None:
        """See `Owner`."""
        self._heard_out.discard(stream)
        self._callers.closed(stream)
        if not self._heard_out:
            self.connected.clear()
        self._engine.submit(Disconnected(stream))

    def backlog(self) -> int:
        """See `Owner`."""
        return self._engine.backlog()

    def received(self, stream: int, frame: participant_pb2.SessionResponse) -> None:
        """See `Owner`. What ends work comes before what begins some: that may need the locks."""
        # Sliced to lists: the end of a loop over protobuf's own container is an exception, even when it is empty.
        position, decisions, prepares = frame.position, frame.decisions[:], frame.prepares[:]
        if tracing.spans is not None:
            self._spans.came(decisions, prepares)
        events: list[Event] = [FromCoordinator(stream, message, position) for message in decisions]
        events += [FromCoordinator(stream, message, position) for message in frame.settles[:]]
        events += [FromCoordinator(stream, message, position) for message in frame.enlisted[:]]
        events += [self._prepare_received(stream, message, position) for message in prepares]
        if frame.HasField("watermark"):
            events.append(FromCoordinator(stream, frame.watermark, position))
            self._heard_out.add(stream)
            if len(self._heard_out) >= len(self._session.cell):
                self.connected.set()
        events += [FromCoordinator(stream, message, position) for message in frame.forces[:]]
        self._engine.submit_all(events)
        for told in frame.callers[:]:
            self._callers.heard(told)

    def _prepare_received(self, stream: int, message: participant_pb2.Prepare, position: int) -> PrepareReceived:
        operations = message.operations[:]
        try:
            keys = self._registry.keys(operations)
            undeclared = self._registry.undeclared(operations) if keys == WHOLE else ()
            return PrepareReceived(stream, message, operations, keys, position=position, undeclared=undeclared)
        except RequestError as error:
            return PrepareReceived(stream, message, operations, refusal=cause_of(error, self._setup.name), position=position)
