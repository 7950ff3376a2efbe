"""A real coordinator's core and engine in this process, and links to it that are function calls.

The coordinator's package is installed beside the SDK (the extra `troth[coordinator]` brings nothing that is needed here). Only
here, and in `participant_sdk.testing`, does the SDK import it.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from coordinator.core import effects, events
from coordinator.core.core import CoordinatorCore
from coordinator.core.listing import ROWS_MAX
from coordinator.core.settings import CoreSettings
from participant_sdk.causes import error_of
from troth import features
from troth.engine import Engine
from troth.errors import Reason, RequestError, TrothError
from troth.log.contract import Log
from troth.payload_keys import Keyring
from troth.ready import Effect
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2

M = TypeVar("M", bound=Message)


class ClientLink(Protocol):
    """What a client has at its end; see `client.InProcessConnection`."""

    def deliver(self, field: str, message: Message) -> None:
        """An answer came."""

    def got(self, asked: str, answer: client_pb2.Answer) -> None:
        """The answer to a question came."""

    def lose(self) -> None:
        """The coordinator is gone."""


class Attached(Protocol):
    """What a participant has at its end; see `session.InProcessSession`."""

    @property
    def name(self) -> str:
        """The participant's name."""

    def welcome(self, welcome: participant_pb2.Welcome) -> None:
        """Welcome came."""

    def reject(self, error: TrothError) -> None:
        """Goodbye came."""

    def deliver(self, **fields: Any) -> None:
        """A frame came."""

    def lose(self) -> None:
        """The coordinator is gone."""


class Gone(Exception):
    """The coordinator went away before it answered."""


