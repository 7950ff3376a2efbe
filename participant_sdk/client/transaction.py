"""Interactive transactions: begin, work through services' own APIs, commit.

    NEW ──enter──→ ACTIVE ──normal exit, commit()──→ COMMITTING ──→ OVER
                      └────exception, abort()───────────────────────→ OVER

The state is the client's own view. The coordinator decides; a transaction that it aborted meanwhile says so at the next use.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from enum import Enum
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from participant_sdk.carriers import Carried, Uncounted, cause_within
from participant_sdk.client import checks, results, traced
from participant_sdk.client.exchange import Exchange, Lost, Reply
from participant_sdk.client.kept import Leaving
from participant_sdk.client.traced import Block
from participant_sdk.context import current_scope
from participant_sdk.tally import Tally
from troth import tracing
from troth.errors import Aborted, Reason, RequestError, TrothError
from troth.ids import check_participant
from troth.keys import INTERACTIVE_HASH
from troth.v1 import client_pb2, common_pb2

if TYPE_CHECKING:
    from participant_sdk.client.cell import Sessions
    from participant_sdk.client.client import Client

_current: ContextVar[Transaction | None] = ContextVar("troth_transaction", default=None)
_last_call: ContextVar[bool] = ContextVar("troth_last_call", default=False)


@contextlib.contextmanager
def saying_last_call() -> Iterator[None]:
    """Calls made in the block are the last ones to their services."""
    token = _last_call.set(True)
    try:
        yield
    finally:
        _last_call.reset(token)


def current_transaction() -> Transaction | None:
    """The transaction whose `async with` block surrounds the caller, also when it is over already.

    A task that was started in a block and outlives it (a cache that refreshes itself) is in no transaction any more.
    """
    tx = _current.get()
    return None if tx is None or tx.left else tx


def transaction_here() -> str:
    """The transaction in which the caller works: one that he was called in, or has begun; empty when there is none."""
    scope, block = current_scope(), current_transaction()
    if scope is not None:
        return scope.context.transaction_id
    return block.transaction_id if block is not None else ""


def refuse_nesting() -> None:
    """Raise `RequestError` (INVALID_ARGUMENT) inside the block of a transaction that is not over, and in a service that was called
    in one."""
    outer, scope = current_transaction(), current_scope()
    if scope is not None:
        open_here, way_out = scope.context.transaction_id, "call on through participant.onward(), or run it from the caller."
    elif outer is not None and outer.is_active:
        open_here, way_out = outer.transaction_id, "do it in the same transaction, or after its block."
    else:
        return
    raise RequestError(
        Reason.INVALID_ARGUMENT,
        f"transaction {open_here} is open here, and what is run now would not be part of it",
        hint=f"Transactions do not nest: {way_out}",
    )


class Terms(NamedTuple):
    """What was asked for when the transaction was made."""

    timeout_seconds: float
    timeout_ms: int
    key: str
    first_attempt_ms: int
    wait: common_pb2.Wait.ValueType
    hold_read_locks: bool
    one_call_each: bool


def terms_of(
    timeout: float, key: str | None, wait: str, first_attempt_ms: int | None, hold_read_locks: bool, one_call_each: bool = False
) -> Terms:
    """What a caller asked for, checked as far as that goes without the coordinator's limits."""
    return Terms(
        timeout,
        checks.timeout_ms(timeout),
        checks.key_text(key),
        checks.first_attempt(first_attempt_ms),
        checks.wait_mode(wait),
        hold_read_locks,
        one_call_each,
    )


class _State(Enum):
    NEW = "has not begun"
    ACTIVE = "is active"
    COMMITTING = "is committing"
    OVER = "is over"


