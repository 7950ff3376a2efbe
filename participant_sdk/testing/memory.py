"""A real coordinator's core on a log in memory, and links to it that are function calls.

The coordinator's package must be installed beside the SDK (the extra `troth[coordinator]` brings nothing that is needed
here). This is the only place of the SDK that imports it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from coordinator.core import effects, events
from coordinator.core.core import CoordinatorCore
from coordinator.core.settings import CoreSettings
from participant_sdk.causes import error_of
from participant_sdk.session import Owner
from troth.engine import Engine
from troth.errors import ProtocolError, Reason, RequestError, TrothError
from troth.log.contract import Log
from troth.log.memory import Disk, MemoryLog
from troth.ready import Effect
from troth.v1 import client_pb2, common_pb2, participant_pb2

NAME = "coordinator"
SETTINGS = CoreSettings(resend_first_seconds=0.05, resend_cap_seconds=1.0, watermark_interval_seconds=0.05)
"""A test does not wait as long as production does."""

M = TypeVar("M", bound=Message)


class Gone(Exception):
    """The coordinator went away before it answered."""


class MemorySession:
    """A participant's session with a `MemoryCoordinator`; see `participant_sdk.runtime.SessionLike`."""

    def __init__(self, name: str, owner: Owner, coordinator: MemoryCoordinator) -> None:
        self.name = name
        self._owner = owner
        self._coordinator = coordinator
        self._stream = 0
        self._number = 0
        self._greeting: asyncio.Future[participant_pb2.Welcome] = asyncio.get_running_loop().create_future()
        self._lost = asyncio.Event()
        self._ending = asyncio.Event()
        self._held: list[participant_pb2.SessionResponse] | None = []

    # ---- what the participant uses

    def send(self, stream: int, field: str, message: Any, *, patient: bool = False) -> None:
        """Give a message to the coordinator, unless the stream is gone."""
        if self._number and stream == self._stream:
            self._coordinator.hear(self.name, self._number, field, _copy(message))

    def send_reports_complete(self, stream: int) -> None:
        """Mark the end of the reports."""
        if self._number and stream == self._stream:
            self._coordinator.submit(events.ReportsReceived(self.name, self._number, [], True))

    def drop(self, stream: int, error: TrothError) -> None:
        """End a stream; another attempt follows."""
        if stream == self._stream:
            self._lost.set()

    def end(self) -> None:
        """Let `run` return."""
        self._ending.set()
        self._lost.set()

    async def run(self) -> None:
        """Connect, and connect again."""
        while not self._ending.is_set():
            await self._coordinator.up.wait()
            self._stream += 1
            self._lost.clear()
            self._held = []
            self._greeting = asyncio.get_running_loop().create_future()
            self._number = self._coordinator.attach(self, self._owner.hello())
            try:
                await self._live()
            except (Gone, ProtocolError):
                await asyncio.sleep(0)
            finally:
                self._coordinator.detach(self._number, self.name)
                self._number = 0

    async def _live(self) -> None:
        welcome = await self._greeting
        await self._owner.accept(welcome)
        self._owner.opened(self._stream, welcome)
        held, self._held = self._held or [], None
        for frame in held:
            self._owner.received(self._stream, frame)
        try:
            await self._lost.wait()
        finally:
            self._owner.closed(self._stream)

    # ---- what the coordinator uses

    def welcome(self, welcome: participant_pb2.Welcome) -> None:
        """Welcome came."""
        if not self._greeting.done():
            self._greeting.set_result(welcome)

    def reject(self, error: TrothError) -> None:
        """Goodbye came: `run` ends with its error."""
        if not self._greeting.done():
            self._greeting.set_exception(error)
        self._lost.set()

    def deliver(self, **fields: Any) -> None:
        """A frame came."""
        frame = participant_pb2.SessionResponse(**fields)
        if self._held is not None:
            self._held.append(frame)
        else:
            self._owner.received(self._stream, frame)

    def lose(self) -> None:
        """The coordinator is gone."""
        if not self._greeting.done():
            self._greeting.set_exception(Gone())
        self._lost.set()


