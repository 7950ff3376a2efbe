"""The session: all transactions of one client, by number, and what each still waits for.

    open ──run──────────────────────────────────────────→ answer
    open ──begin──→ begun ──(idle: the caller works)──commit | abort──→ answer

A transaction's id is `SESSION.NUMBER`, known before any answer. What was sent and not answered is sent again: with the same
number after the session was resumed, and now and then on a live stream (the coordinator recognises repeats). When the
session is gone, because the coordinator restarted or the session expired, nothing is guessed; each request ends with what is
known: `NEVER_SENT` (nothing of it can happen) or `SESSION_GONE` (it was sent; ask with Get).

No task belongs to a request: a caller waits for a future, and whoever is cancelled cancels nothing here.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from participant_sdk.client.checks import Limits
from participant_sdk.client.connection import Connection
from troth import __version__
from troth.backoff import Backoff
from troth.errors import Aborted, Reason, RequestError
from troth.link import Outbox, Packed
from troth.v1 import client_pb2, common_pb2

PROTOCOL_VERSION = 1
FRAME_BYTES_DEFAULT = 1024 * 1024
"""The size of frames to a coordinator that announces none."""
RESEND = Backoff(first_seconds=5.0, cap_seconds=30.0)
"""When an unanswered request is sent again on a live stream."""
TICK_SECONDS = 0.05
"""How often, at most, the open transactions are looked through for one whose time has come."""
WATERMARK_SECONDS = 1.0
"""How long the watermark of seen answers waits for a frame to ride with."""

Request = client_pb2.RunRequest | client_pb2.BeginRequest | client_pb2.CommitRequest | client_pb2.AbortRequest


class Lost(Enum):
    """Why there is no answer."""

    NEVER_SENT = "the session went away before the request was put on the wire"
    SESSION_GONE = "the session went away after the request may have been put on the wire"
    DEADLINE = "no answer came in time"
    DEADLINE_NEVER_SENT = "the request could not be put on the wire in time"


Reply = client_pb2.Answer | client_pb2.BeginResponse | Lost


@dataclass(slots=True, eq=False)
class Exchange:
    """One transaction of this session: its number, and the one request that waits for an answer."""

    number: int
    transaction_id: str
    deadline: float
    """When the caller stops waiting, in the loop's time."""
    field: str = ""
    """The repeated field of ConnectRequest that `request` belongs to."""
    request: Request | None = None
    reply: asyncio.Future[Reply] | None = None
    sent: bool = False
    """Whether a stream that is gone may have carried the request. What waits in the present outbox is not looked at."""
    resends: int = 0
    due: float = math.inf
    """When to send the request again, or to give up: in the loop's time."""
    over: client_pb2.Answer | Reason | None = None
    """For an idle interactive transaction: how it ended without having been asked to."""


@dataclass(slots=True, eq=False)
class _Question:
    request: client_pb2.GetRequest
    answer: asyncio.Future[client_pb2.Answer | None]


@dataclass(slots=True)
class SessionCounters:
    """What the session did since it began."""

    frames_sent: int = 0
    frames_received: int = 0
    resent: int = 0
    streams: int = 0
    sessions: int = 0


@dataclass(slots=True)
class _Stream:
    """What belongs to the stream that stands now."""

    outbox: Outbox[client_pb2.ConnectRequest]
    answered_below_sent: int = 1


@dataclass(slots=True)
class _Identity:
    """The session as the coordinator named it."""

    name: str = ""
    epoch: int = 0
    limits: Limits = field(default_factory=Limits)


