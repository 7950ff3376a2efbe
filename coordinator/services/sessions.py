"""Client sessions: all transactions of one client process on one stream.

A session outlives its stream for `session_linger_seconds`, within one boot of the coordinator. A client that comes back in that
time names its session and is told again every answer that it has not acknowledged. After a restart of the coordinator the
session is gone, and the client settles what it does not know by Get.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import structlog
from google.protobuf.message import Message

from coordinator.core import effects, events
from coordinator.core.book import without_results
from coordinator.services import status
from coordinator.services.context import Context
from coordinator.services.streams import Stream, check_protocol, first_frame
from troth.errors import ProtocolError, Reason, RemoteProtocolError, RequestError, TrothError
from troth.v1 import client_pb2, common_pb2

log = structlog.get_logger("troth.sessions")

ANSWER_OVERHEAD_BYTES = 4096
"""Room that a frame keeps for what is not the results of its one answer."""


class Session:
    """One client session, with or without a stream at present."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stream: Stream[client_pb2.ConnectResponse] | None = None
        self.expiry: asyncio.TimerHandle | None = None

    def put(self, field: str, message: Message) -> None:
        """Queue a message; without a stream it is dropped, for the core keeps what is owed."""
        if self.stream is not None:
            self.stream.put(field, message)


class Sessions:
    """All client sessions of this boot."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._answer_bytes_max = context.config.shell.frame_bytes_max - ANSWER_OVERHEAD_BYTES
        self._sessions: dict[str, Session] = {}
        self._last_number = 0

    async def connect(self, incoming: AsyncIterator[Any], call: Any) -> None:
        """Carry one client's stream."""
        try:
            frame = await first_frame(incoming, self._context.config.shell.hello_seconds)
            if not frame.HasField("hello"):
                raise RemoteProtocolError("the first frame carries no ClientHello")
            version = check_protocol(frame.hello.protocol)
            session, resumed = self._open(frame.hello.session)
        except TrothError as error:
            self._context.counters.malformed_frames += isinstance(error, RemoteProtocolError)
            goodbye = client_pb2.ClientGoodbye(cause=status.cause_of(error))
            await call.write(client_pb2.ConnectResponse(goodbye=goodbye))
            return
        stream = self._attach(session, incoming, call)
        stream.outbox.set("welcome", self._welcome(session.name, resumed, version))
        self._context.submit(events.SessionOpened(session.name))
        try:
            stream.handle(lambda first: self._submit(session, first), frame)
            await stream.run()
        finally:
            self._detach(session, stream)

    def _open(self, name: str) -> tuple[Session, bool]:
        """The session that is asked for, if it is still there, or a new one."""
        known = self._sessions.get(name)
        if known is not None:
            self._context.counters.sessions_resumed += 1
            return known, True
        if len(self._sessions) >= self._context.config.core.sessions_max:
            raise RequestError(Reason.OVERLOADED, f"{len(self._sessions)} client sessions are open")
        self._last_number += 1
        session = Session(f"{self._context.session_prefix}.{self._last_number}")
        self._sessions[session.name] = session
        return session, False

    def _attach(self, session: Session, incoming: AsyncIterator[Any], call: Any) -> Stream[client_pb2.ConnectResponse]:
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        if session.stream is not None:
            session.stream.end(status.cause(Reason.SUPERSEDED_STREAM, "a newer stream of this session took over"))
        self._context.counters.client_streams += 1

        def receive(frame: client_pb2.ConnectRequest) -> None:
            if frame.HasField("hello"):
                raise RemoteProtocolError("a second ClientHello on one stream")
            self._submit(session, frame)

        session.stream = Stream(
            self._context, client_pb2.ConnectResponse, client_pb2.ClientGoodbye, call.write, incoming, receive
        )
        return session.stream

    def _detach(self, session: Session, stream: Stream[client_pb2.ConnectResponse]) -> None:
        self._context.stream_ended.set()
        if session.stream is not stream:
            return  # a newer stream has taken over
        session.stream = None
        self._context.submit(events.SessionLost(session.name))
        # The core's timer is set from the same event, later, and never fires early: what we resume it still knows.
        linger = self._context.config.core.session_linger_seconds
        session.expiry = asyncio.get_running_loop().call_later(linger, self._sessions.pop, session.name, None)

    def _welcome(self, name: str, resumed: bool, version: int) -> client_pb2.ClientWelcome:
        context = self._context
        return client_pb2.ClientWelcome(
            protocol_version=version,
            session=name,
            resumed=resumed,
            coordinator=context.config.shell.name,
            epoch=context.core.epoch,
            limits=context.config.limits(),
            now_ms=context.now_ms(),
        )

    def _submit(self, session: Session, frame: client_pb2.ConnectRequest) -> None:
        """Hand one frame to the core, field by field in the order of their numbers."""
        name, commits, aborts = session.name, frame.commits, frame.aborts
        asked: tuple[tuple[Callable[[str, Any], Any], Sequence[Any]], ...] = (
            (events.Run, frame.runs), (events.Begin, frame.begins), (events.Commit, commits), (events.Abort, aborts),
        )  # fmt: skip
        batch: list[Any] = []
        for make, requests in asked:
            if requests:
                batch += [make(name, request) for request in requests[:]]
        for event in batch:
            if event.request.number == 0:
                raise RemoteProtocolError("a request without a number", reason=Reason.INVALID_ARGUMENT)
        for requests in (commits, aborts):
            if requests:
                _check_own(name, requests)
        if frame.gets:
            batch += [events.Get(_GetTicket(session), request) for request in frame.gets[:]]
        if frame.answered_below:
            batch.append(events.AnswersSeen(name, frame.answered_below))
        self._context.submit_all(batch)

    # ---- effects

    def begun(self, effect: effects.Begun) -> None:
        """Answer a begin."""
        session = self._sessions.get(effect.session)
        if session is not None:
            session.put("begun", effect.response)

    def answered(self, effect: effects.Answered) -> None:
        """Answer a run, commit or abort."""
        session = self._sessions.get(effect.session)
        if session is None or session.stream is None:
            return
        answer = effect.answer
        if answer.ByteSize() > self._answer_bytes_max and answer.results:
            answer = without_results(answer)  # an outcome without its results is better than none at all
        session.stream.put("answers", answer)

    def violated(self, event: Any, error: ProtocolError) -> None:
        """The core refused an event of a session as illegal: whoever waits for its answer must not wait for ever."""
        session = self._sessions.get(event.session)
        request = getattr(event, "request", None)
        if session is not None and request is not None:
            outcome = common_pb2.OUTCOME_IN_DOUBT
            answer = client_pb2.Answer(number=request.number, outcome=outcome, cause=status.cause_of(error))
            session.put("answers", answer)

    # ---- life cycle

    def end_all(self, cause: common_pb2.Cause) -> None:
        """Say Goodbye to everybody."""
        for session in list(self._sessions.values()):
            if session.stream is not None:
                session.stream.end(cause)

    def open_streams(self) -> int:
        """Streams that are not over."""
        return sum(session.stream is not None for session in self._sessions.values())

    def close(self) -> None:
        """Forget all timers."""
        for session in self._sessions.values():
            if session.expiry is not None:
                session.expiry.cancel()


def _check_own(session: str, requests: Sequence[client_pb2.CommitRequest | client_pb2.AbortRequest]) -> None:
    """A session ends its own transactions only."""
    for request in requests:
        transaction_id = request.transaction_id
        if transaction_id and transaction_id != f"{session}.{request.number}":
            message = f"{transaction_id[:160]!r} is not the transaction {request.number} of this session"
            raise RemoteProtocolError(message, reason=Reason.INVALID_ARGUMENT)


class _GetTicket:
    """Finds the session again that asked; an answer for one without a stream is dropped, and the client asks again."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, answer: client_pb2.Answer) -> None:
        self._session.put("got", client_pb2.GetResponse(answer=answer))
