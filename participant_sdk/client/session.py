"""The session: all transactions of one client, by number, and what each still waits for.

    open ──run──────────────────────────────────────────→ answer
    open ──begin──→ begun ──(idle: the caller works)──commit | abort──→ answer
    open ──(unsaid: the caller works)──commit, with what begin would say | abort──→ answer

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from participant_sdk.client.checks import Limits
from participant_sdk.client.connection import Connection, Peer
from participant_sdk.client.exchange import Exchange, Lost, Reply, Request
from participant_sdk.client.state import Identity, SessionCounters, StreamState
from participant_sdk.seat import Seat
from participant_sdk.silence import Silence
from troth import __version__, features, forks
from troth.backoff import Backoff
from troth.errors import Aborted, Reason, RequestError
from troth.features import PROTOCOL_VERSION
from troth.link import FRAME_MESSAGES_MAX, Outbox, Packed
from troth.logs import get_logger
from troth.seals import proof_of
from troth.tasks import ended
from troth.v1 import client_pb2, common_pb2

FRAME_BYTES_DEFAULT = 1024 * 1024
"""The size of frames to a coordinator that announces none."""
RESEND = Backoff(first_seconds=5.0, cap_seconds=30.0)
"""When an unanswered request is sent again on a live stream."""
BEGIN_SECONDS = 0.01
"""How long an interactive transaction without a key may last before the coordinator is told of it."""
TICK_SECONDS = 0.05
"""How often, at most, the open transactions are looked through for one whose time has come."""
WATERMARK_SECONDS = 1.0
"""How long the watermark of seen answers waits for a frame to ride with."""


@dataclass(slots=True, eq=False)
class _Question:
    request: client_pb2.GetRequest
    answer: asyncio.Future[client_pb2.Answer | None]


class ConnectionLike(Protocol):
    """A connection, over gRPC or in memory; see `client.connection.Connection`."""

    async def run(self) -> None:
        """Connect, and connect again, until cancelled or refused for good."""


Connect = Callable[[str, Peer], ConnectionLike]
"""Makes the connection from the coordinator's address and who lives on it."""