class InProcessCoordinator:
    """A coordinator in this process. `make_log` makes the log of each life."""

    def __init__(self, name: str, settings: CoreSettings, make_log: Callable[[], Log], keyring: Keyring | None = None) -> None:
        self.name = name
        self._settings = settings
        self._make_log, self._keyring = make_log, keyring
        self._sessions: dict[int, Attached] = {}
        self._last_stream = 0
        self._last_number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._clients: dict[str, ClientLink] = {}
        self._last_client = 0
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
        self._core = CoordinatorCore(self._settings, self.name, self._nonce, secrets.token_bytes(32))
        engine = Engine("coordinator", self._core, self._make_log(), self._performer(self._life), keyring=self._keyring)
        await engine.start()
        self._engine = engine
        self.up.set()

    @property
    def failed(self) -> asyncio.Future[TrothError]:
        """Gets the error when the engine fails. Valid while it is up."""
        assert self._engine is not None, "the coordinator is down"
        return self._engine.failed

    async def stop(self) -> None:
        """Make durable what is under way, and end."""
        self._life += 1  # whatever the old engine still performs is for nobody
        self.up.clear()
        for session in list(self._sessions.values()):
            session.lose()
        for client in list(self._clients.values()):
            client.lose()
        self._clients.clear()
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

    @property
    def position(self) -> int:
        """How far its log is; 0 while it is down."""
        return 0 if self._engine is None else self._engine.position

    def attach(self, session: Attached, hello: participant_pb2.Hello, position: int) -> int:
        """A participant dials; returns the number of its stream."""
        self._last_stream += 1
        self._sessions[self._last_stream] = session
        self.submit(events.HelloReceived(session.name, self._last_stream, hello, position))
        return self._last_stream

    def detach(self, number: int, name: str) -> None:
        """A participant's stream ended."""
        if self._sessions.pop(number, None) is not None:
            self.submit(events.ParticipantLost(name, number))

    def hear(self, name: str, number: int, field: str, message: Any, position: int) -> None:
        """A participant says something."""
        if field == "reports":
            self.submit(events.ReportsReceived(name, number, [message], False))
        else:
            self.submit(events.FromParticipant(name, number, message, position))

    # ---- clients

    @property
    def epoch(self) -> int:
        """The epoch of this life."""
        assert self._core is not None
        return self._core.epoch

    @property
    def limits(self) -> common_pb2.Limits:
        """What clients and participants are told of the limits."""
        return common_pb2.Limits(payload_bytes_max=self._settings.payload_bytes_max)

    def open_session(self, client: ClientLink) -> str:
        """A client connects; returns the name of its session."""
        assert self._core is not None
        self._last_client += 1
        name = f"{self._core.unary_session.rpartition('.')[0]}.{self._last_client}"
        self._clients[name] = client
        self.submit(events.SessionOpened(name))
        return name

    def close_session(self, name: str) -> None:
        """A client left."""
        if self._clients.pop(name, None) is not None:
            self.submit(events.SessionLost(name))

    def hear_client(self, name: str, frame: client_pb2.ConnectRequest) -> None:
        """A client says something. What ends work comes before what begins some: that may need the locks."""
        client = self._clients.get(name)
        if client is None:
            return  # said to a coordinator that is gone
        asked: tuple[tuple[Callable[[str, Any], Any], Any], ...] = (
            (events.Commit, frame.commits), (events.Abort, frame.aborts), (events.Run, frame.runs), (events.Begin, frame.begins),
        )  # fmt: skip
        for make, requests in asked:
            for request in requests:
                self.submit(make(name, request))
        for request in frame.gets:
            self.submit(events.Get(functools.partial(client.got, request.transaction_id), request))
        if frame.answered_below:
            self.submit(events.AnswersSeen(name, frame.answered_below))

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
        failed = self.failed
        self.submit(make_event(self._core.unary_session))
        try:
            await asyncio.wait((waiting, failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.pop(number, None)
        if not waiting.done():
            raise Gone
        return waiting.result()

    async def get(self, request: client_pb2.GetRequest) -> client_pb2.Answer:
        """Ask about a transaction. Raises `Gone`."""
        self._last_number += 1
        number = self._last_number
        answer: client_pb2.Answer = await self.ask(number, lambda session: events.Get(number, request))
        return answer

    async def owing(self) -> set[str]:
        """The participants, slots of theirs, that owe a vote or an acknowledgement. Raises `Gone`."""
        owing, token = set[str](), ""
        while True:
            page = await self._participants(admin_pb2.ListParticipantsRequest(limit=ROWS_MAX, page_token=token))
            owing |= {one.participant for one in page.participants if one.votes_owed or one.acknowledgements_owed}
            token = page.next_page_token
            if not token:
                return owing

    async def _participants(self, request: admin_pb2.ListParticipantsRequest) -> admin_pb2.ListParticipantsResponse:
        self._last_number += 1
        number = self._last_number
        page: admin_pb2.ListParticipantsResponse = await self.ask(number, lambda session: events.Administer(number, request))
        return page

    # ---- effects

    def _performer(self, life: int) -> Callable[[Effect], None]:
        def perform(effect: Effect) -> None:
            if life == self._life:
                self._perform(effect)

        return perform

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, effects.Answered):
            self._answer(effect.session, "answers", effect.answer)
        elif isinstance(effect, effects.Begun):
            self._answer(effect.session, "begun", effect.response)
        elif isinstance(effect, effects.Got):
            if callable(effect.ticket):
                effect.ticket(copied(effect.answer))
            else:
                self._answer_call(effect.ticket, copied(effect.answer))
        elif isinstance(effect, effects.Administered):
            self._answer_call(effect.ticket, effect.response)
        elif isinstance(effect, effects.Send | effects.SendWatermark | effects.Welcomed | effects.MayBegin | effects.Rejected):
            session = self._sessions.get(effect.stream)
            if session is not None:
                self._say(session, effect)

    def _say(
        self,
        session: Attached,
        effect: effects.Send | effects.SendWatermark | effects.Welcomed | effects.MayBegin | effects.Rejected,
    ) -> None:
        if isinstance(effect, effects.Send):
            session.deliver(**{effect.field: [effect.message]})
        elif isinstance(effect, effects.SendWatermark):
            session.deliver(watermark=effect.watermark)
        elif isinstance(effect, effects.Welcomed | effects.MayBegin):
            assert self._core is not None
            limits = common_pb2.Limits(payload_bytes_max=self._settings.payload_bytes_max)
            session.welcome(
                participant_pb2.Welcome(
                    protocol_version=1, coordinator=self.name, epoch=self._core.epoch, nonce=self._nonce, limits=limits,
                    log_id=self._core.log_id, heard=effect.heard, capabilities=sorted(features.SPOKEN),
                    seal_key=effect.seal_key if isinstance(effect, effects.Welcomed) else b"",
                )
            )
        else:
            session.reject(error_of(effect.cause))

    def _answer(self, session: str, field: str, message: client_pb2.Answer | client_pb2.BeginResponse) -> None:
        """Answer a client on its session, or a call of the cluster itself."""
        if session in self._clients:
            self._clients[session].deliver(field, copied(message))
        elif self._core is not None and session == self._core.unary_session:
            self._answer_call(message.number, copied(message))

    def _answer_call(self, number: int, message: Any) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)


def away() -> RequestError:
    """It is down."""
    return RequestError(Reason.COORDINATOR_AWAY, "the coordinator of this process is down", hint="Restart it.")


def copied(message: M) -> M:
    """A copy: nobody shares a message with somebody else, as on the wire."""
    twin = type(message)()
    twin.CopyFrom(message)
    return twin