class Session:
    """Numbers requests, sends them in batches, and gives every answer to its caller. One event loop, no locks."""

    def __init__(self, address: str, *, pending_max: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(address, self)
        self._task: asyncio.Task[None] | None = None
        self._pending_max = pending_max
        self._identity = _Identity()
        self._stream: _Stream | None = None
        self._open: dict[int, Exchange] = {}
        self._next_number = 1
        self._questions: dict[str, deque[_Question]] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._ticks_at = math.inf
        self._tick_handle: asyncio.TimerHandle | None = None
        self._watermark_handle: asyncio.TimerHandle | None = None
        self._away: tuple[Reason, str] = (Reason.COORDINATOR_AWAY, f"{address}: not connected yet")
        self._refusal: RequestError | None = None
        self._emptied: asyncio.Event | None = None
        self.counters = SessionCounters()

    # ---- life

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._connection.run(), name="troth-client")

    async def stop(self, seconds: float) -> None:
        """Take no new requests, wait at most `seconds` for the answers to those that are open, and leave."""
        self.refused(RequestError(Reason.SHUTTING_DOWN, "this client is closed"))
        for exchange in list(self._open.values()):
            if exchange.request is None:
                self.ask(exchange, "aborts", client_pb2.AbortRequest(number=exchange.number))
        if self._open and self._stream is not None:
            self._emptied = asyncio.Event()
            try:
                async with asyncio.timeout(seconds):
                    await self._emptied.wait()
            except TimeoutError:
                pass  # whoever still waits is told below
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._leave()

    def _leave(self) -> None:
        """Tell all who wait that no answer will come."""
        self.lost(Reason.SHUTTING_DOWN, "this client is closed")
        for exchange in list(self._open.values()):
            self._expire(exchange)
        for question in [question for waiting in self._questions.values() for question in waiting]:
            if not question.answer.done():
                question.answer.set_result(None)
        for handle in (self._tick_handle, self._watermark_handle):
            if handle is not None:
                handle.cancel()

    # ---- what the callers use

    @property
    def ready(self) -> bool:
        """Whether `open` may be called now."""
        return self._stream is not None and len(self._open) < self._pending_max and self._refusal is None

    @property
    def limits(self) -> Limits:
        """The coordinator's limits; none before the first ClientWelcome."""
        return self._identity.limits

    @property
    def pending(self) -> int:
        """Transactions that are open."""
        return len(self._open)

    async def wait_ready(self, deadline: float) -> None:
        """Return when `open` may be called. Raises `Aborted` (retryable: nothing was sent) at the deadline."""
        while not self.ready:
            if self._refusal is not None:
                raise self._refusal
            turn = self._loop.create_future()
            self._waiting[turn] = None
            try:
                async with asyncio.timeout_at(deadline):
                    await turn
            except BaseException as error:
                if turn.done() and not turn.cancelled():
                    self._give_turns(1)  # it was our turn, and we do not take it
                self._waiting.pop(turn, None)
                if isinstance(error, TimeoutError):
                    raise self.unreachable() from None
                raise

    def unreachable(self) -> Aborted:
        """The error for a request that was never sent because there was no way, or no room."""
        if self._stream is not None:
            return Aborted(Reason.OVERLOADED, f"this client has {self._pending_max} transactions open (pending_max)")
        return Aborted(*self._away)

    def open(self, field: str, request: client_pb2.RunRequest | client_pb2.BeginRequest, deadline: float) -> Exchange:
        """Number a new transaction and send its first request. `ready` must hold."""
        assert self.ready
        number = self._next_number
        self._next_number = number + 1
        request.number = number
        exchange = self._open[number] = Exchange(number, f"{self._identity.name}.{number}", deadline)
        self._ask(exchange, field, request)
        return exchange

    def ask(self, exchange: Exchange, field: str, request: Request) -> asyncio.Future[Reply]:
        """Send a request of an open transaction, now or when there is a stream; it replaces one that is unanswered."""
        assert self._open.get(exchange.number) is exchange, "the transaction is over"
        exchange.sent = False
        exchange.resends = 0
        return self._ask(exchange, field, request)

    def _ask(self, exchange: Exchange, field: str, request: Request) -> asyncio.Future[Reply]:
        exchange.field = field
        exchange.request = request
        reply: asyncio.Future[Reply] = self._loop.create_future()
        exchange.reply = reply
        if self._stream is not None:
            self._stream.outbox.put(field, request)
        self._arm(exchange)
        return reply

    def is_open(self, exchange: Exchange) -> bool:
        """Whether the transaction has no outcome yet, as far as this session knows."""
        return self._open.get(exchange.number) is exchange

    async def question(self, request: client_pb2.GetRequest, deadline: float) -> client_pb2.Answer | None:
        """What the coordinator knows of a transaction of any session; `None` when no answer came before the deadline."""
        question = _Question(request, self._loop.create_future())
        waiting = self._questions.setdefault(request.transaction_id, deque())
        waiting.append(question)
        if self._stream is not None:
            self._stream.outbox.put("gets", request)
        try:
            async with asyncio.timeout_at(deadline):
                return await question.answer
        except TimeoutError:
            return None
        finally:
            if question in waiting:
                waiting.remove(question)
            if not waiting and self._questions.get(request.transaction_id) is waiting:
                del self._questions[request.transaction_id]

    # ---- what the connection tells

    def hello(self) -> client_pb2.ClientHello:
        """How to introduce ourselves."""
        return client_pb2.ClientHello(
            protocol=common_pb2.ProtocolRange(lowest=PROTOCOL_VERSION, highest=PROTOCOL_VERSION),
            session=self._identity.name,
            software=f"troth-python/{__version__}",
        )

    def welcomed(self, welcome: client_pb2.ClientWelcome) -> Outbox[client_pb2.ConnectRequest]:
        """The stream stands: send again what is unanswered, or end what belonged to a session that is gone."""
        before, self._identity = self._identity, _Identity(welcome.session, welcome.epoch, Limits.told(welcome.limits))
        self.counters.streams += 1
        if not (welcome.resumed and welcome.session == before.name):
            self.counters.sessions += 1
            restarted = welcome.epoch != before.epoch
            self._abandon(Reason.COORDINATOR_RESTARTED if restarted else Reason.CLIENT_GONE)
        outbox = Outbox(client_pb2.ConnectRequest, welcome.limits.frame_bytes_max or FRAME_BYTES_DEFAULT)
        self._stream = _Stream(outbox)
        for exchange in self._open.values():
            if exchange.request is not None:
                outbox.put(exchange.field, exchange.request)
        for waiting in self._questions.values():
            for question in waiting:
                outbox.put("gets", question.request)
        self._give_turns(self._pending_max - len(self._open))
        return outbox

    def sending(self, frame: Packed) -> None:
        """Let the watermark of seen answers ride with a frame."""
        self.counters.frames_sent += 1
        below = self._answered_below()
        if self._stream is not None and below > self._stream.answered_below_sent:
            frame.data += client_pb2.ConnectRequest(answered_below=below).SerializeToString()
            self._stream.answered_below_sent = below

    def received(self, frame: client_pb2.ConnectResponse) -> None:
        """Give every answer of a frame to its caller."""
        self.counters.frames_received += 1
        answers = frame.answers[:]  # lists: the end of a loop over protobuf's own container is an exception
        for begun in frame.begun[:]:
            self._begun(begun)
        for answer in answers:
            self._answered(answer)
        for got in frame.got[:]:
            self._got(got.answer)
        if answers and self._watermark_handle is None:
            self._watermark_handle = self._loop.call_later(WATERMARK_SECONDS, self._send_watermark)

    def lost(self, reason: Reason, message: str) -> None:
        """The stream is gone. What still waits in its outbox was never sent; everything else may have been."""
        self._away = (reason, message)
        stream, self._stream = self._stream, None
        if stream is None:
            return
        unsent: set[tuple[str, int]] = set()
        while (packed := stream.outbox.drain()) is not None:
            frame = client_pb2.ConnectRequest.FromString(packed.data)
            requests: Iterable[Request] = (*frame.runs, *frame.begins, *frame.commits, *frame.aborts)
            unsent.update((type(request).__name__, request.number) for request in requests)
        for exchange in self._open.values():
            if exchange.request is not None and (type(exchange.request).__name__, exchange.number) not in unsent:
                exchange.sent = True

    def refused(self, error: RequestError) -> None:
        """Take no new request from now on."""
        self._refusal = error
        self._give_turns(len(self._waiting))

    # ---- answers

    def _begun(self, begun: client_pb2.BeginResponse) -> None:
        exchange = self._open.get(begun.number)
        if exchange is None or exchange.field not in ("begins", "aborts"):
            return  # a repeat
        if begun.HasField("refusal") or begun.HasField("holder"):
            self._close(exchange, begun)
            return
        if exchange.field == "aborts" or exchange.reply is None:
            return  # the caller has given up meanwhile; or a repeat
        reply, exchange.reply, exchange.request = exchange.reply, None, None
        if not reply.done():
            reply.set_result(begun)
        self._arm(exchange)

    def _answered(self, answer: client_pb2.Answer) -> None:
        exchange = self._open.get(answer.number)
        if exchange is None:
            return  # a repeat, or the caller's deadline came first
        exchange.over = answer
        self._close(exchange, answer)

    def _got(self, answer: client_pb2.Answer) -> None:
        waiting = self._questions.get(answer.transaction_id)
        if waiting:
            question = waiting.popleft()
            if not question.answer.done():
                question.answer.set_result(answer)

    def _close(self, exchange: Exchange, reply: Reply) -> None:
        """The transaction is over for this session: its number and its place are free."""
        del self._open[exchange.number]
        if exchange.reply is not None and not exchange.reply.done():
            exchange.reply.set_result(reply)
        exchange.request = None
        if self._waiting and self._stream is not None:
            self._give_turns(1)
        if self._emptied is not None and not self._open:
            self._emptied.set()

    def _abandon(self, reason: Reason) -> None:
        """The session is gone, and its numbers with it."""
        for exchange in list(self._open.values()):
            exchange.over = reason
            self._close(exchange, Lost.SESSION_GONE if exchange.sent else Lost.NEVER_SENT)
        self._next_number = 1

    def _expire(self, exchange: Exchange) -> None:
        """The caller's deadline came. What is on the wire goes on there; here it is forgotten."""
        exchange.over = Reason.TIMEOUT
        sent = exchange.sent or self._stream is not None
        self._close(exchange, Lost.DEADLINE if sent else Lost.DEADLINE_NEVER_SENT)

    def _give_turns(self, count: int) -> None:
        while count > 0 and self._waiting:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            if not turn.done():
                turn.set_result(None)
                count -= 1

    # ---- the watermark

    def _answered_below(self) -> int:
        # Numbers are handed out in order and a dict keeps the order: the first one is the lowest that is open.
        return next(iter(self._open), self._next_number)

    def _send_watermark(self) -> None:
        self._watermark_handle = None
        if self._stream is not None and self._answered_below() > self._stream.answered_below_sent:
            self._stream.outbox.set("answered_below", self._answered_below())

    # ---- timers

    # Nearly all transactions are over long before anything is due, so nothing is kept sorted for the few that are not: at the
    # first time that any of them named, all that are open are looked through.

    def _arm(self, exchange: Exchange) -> None:
        due = exchange.deadline
        if exchange.request is not None:
            tries = exchange.resends
            delay = RESEND.delay_seconds(tries, exchange.transaction_id) if tries else RESEND.first_seconds
            due = min(due, self._loop.time() + delay)
        exchange.due = due
        if due < self._ticks_at:
            self._schedule_tick(due)

    def _schedule_tick(self, at: float) -> None:
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        self._ticks_at = at
        self._tick_handle = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._ticks_at = math.inf
        now = self._loop.time()
        for exchange in [exchange for exchange in self._open.values() if exchange.due <= now]:
            if now >= exchange.deadline:
                self._expire(exchange)
            else:
                self._resend(exchange)
        if self._open:
            self._schedule_tick(max(min(exchange.due for exchange in self._open.values()), now + TICK_SECONDS))

    def _resend(self, exchange: Exchange) -> None:
        if self._stream is not None and exchange.request is not None:
            self._stream.outbox.put(exchange.field, exchange.request)
            # From here the outbox no longer tells whether the request was ever sent, so it counts as sent.
            exchange.sent = True
            self.counters.resent += 1
        exchange.resends += 1
        self._arm(exchange)