class Session:
    """Numbers requests, sends them in batches, and gives every answer to its caller. One event loop, no locks."""

    def __init__(self, address: str, *, pending_max: int, connect: Connect = Connection, seat: Seat | None = None) -> None:
        self.seat = seat or Seat()
        self.on_change: Callable[[], None] = lambda: None
        """Called when the session has begun to stand, or stands no more."""
        self._loop = asyncio.get_running_loop()
        self._generation = forks.generation()
        self._connection = connect(address, self)
        self._task: asyncio.Task[None] | None = None
        self._pending_max = pending_max
        self._identity = Identity()
        self._stream: StreamState | None = None
        self._open: dict[int, Exchange] = {}
        self._next_number = 1
        self._unsaid: deque[tuple[float, Exchange]] = deque()
        """Transactions of which the coordinator has not been told, by the time at which it is."""
        self._unsaid_handle: asyncio.TimerHandle | None = None
        self._aborting = 0
        """Aborts that have not been answered."""
        self._questions: dict[str, deque[_Question]] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._ticks_at = math.inf
        self._tick_handle: asyncio.TimerHandle | None = None
        self._watermark_handle: asyncio.TimerHandle | None = None
        self._away: tuple[Reason, str] = (Reason.COORDINATOR_AWAY, f"{address}: not connected yet")
        self._silence = Silence(get_logger("participant_sdk.client"), self._loop.time)
        self._refusal: RequestError | None = None
        self._emptied: asyncio.Event | None = None
        self.counters = SessionCounters()

    # ---- life

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._connection.run(), name="troth-client")

    def check_place(self) -> None:
        """Raise `RequestError` outside of the process and the event loop to which this session belongs."""
        if forks.generation() != self._generation:
            raise RequestError(
                Reason.INVALID_ARGUMENT,
                "this client was entered before the process was forked, and belongs to the parent",
                hint="Make and enter a client in each process, after the fork.",
            )
        if asyncio._get_running_loop() is not self._loop:
            raise RequestError(
                Reason.INVALID_ARGUMENT,
                "this client was entered in another event loop",
                hint="Use it in the loop in which it was entered; make a client for each loop.",
            )

    async def stop(self, seconds: float) -> None:
        """Take no new requests, wait at most `seconds` for the answers to those that are open, and leave."""
        if forks.generation() != self._generation:
            return  # a child that unwinds: all of this is its parent's
        self.check_place()
        self.refused(RequestError(Reason.SHUTTING_DOWN, "this client is closed", hint="Make a new Client."))
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
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # It keeps how it ended, with the frames and the channel in them, and gRPC's threads live as long as a channel does: who
            # forks after a client was closed must not find them. So nothing here may keep the task.
            await ended(task)  # an error is told by `refused`
        self._leave()

    def _leave(self) -> None:
        """Tell all who wait that no answer will come."""
        self.lost(Reason.SHUTTING_DOWN, "this client is closed")
        for exchange in list(self._open.values()):
            self._expire(exchange)
        for question in [question for waiting in self._questions.values() for question in waiting]:
            if not question.answer.done():
                question.answer.set_result(None)
        for handle in (self._tick_handle, self._watermark_handle, self._unsaid_handle):
            if handle is not None:
                handle.cancel()

    # ---- what the callers use

    @property
    def ready(self) -> bool:
        """Whether `open` may be called now."""
        return self._stream is not None and len(self._open) < self._pending_max and self._refusal is None and not self.seat.leaving

    @property
    def stands(self) -> bool:
        """Whether there is a stream, to a coordinator that goes on to take new work."""
        return self._stream is not None and not self.seat.leaving

    @property
    def is_refused(self) -> bool:
        """Whether no session will ever come."""
        return self._refusal is not None

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
            message = f"this client has {self._pending_max} transactions open (pending_max)"
            return Aborted(Reason.OVERLOADED, message, hint="Try again when some of them are over, or raise pending_max.")
        return Aborted(*self._away)

    def why_silent(self) -> str:
        """What to add to the message of a caller who waited in vain: why there is no stream. Empty when there is one."""
        return "" if self._stream is not None else f": {self._away[1]}"

    def open(self, field: str, request: client_pb2.RunRequest | client_pb2.BeginRequest, deadline: float) -> Exchange:
        """Number a new transaction and send its first request. `ready` must hold."""
        exchange = self._number(request, deadline)
        self._ask(exchange, field, request)
        return exchange

    def open_quietly(self, begin: client_pb2.BeginRequest, deadline: float) -> Exchange:
        """Number a transaction of which the coordinator hears with its commit, or after `BEGIN_SECONDS`. `ready` must hold."""
        exchange = self._number(begin, deadline)
        exchange.unsaid = begin
        if self._aborting:
            self.say_begin(exchange)  # who meets the locks of what is rolled back asks the coordinator, which hears of that first
        else:
            self._unsaid.append((self._loop.time() + BEGIN_SECONDS, exchange))
            self._unsaid_handle = self._unsaid_handle or self._loop.call_later(BEGIN_SECONDS, self._say_begins)
            self._arm(exchange)
        return exchange

    def say_begin(self, exchange: Exchange) -> None:
        """Tell the coordinator of a transaction now, if it has not been told."""
        if exchange.unsaid is not None and exchange.request is None and self.is_open(exchange):
            self._ask(exchange, "begins", exchange.unsaid)

    def _number(self, request: client_pb2.RunRequest | client_pb2.BeginRequest, deadline: float) -> Exchange:
        assert self.ready
        request.number = number = self._next_number
        self._next_number = number + 1
        exchange = self._open[number] = Exchange(number, f"{self._identity.name}.{number}", deadline)
        return exchange

    def _say_begins(self) -> None:
        """Begin what lasts: the coordinator has to keep its timeout, and to find its branches when this client dies."""
        self._unsaid_handle = None
        while self._unsaid:
            due, exchange = self._unsaid[0]
            if due > self._loop.time():
                self._unsaid_handle = self._loop.call_at(due, self._say_begins)
                return
            self._unsaid.popleft()
            self.say_begin(exchange)

    def ask(self, exchange: Exchange, field: str, request: Request) -> asyncio.Future[Reply]:
        """Send a request of an open transaction, now or when there is a stream; it replaces one that is unanswered."""
        assert self._open.get(exchange.number) is exchange, "the transaction is over"
        exchange.sent = False
        exchange.resends = 0
        self._aborting += field == "aborts"
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

    def proof(self, transaction_id: str) -> bytes:
        """What shows services that a call is made for whoever began a transaction; empty of a session that is gone."""
        session = self._identity
        return proof_of(session.token, transaction_id) if transaction_id.startswith(f"{session.name}.") else b""

    # ---- what the connection tells

    def hello(self) -> client_pb2.ClientHello:
        """How to introduce ourselves."""
        return client_pb2.ClientHello(
            protocol=common_pb2.ProtocolRange(lowest=PROTOCOL_VERSION, highest=PROTOCOL_VERSION),
            session=self._identity.name,
            token=self._identity.token,
            coordinator=self.seat.shard,
            software=f"troth-python/{__version__}", capabilities=[features.KEY_RESULTS],
        )

    def welcomed(self, welcome: client_pb2.ClientWelcome) -> Outbox[client_pb2.ConnectRequest]:
        """The stream stands: send again what is unanswered, or end what belonged to a session that is gone."""
        before, limits = self._identity, Limits.told(welcome)
        self._identity = Identity(welcome.session, welcome.epoch, limits, welcome.token)
        self.counters.streams += 1
        self._silence.ends()
        if not (welcome.resumed and welcome.session == before.name):
            self.counters.sessions += 1
            restarted = welcome.epoch != before.epoch
            self._abandon(Reason.COORDINATOR_RESTARTED if restarted else Reason.CLIENT_GONE)
        frame_bytes_max = welcome.limits.frame_bytes_max or FRAME_BYTES_DEFAULT
        outbox = Outbox(client_pb2.ConnectRequest, frame_bytes_max, welcome.limits.frame_messages_max or FRAME_MESSAGES_MAX)
        self._stream = StreamState(outbox)
        for exchange in self._open.values():
            if exchange.request is not None:
                outbox.put(exchange.field, exchange.request)
        for waiting in self._questions.values():
            for question in waiting:
                outbox.put("gets", question.request)
        self._give_turns(self._pending_max - len(self._open))
        self.on_change()
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
            self._got(got)
        if answers and self._watermark_handle is None:
            self._watermark_handle = self._loop.call_later(WATERMARK_SECONDS, self._send_watermark)

    def lost(self, reason: Reason, message: str) -> None:
        """The stream is gone. What still waits in its outbox was never sent; everything else may have been."""
        self._away = (reason, message)
        if reason is not Reason.SHUTTING_DOWN:
            self._silence.goes_on(message)
        stream, self._stream = self._stream, None
        self.on_change()
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
        self.on_change()

    # ---- answers

    def _begun(self, begun: client_pb2.BeginResponse) -> None:
        exchange = self._open.get(begun.number)
        if exchange is None or exchange.field not in ("begins", "aborts"):
            return  # a repeat
        if begun.HasField("refusal") or begun.HasField("holder"):
            exchange.over = client_pb2.Answer(outcome=common_pb2.OUTCOME_ABORTED, cause=begun.refusal)
            self._close(exchange, begun)
            return
        if exchange.field == "aborts" or exchange.reply is None:
            return  # the caller has given up meanwhile; or a repeat
        exchange.unsaid = None
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

    def _got(self, got: client_pb2.GetResponse) -> None:
        answer = got.answer
        # Asked under a key, the answer is of the key's holder. A coordinator that answers under no key names only the answer's.
        waiting = self._questions.get(got.transaction_id or answer.transaction_id)
        if waiting:
            question = waiting.popleft()
            if not question.answer.done():
                question.answer.set_result(answer)

    def _close(self, exchange: Exchange, reply: Reply) -> None:
        """The transaction is over for this session: its number and its place are free."""
        del self._open[exchange.number]
        self._aborting -= exchange.field == "aborts"
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