class Transaction:
    """One interactive transaction. Make it with `Client.transaction`, use it as `async with ... as tx`, once.

    A normal end of the block commits; an exception aborts and goes on. A call's refusal that leaves the block does so as the
    `Aborted` (or `RequestError`) that a one-shot transaction would have raised, also out of a `TaskGroup` of calls. Calls made
    inside the block through channels with `Client.interceptors` take part by themselves; for anything else carry `context()` by
    hand and `acknowledge` what was done.
    """

    def __init__(self, client: Client, sessions: Sessions, terms: Terms) -> None:
        self._client = client
        self._sessions = sessions
        self._session = sessions.home
        """The session that it was begun on."""
        self._terms = terms
        self._state = _State.NEW
        self._exchange: Exchange | None = None
        self._deadline = 0.0
        self._call_numbers = count(1)
        self._tally = Tally()
        self.uncounted = Uncounted()
        """Blocking calls that were made in it."""
        self.outcome: results.Committed | None = None
        """How it ended, once it is committed."""
        self._leaving = Leaving(terms.key, client.coded)
        self._cause: common_pb2.Cause | None = None
        self._outer: Transaction | None = None
        """The transaction whose block was around this one: over, but its block is not."""
        self.left = False
        """Whether its block has ended."""
        self._span: Block | None = None
        self.face: object = None
        """What stands for it in code that is not asynchronous."""

    # ---- what it is

    @property
    def client(self) -> Client:
        """The client that it belongs to."""
        return self._client

    @property
    def transaction_id(self) -> str:
        """Its id; empty before it has begun."""
        return self._exchange.transaction_id if self._exchange is not None else ""

    @property
    def first_attempt_ms(self) -> int:
        """Milliseconds since the Unix epoch when the first attempt began: its age for wait-die, kept over retries."""
        return self._terms.first_attempt_ms

    @property
    def is_active(self) -> bool:
        """Whether work may be done in it, as far as the client knows."""
        return self._state is _State.ACTIVE

    @property
    def acknowledged(self) -> dict[str, int]:
        """How many operations of each participant are known to have succeeded."""
        self.uncounted.count()
        return self._tally.counts

    @property
    def refusal(self) -> TrothError | None:
        """Why the first call failed of which the service said so, such as `Aborted` with CONFLICT; otherwise `None`.

        Inside the block gRPC raises its own `AioRpcError`; one that leaves the block becomes this kind of error.
        """
        return None if self._cause is None else results.refusal(self._cause, self.transaction_id)

    # ---- what it came to

    @property
    def result(self) -> Any:
        """What the transaction came to; `None` as long as that was not said.

        Set it before the commit, of a transaction with a key, to a value as operations return it. It is durable with the commit,
        and whoever comes with the key again gets it (`AlreadyCommitted.result`), as long as the key is kept. It is taken as it is
        now: what is changed of a list afterwards is not seen. Raises `RequestError`: BAD_RESULT for what is no plain value,
        PAYLOAD_TOO_LARGE, INVALID_ARGUMENT without a key, VERSION_MISMATCH when the coordinator keeps none. Where there is no room
        for it the commit raises `Aborted` (OVERLOADED).
        """
        return self._leaving.value

    @result.setter
    def result(self, value: object) -> None:
        if self._state is not _State.ACTIVE:
            raise self._not_active("take a result")
        self._leaving.say(value, self._session.limits)

    def returned(self, value: object, made_by: bytes) -> None:
        """A function that is the transaction has returned: that is the result, unless it has said another. Raises `RequestError`
        when it cannot be kept; then none is."""
        if self._state is _State.ACTIVE:
            self._leaving.returned(value, made_by, self._session.limits)

    # ---- the block

    async def __aenter__(self) -> Transaction:
        """Begin. With a key the coordinator is asked: raises `AlreadyCommitted` when that was used before and its transaction
        committed. Without one it hears later, with the commit if that comes soon: what it refuses, it refuses then."""
        refuse_nesting()
        await self.begin()
        self.surround()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.end(error)
        finally:
            self.leave()

    async def begin(self) -> None:
        """Begin, without a block around it."""
        if self._state is not _State.NEW:
            raise self._not_active("begin")
        if tracing.spans is None:
            await self._begin()
        else:
            await self._begin_traced(Block(tracing.spans))
        self._state = _State.ACTIVE

    async def _begin_traced(self, span: Block) -> None:
        self._span = span
        try:
            with span.telling():
                await self._begin()
        except BaseException:
            span.leave(self.transaction_id, None)
            raise

    def surround(self) -> None:
        """Be the current transaction of the context in which this is called."""
        self._outer = _current.get()
        _current.set(self)
        if self._span is not None:
            self._span.enter()

    def leave(self) -> None:
        """Its block has ended, in that context."""
        self.left = True
        _current.set(self._outer)
        if self._span is not None:
            self._span.leave(self.transaction_id, self.outcome)

    async def end(self, error: BaseException | None) -> None:
        """Commit, or roll back when an error leaves the block. Raises what the error tells of a call's refusal."""
        if self._span is None:
            await self._end(error)
        else:
            with self._span.telling(error):
                await self._end(error)

    async def _end(self, error: BaseException | None) -> None:
        try:
            if self._state is _State.ACTIVE and error is None:
                await self.commit()
        finally:
            active, cause = self._state is _State.ACTIVE, None if isinstance(error, TrothError) else cause_within(error)
            if active:
                # Not waited for: the exception goes on at once, and a lost abort is a timeout at the coordinator.
                self._ask_abort()
        if active and cause is not None:
            raise results.refusal(cause, self.transaction_id) from error

    # ---- ending it

    async def commit(self) -> results.Committed:
        """Commit, and return the outcome. Raises `Aborted`, `OutcomeUnknown` or `HeuristicOutcome`.

        Cancelling the caller does not cancel the commit; only its outcome is then not heard.
        """
        if self._state is not _State.ACTIVE:
            raise self._not_active("commit")
        exchange = self._live_exchange()
        self.uncounted.count()
        request = client_pb2.CommitRequest(number=exchange.number, acknowledged=self._tally.told(), wait=self._terms.wait)
        self._leaving.ride(request, self._session.limits)
        self._state = _State.COMMITTING
        if exchange.unsaid is not None:
            request.begin.CopyFrom(exchange.unsaid)
            request.begin.timeout_ms = max(1, int((self._deadline - asyncio.get_running_loop().time()) * 1000))
        exchange.deadline = max(exchange.deadline, asyncio.get_running_loop().time() + self._client.grace_seconds)
        call = None if tracing.spans is None else traced.request(tracing.spans, traced.COMMIT, self._client.address)
        asked = self._session.ask(exchange, "commits", request)
        reply = await (asked if call is None else traced.answered(call, asked))
        self.outcome = await self._concluded(exchange, reply)
        self._state = _State.OVER
        return self.outcome

    async def abort(self) -> None:
        """Roll back, and return when the coordinator has heard it (or cannot be asked: then it finds out itself)."""
        if self._state is not _State.ACTIVE:
            raise self._not_active("abort")
        reply = self._ask_abort()
        if reply is not None:
            await reply

    def _ask_abort(self) -> asyncio.Future[Reply] | None:
        self._state = _State.OVER
        exchange = self._exchange
        if exchange is None or not self._session.is_open(exchange):
            return None
        self.uncounted.count()
        request = client_pb2.AbortRequest(number=exchange.number, acknowledged=self._tally.told())
        return self._session.ask(exchange, "aborts", request)

    async def _concluded(self, exchange: Exchange, reply: Reply) -> results.Committed:
        asked = self._asked(exchange)
        if isinstance(reply, client_pb2.Answer):
            return results.conclude(reply, asked, self._client.coded)
        if reply in (Lost.NEVER_SENT, Lost.DEADLINE_NEVER_SENT):
            # The commit was not sent and never will be, so nobody can decide it: this is knowledge.
            raise self._gone(exchange)
        outcome = await self._client.settle(asked, exchange.deadline)
        if outcome.transaction_id != exchange.transaction_id:
            raise results.AlreadyCommitted(outcome)
        return outcome

    # ---- taking part

    def context(self) -> common_pb2.TransactionContext:
        """A context for one call, to carry by hand: in a message, or in the metadata `troth-context-bin`, serialised.

        Each call needs its own; the same one twice says that the call is repeated.
        """
        self._session.say_begin(self._live_exchange())  # what is carried by hand is enlisted before it works
        return self._next_context()

    def _next_context(self) -> common_pb2.TransactionContext:
        exchange = self._live_exchange()
        context = common_pb2.TransactionContext(
            transaction_id=exchange.transaction_id,
            first_attempt_ms=self.first_attempt_ms,
            call_id=str(next(self._call_numbers)),
            last_call=self._terms.one_call_each or _last_call.get(),
            proof=self._session.proof(exchange.transaction_id),
        )
        if tracing.spans is not None:
            tracing.spans.carry(context.trace)
        return context

    def last_call(self) -> contextlib.AbstractContextManager[None]:
        """Say that each call made in the block is the last one to its service in this transaction.

            with tx.last_call():
                await payments.Debit(...)

        The service then prepares when the call ends, and its vote comes with the answer: the commit has one message to it fewer
        each way to wait for. A later call to that service is refused (NOT_ACTIVE), and the transaction aborts if that leaves the
        block. It pays where several services work; a transaction of one service alone is cheaper without.
        """
        return saying_last_call()

    def acknowledge(self, participant: str | client_pb2.AcknowledgedOperations, operations: int = 1) -> None:
        """Say that so many more operations of a participant succeeded, or pass on what a service acknowledged: its trailing
        metadata `troth-acknowledged-bin`, or `Scope.acknowledgements`. Interceptors do this by themselves."""
        if self._state is not _State.ACTIVE:
            raise self._not_active("acknowledge operations")
        if isinstance(participant, str):
            check_participant(participant)
            checks.positive("operations", operations)
            participant = client_pb2.AcknowledgedOperations(participant=participant, count=operations)
        self._tally.count(participant)

    def carried(self) -> Carried:
        """This transaction, for a call that is made in it; from any thread."""
        return Carried(self._call_begins, self._tally.count, self._call_failed, self._tally.call_ends)

    def _call_begins(self) -> common_pb2.TransactionContext:
        context = self._next_context()
        self._tally.call_begins()
        return context

    def _call_failed(self, cause: common_pb2.Cause) -> None:
        if self._cause is None:  # only the first one counts
            self._cause = cause

    # ---- beginning

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._deadline = started + self._terms.timeout_seconds
        while True:
            self._session = self._sessions.of_work(self._terms.key)
            if not self._session.ready:
                self._session = await self._client.ready_session(self._asked_as(""), self._deadline)
            self._client.check_terms(self._terms, self._session)
            left_ms = self._terms.timeout_ms - int((loop.time() - started) * 1000)
            request = client_pb2.BeginRequest(
                timeout_ms=max(1, left_ms),
                key=self._terms.key,
                first_attempt_ms=self._terms.first_attempt_ms,
                hold_read_locks=self._terms.hold_read_locks,
            )
            if self._span is not None:
                self._span.carry(request.trace)
            deadline = self._deadline + self._client.grace_seconds
            if not self._terms.key:
                self._exchange = self._session.open_quietly(request, deadline)
                return
            self._exchange = self._session.open("begins", request, deadline)
            reply = await self._begun(self._exchange)
            if reply not in (Lost.NEVER_SENT, Lost.SESSION_GONE):
                break  # otherwise: nothing was done in it, so another one does as well
        self._raise_unless_begun(self._exchange, reply)

    async def _begun(self, exchange: Exchange) -> Reply:
        assert exchange.reply is not None
        try:
            return await exchange.reply
        except asyncio.CancelledError:
            self._ask_abort()
            raise

    def _raise_unless_begun(self, exchange: Exchange, reply: Reply) -> None:
        if isinstance(reply, client_pb2.BeginResponse) and not (reply.HasField("holder") or reply.HasField("refusal")):
            return
        self._state = _State.OVER
        if isinstance(reply, Lost):
            message = f"the coordinator did not answer the begin in time{self._session.why_silent()}"
            aborted = Aborted(Reason.COORDINATOR_AWAY, message, transaction_id=exchange.transaction_id)
            raise results.never_sent(aborted, self._asked(exchange))
        if isinstance(reply, client_pb2.Answer):
            raise self._gone(exchange)
        if reply.HasField("refusal"):
            refused = client_pb2.Answer(outcome=common_pb2.OUTCOME_ABORTED, cause=reply.refusal)
            raise results.failure(refused, self._asked(exchange))
        raise results.AlreadyCommitted(results.conclude(reply.holder, self._asked(exchange), self._client.coded))

    def _asked(self, exchange: Exchange) -> results.Asked:
        return self._asked_as(exchange.transaction_id)

    def _asked_as(self, transaction_id: str) -> results.Asked:
        key = self._terms.key
        body = INTERACTIVE_HASH if key else b""
        return results.Asked(transaction_id, self._tally.participants, self.first_attempt_ms, key, body)

    # ---- what is wrong

    def _live_exchange(self) -> Exchange:
        """The exchange of an active transaction; raises when it is over, or was aborted meanwhile."""
        if self._state is not _State.ACTIVE or self._exchange is None:
            raise self._not_active("work")
        if not self._session.is_open(self._exchange):
            self._state = _State.OVER
            raise self._gone(self._exchange)
        return self._exchange

    def _gone(self, exchange: Exchange) -> TrothError:
        """Why a transaction that was never asked to commit is over; for all but heuristics, it is certainly aborted."""
        over = exchange.over
        if isinstance(over, client_pb2.Answer):
            return results.failure(over, self._asked(exchange))
        reason = over or Reason.COORDINATOR_AWAY
        return Aborted(reason, "it ended before it was asked to commit", transaction_id=exchange.transaction_id)

    def _not_active(self, wish: str) -> RequestError:
        name = self.transaction_id or "the transaction"
        hint = "Use it in its own `async with` block, before it ends, and make a new one for the next."
        return RequestError(Reason.NOT_ACTIVE, f"cannot {wish}: {name} {self._state.value}", hint=hint)
