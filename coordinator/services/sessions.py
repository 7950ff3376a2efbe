"""Client sessions: all transactions of one client process on one stream.

A session outlives its stream for `session_linger_seconds`, within one boot of the coordinator. A client that comes back in that
time names its session and is told again every answer that it has not acknowledged. After a restart of the coordinator the
session is gone, and the client settles what it does not know by Get.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from coordinator.core import effects, events
from coordinator.core.book import without_results
from coordinator.identity import asked
from coordinator.identity.gate import Gate
from coordinator.identity.who import CALLER
from coordinator.services import status
from coordinator.services.context import Context
from coordinator.services.streams import Stream
from troth import features
from troth.errors import ProtocolError, Reason, RemoteProtocolError, RequestError
from troth.identity.peer import Identity
from troth.logs import get_logger
from troth.v1 import client_pb2, common_pb2

log = get_logger("troth.sessions")

TOKEN_BYTES = 16
"""Of what a client shows to resume its session."""
ANSWER_OVERHEAD_BYTES = 4096
"""Room that a frame keeps for what is not the results of its one answer."""


CLIENT_CHARACTERS_MAX = 200
"""Of who a client is, or of the software that it says it is: it is kept with each of its transactions."""


class Session:
    """One client session, with or without a stream at present."""

    def __init__(self, name: str, caller: Identity, gate: Gate) -> None:
        self.name = name
        self.caller = caller
        self.token = secrets.token_bytes(TOKEN_BYTES)
        """What its client alone knows."""
        self._gate = gate
        closed = gate.policy is not None
        self.run: Callable[[str, client_pb2.RunRequest], events.Run] = self._run if closed else events.Run
        self.begin: Callable[[str, client_pb2.BeginRequest], events.Begin] = self._begin if closed else events.Begin
        self.stream: Stream[client_pb2.ConnectResponse] | None = None
        self.expiry: asyncio.TimerHandle | None = None

    def _run(self, name: str, request: client_pb2.RunRequest) -> events.Run:
        return events.Run(name, request, self._refusal(asked.runs(request)))

    def _begin(self, name: str, request: client_pb2.BeginRequest) -> events.Begin:
        return events.Begin(name, request, self._refusal(asked.begins(request)))

    def _refusal(self, asked_for: Iterable[asked.Asked]) -> RequestError | None:
        too_fast = self._gate.too_fast(self.caller)
        if too_fast:
            return RequestError(Reason.OVERLOADED, too_fast, by_caller=True)
        why = self._gate.why_not(self.caller, asked_for)
        return RequestError(Reason.FORBIDDEN, why) if why else None

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

    async def serve(self, frame: client_pb2.ConnectRequest, version: int, incoming: AsyncIterator[Any], call: Any) -> None:
        """Carry one client's stream; `frame` is the first, with a ClientHello that was checked. Raises `RequestError` (OVERLOADED,
        FORBIDDEN) before anything is said."""
        self._context.common.gate.client_hello(CALLER.get())
        session, resumed = self._open(frame.hello)
        stream = self._attach(session, incoming, call)
        stream.outbox.set("welcome", self._welcome(session, resumed, version, frame.hello.capabilities))
        stream.tell_directory()
        client, owner = CALLER.get().name or frame.hello.software, self._context.common.gate.owner_name(session.caller)
        self._context.submit(events.SessionOpened(session.name, client[:CLIENT_CHARACTERS_MAX], owner))
        try:
            stream.handle(lambda first: self._submit(session, first), frame)
            await stream.run()
        finally:
            self._detach(session, stream)

    def token_and_owner(self, name: str) -> tuple[bytes, str | None]:
        """What only its client knows, and whose the transactions of a session are; empty when there is none."""
        session = self._sessions.get(name)
        if session is None:
            return b"", None
        return session.token, self._context.common.gate.owner_name(session.caller)

    def _open(self, hello: client_pb2.ClientHello) -> tuple[Session, bool]:
        """The session that is asked for, if it is still there and whoever asks has its token, or a new one. Its name alone is the
        beginning of ids that many see, and easily guessed."""
        known = self._sessions.get(hello.session)
        his = known is not None and known.caller.name == CALLER.get().name
        if known is not None and his and secrets.compare_digest(known.token, hello.token):
            self._context.counters.sessions_resumed += 1
            return known, True
        if len(self._sessions) >= self._context.config.core.sessions_max:
            raise RequestError(Reason.OVERLOADED, f"{len(self._sessions)} client sessions are open")
        self._last_number += 1
        session = Session(f"{self._context.session_prefix}.{self._last_number}", CALLER.get(), self._context.common.gate)
        self._sessions[session.name] = session
        return session, False

    def _attach(self, session: Session, incoming: AsyncIterator[Any], call: Any) -> Stream[client_pb2.ConnectResponse]:
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        if session.stream is not None:
            session.stream.end(status.cause(Reason.SUPERSEDED_STREAM, "a newer stream of this session took over"))
        session.caller = CALLER.get()
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

    def _welcome(
        self, session: Session, resumed: bool, version: int, offered: Iterable[str]
    ) -> client_pb2.ClientWelcome:  # fmt: skip
        context = self._context
        return client_pb2.ClientWelcome(
            protocol_version=version,
            session=session.name,
            token=session.token,
            resumed=resumed,
            coordinator=context.config.shell.name,
            epoch=context.core.epoch,
            limits=context.config.limits(),
            now_ms=context.now_ms(),
            capabilities=features.agreed(offered, context.common.shell.features_held_back),
        )

    def _submit(self, session: Session, frame: client_pb2.ConnectRequest) -> None:
        """Hand one frame to the core. What ends work comes before what begins some: that may need the locks."""
        name, commits, aborts = session.name, frame.commits, frame.aborts
        wanted: tuple[tuple[Callable[[str, Any], Any], Sequence[Any]], ...] = (
            (events.Commit, commits), (events.Abort, aborts), (session.run, frame.runs), (session.begin, frame.begins),
        )  # fmt: skip
        self._context.common.gate.client_frame(session.caller, frame)
        batch: list[Any] = []
        for make, requests in wanted:
            if requests:
                batch += [make(name, request) for request in requests[:]]
        for event in batch:
            if event.request.number == 0:
                raise RemoteProtocolError("a request without a number", reason=Reason.INVALID_ARGUMENT)
        if self._context.common.shard_of_key is not None:
            batch = [event for event in batch if not self._is_elsewhere(session, event)]
        for requests in (commits, aborts):
            if requests:
                _check_own(name, requests)
        for request in frame.gets[:]:
            batch += self._question(session, request)
        if frame.answered_below:
            batch.append(events.AnswersSeen(name, frame.answered_below))
        self._context.submit_all(batch)

    def _question(self, session: Session, request: client_pb2.GetRequest) -> Sequence[events.Get]:
        """A question, in the name in which it may be asked; one that may not is answered at once, and the others go on. That of
        another shard is passed on."""
        ticket, common = _GetTicket(session, request.transaction_id), self._context.common
        name, gate = self._context.config.shell.name, common.gate
        if common.questions is not None and common.questions.pass_on(name, session.caller, request, ticket):
            return ()
        if gate.policy is None:
            return (events.Get(ticket, request),)
        try:
            acting = gate.acts_as(session.caller, "read", self._context.core.owner_of(request.transaction_id))
        except RequestError as error:
            outcome = common_pb2.OUTCOME_IN_DOUBT
            ticket(client_pb2.Answer(transaction_id=request.transaction_id, outcome=outcome, cause=status.cause_of(error)))
            return ()
        return (events.Get(ticket, request, acting),)

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

    def tell_directory(self) -> None:
        """Tell everybody where the shards of the cell are."""
        for session in self._sessions.values():
            if session.stream is not None:
                session.stream.tell_directory()

    def _is_elsewhere(self, session: Session, event: Any) -> bool:
        """Whether a request has a key of another shard; then it is told so, and nothing is begun: a key commits in one place only.
        Of a run that is IN_DOUBT: what became of its key is known there."""
        request, common = event.request, self._context.common
        key = getattr(request, "key", "")
        if not key or common.shard_of_key is None:
            return False
        shard = common.shard_of_key(key)
        if shard == self._context.config.shell.name:
            return False
        address = next((one.address for one in common.directory.shards if one.coordinator == shard), "") if common.directory else ""
        cause = status.cause(Reason.WRONG_SHARD, f"the key belongs to the shard {shard}, which is at {address or 'no node now'}")
        number, transaction_id = request.number, f"{session.name}.{request.number}"
        if isinstance(event, events.Begin):
            session.put("begun", client_pb2.BeginResponse(number=number, refusal=cause))
        else:
            answer = client_pb2.Answer(
                number=number, transaction_id=transaction_id, outcome=common_pb2.OUTCOME_IN_DOUBT, cause=cause
            )
            session.put("answers", answer)
        return True

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

    __slots__ = ("_asked", "_session")

    def __init__(self, session: Session, asked: str) -> None:
        self._session = session
        self._asked = asked

    def __call__(self, answer: client_pb2.Answer) -> None:
        self._session.put("got", client_pb2.GetResponse(answer=answer, transaction_id=self._asked))