class MemoryCoordinator:
    """The coordinator of a cluster. Its disk outlives its crashes."""

    def __init__(self, settings: CoreSettings = SETTINGS) -> None:
        self._settings = settings
        self._disk = Disk()
        self._sessions: dict[int, MemorySession] = {}
        self._last_stream = 0
        self._last_number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._life = 0
        self._core: CoordinatorCore | None = None
        self._engine: Engine | None = None
        self._nonce = ""
        self.up = asyncio.Event()
        """Set while it serves."""

    # ---- life

    async def start(self) -> None:
        """Recover and serve, as the next epoch."""
        self._life += 1
        self._nonce = secrets.token_hex(8)
        self._core = CoordinatorCore(self._settings, NAME, self._nonce)
        self._engine = Engine("coordinator", self._core, self.make_log(), self._performer(self._life))
        await self._engine.start()
        self.up.set()

    def make_log(self) -> Log:
        """The log of the next life; a subclass may have it in a file."""
        return MemoryLog(self._disk, role="coordinator", name=NAME)

    @property
    def failed(self) -> asyncio.Future[TrothError]:
        """Gets the error when the engine fails. Valid while it is up."""
        assert self._engine is not None, "the coordinator is down"
        return self._engine.failed

    async def stop(self) -> None:
        """Make durable what is under way, and end."""
        await self._end()

    async def crash(self) -> None:
        """Die: what was not synced is lost, and nobody hears anything any more."""
        self._disk.crash()
        await self._end()

    async def _end(self) -> None:
        self._life += 1  # whatever the old engine still performs is for nobody
        self.up.clear()
        for session in list(self._sessions.values()):
            session.lose()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Gone())
        self._waiting.clear()
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.stop()

    def submit(self, event: Any) -> None:
        """Give an event to the core; lost when it is down."""
        if self._engine is not None:
            self._engine.submit(event)

    # ---- participants

    def attach(self, session: MemorySession, hello: participant_pb2.Hello) -> int:
        """A participant dials; returns the number of its stream."""
        self._last_stream += 1
        self._sessions[self._last_stream] = session
        self.submit(events.HelloReceived(session.name, self._last_stream, hello))
        return self._last_stream

    def detach(self, number: int, name: str) -> None:
        """A participant's stream ended."""
        if self._sessions.pop(number, None) is not None:
            self.submit(events.ParticipantLost(name, number))

    def hear(self, name: str, number: int, field: str, message: Any) -> None:
        """A participant says something."""
        if field == "reports":
            self.submit(events.ReportsReceived(name, number, [message], False))
        else:
            self.submit(events.FromParticipant(name, number, message))

    # ---- clients

    def next_id(self) -> tuple[int, str]:
        """The number and the id of a new transaction."""
        assert self._core is not None
        self._last_number += 1
        return self._last_number, f"{self._core.unary_session}.{self._last_number}"

    async def ask(self, number: int, make_event: Callable[[str], Any]) -> Any:
        """Submit a client's event for a transaction, and wait for its answer. Raises `Gone`."""
        if self._core is None or not self.up.is_set():
            raise Gone
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        self.submit(make_event(self._core.unary_session))
        return await waiting

    async def get(self, request: client_pb2.GetRequest) -> client_pb2.Answer:
        """Ask about a transaction. Raises `Gone`."""
        self._last_number += 1
        number = self._last_number
        answer: client_pb2.Answer = await self.ask(number, lambda session: events.Get(number, request))
        return answer

    # ---- effects

    def _performer(self, life: int) -> Callable[[Effect], None]:
        def perform(effect: Effect) -> None:
            if life == self._life:
                self._perform(effect)

        return perform

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, effects.Answered):
            self._answer(effect.answer.number, _copy(effect.answer))
        elif isinstance(effect, effects.Begun):
            self._answer(effect.response.number, _copy(effect.response))
        elif isinstance(effect, effects.Got):
            self._answer(effect.ticket, _copy(effect.answer))
        elif isinstance(effect, effects.Send | effects.SendWatermark | effects.Welcomed | effects.Rejected):
            session = self._sessions.get(effect.stream)
            if session is not None:
                self._say(session, effect)

    def _say(
        self,
        session: MemorySession,
        effect: effects.Send | effects.SendWatermark | effects.Welcomed | effects.Rejected,
    ) -> None:
        if isinstance(effect, effects.Send):
            session.deliver(**{effect.field: [effect.message]})
        elif isinstance(effect, effects.SendWatermark):
            session.deliver(watermark=effect.watermark)
        elif isinstance(effect, effects.Welcomed):
            assert self._core is not None
            limits = common_pb2.Limits(payload_bytes_max=self._settings.payload_bytes_max)
            session.welcome(
                participant_pb2.Welcome(
                    protocol_version=1, coordinator=NAME, epoch=self._core.epoch, nonce=self._nonce, limits=limits
                )
            )
        else:
            session.reject(error_of(effect.cause))

    def _answer(self, number: int, message: Any) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)


def away() -> RequestError:
    """The coordinator of the cluster is down."""
    return RequestError(Reason.COORDINATOR_AWAY, "the coordinator of the cluster is down", hint="Restart it.")


def _copy(message: M) -> M:
    """Nobody shares a message with somebody else, as on the wire."""
    twin = type(message)()
    twin.CopyFrom(message)
    return twin
