"""Interactive transactions: begin, work through services' own APIs, commit.

    NEW ──enter──→ ACTIVE ──normal exit, commit()──→ COMMITTING ──→ OVER
                      └────exception, abort()───────────────────────→ OVER

The state is the client's own view. The coordinator decides; a transaction that it aborted meanwhile says so at the next use.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from enum import Enum
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from participant_sdk.client import checks, results
from participant_sdk.client.session import Exchange, Lost, Reply, Session
from troth.errors import Aborted, Reason, RequestError, TrothError
from troth.ids import check_name
from troth.v1 import client_pb2, common_pb2

if TYPE_CHECKING:
    from participant_sdk.client.client import Client

_current: ContextVar[Transaction | None] = ContextVar("troth_transaction", default=None)


def current_transaction() -> Transaction | None:
    """The transaction whose `async with` block surrounds the caller, also when it is over already."""
    return _current.get()


def refuse_nesting() -> None:
    """Raise `RequestError` (INVALID_ARGUMENT) inside the block of a transaction that is not over."""
    outer = _current.get()
    if outer is not None and outer.is_active:
        raise RequestError(
            Reason.INVALID_ARGUMENT,
            f"transaction {outer.transaction_id} is open here, and what is run now would not be part of it",
            hint="Transactions do not nest: do it in the same transaction, or after its block.",
        )


class Terms(NamedTuple):
    """What was asked for when the transaction was made."""

    timeout_seconds: float
    timeout_ms: int
    key: str
    first_attempt_ms: int
    wait: common_pb2.Wait.ValueType
    hold_read_locks: bool


class _State(Enum):
    NEW = "has not begun"
    ACTIVE = "is active"
    COMMITTING = "is committing"
    OVER = "is over"


class Transaction:
    """One interactive transaction. Make it with `Client.transaction`, use it as `async with ... as tx`, once.

    A normal end of the block commits; an exception aborts and goes on. Calls made inside the block through channels with
    `Client.interceptors` take part by themselves; for anything else carry `context()` by hand and `acknowledge` what was done.
    """

    def __init__(self, client: Client, session: Session, terms: Terms) -> None:
        self._client = client
        self._session = session
        self._terms = terms
        self._state = _State.NEW
        self._exchange: Exchange | None = None
        self._deadline = 0.0
        self._call_numbers = count(1)
        self._acknowledged: dict[str, int] = {}
        self.outcome: results.Committed | None = None
        """How it ended, once it is committed."""
        self._cause: common_pb2.Cause | None = None

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
        return dict(self._acknowledged)

    @property
    def refusal(self) -> TrothError | None:
        """Why the first call failed of which the service said so, such as `Aborted` with CONFLICT; otherwise `None`.

        gRPC itself raises `AioRpcError`; this is what `@transactional` looks at to see whether a retry may help.
        """
        return None if self._cause is None else results.refusal(self._cause, self.transaction_id)

    # ---- the block

    async def __aenter__(self) -> Transaction:
        """Begin. Raises `AlreadyCommitted` when the key was used before and that transaction committed."""
        refuse_nesting()
        if self._state is not _State.NEW:
            raise self._not_active("begin")
        await self._begin()
        self._state = _State.ACTIVE
        _current.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._state is _State.ACTIVE and kind is None:
                await self.commit()
        finally:
            if self._state is _State.ACTIVE:
                # Not waited for: the exception goes on at once, and a lost abort is a timeout at the coordinator.
                self._ask_abort()
            _current.set(None)

    # ---- ending it

    async def commit(self) -> results.Committed:
        """Commit, and return the outcome. Raises `Aborted`, `OutcomeUnknown` or `HeuristicOutcome`.

        Cancelling the caller does not cancel the commit; only its outcome is then not heard.
        """
        if self._state is not _State.ACTIVE:
            raise self._not_active("commit")
        exchange = self._live_exchange()
        self._state = _State.COMMITTING
        acknowledged = [
            client_pb2.AcknowledgedOperations(participant=name, count=number) for name, number in sorted(self._acknowledged.items())
        ]
        request = client_pb2.CommitRequest(number=exchange.number, acknowledged=acknowledged, wait=self._terms.wait)
        exchange.deadline = max(exchange.deadline, asyncio.get_running_loop().time() + self._client.grace_seconds)
        reply = await self._session.ask(exchange, "commits", request)
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
        return self._session.ask(exchange, "aborts", client_pb2.AbortRequest(number=exchange.number))

    async def _concluded(self, exchange: Exchange, reply: Reply) -> results.Committed:
        asked = self._asked(exchange)
        if isinstance(reply, client_pb2.Answer):
            return results.conclude(reply, asked)
        if reply in (Lost.NEVER_SENT, Lost.DEADLINE_NEVER_SENT):
            # The commit was not sent and never will be, so nobody can decide it: this is knowledge.
            raise self._gone(exchange)
        return await self._client.settle(asked, exchange.deadline)

    # ---- taking part

    def context(self) -> common_pb2.TransactionContext:
        """A context for one call, to carry by hand: in a message, or in the metadata `troth-context-bin`, serialised.

        Each call needs its own; the same one twice says that the call is repeated.
        """
        exchange = self._live_exchange()
        return common_pb2.TransactionContext(
            transaction_id=exchange.transaction_id,
            first_attempt_ms=self.first_attempt_ms,
            call_id=str(next(self._call_numbers)),
        )

    def acknowledge(self, participant: str, operations: int = 1) -> None:
        """Say that so many more operations of a participant succeeded. Interceptors do this by themselves."""
        check_name("participant", participant)
        checks.positive("operations", operations)
        if self._state is not _State.ACTIVE:
            raise self._not_active("acknowledge operations")
        self._add(participant, operations)

    def call_failed(self, cause: common_pb2.Cause) -> None:
        """Remember why a call failed; only the first one counts (the interceptors use it)."""
        if self._cause is None:
            self._cause = cause

    def count_call(self, acknowledged: client_pb2.AcknowledgedOperations) -> None:
        """Add what a call acknowledged (the interceptors use it)."""
        if acknowledged.participant:
            self._add(acknowledged.participant, acknowledged.count)

    def _add(self, participant: str, operations: int) -> None:
        self._acknowledged[participant] = self._acknowledged.get(participant, 0) + operations

    # ---- beginning

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._deadline = started + self._terms.timeout_seconds
        while True:
            if not self._session.ready:
                await self._session.wait_ready(self._deadline)
            self._client.check_terms(self._terms)
            left_ms = self._terms.timeout_ms - int((loop.time() - started) * 1000)
            request = client_pb2.BeginRequest(
                timeout_ms=max(1, left_ms),
                key=self._terms.key,
                first_attempt_ms=self._terms.first_attempt_ms,
                hold_read_locks=self._terms.hold_read_locks,
            )
            self._exchange = self._session.open("begins", request, self._deadline + self._client.grace_seconds)
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
            message = "the coordinator did not answer the begin in time"
            raise Aborted(Reason.COORDINATOR_AWAY, message, transaction_id=exchange.transaction_id)
        if isinstance(reply, client_pb2.Answer):
            raise self._gone(exchange)
        if reply.HasField("refusal"):
            refused = client_pb2.Answer(outcome=common_pb2.OUTCOME_ABORTED, cause=reply.refusal)
            raise results.failure(refused, self._asked(exchange))
        raise results.AlreadyCommitted(self._terms.key, results.conclude(reply.holder, self._asked(exchange)))

    def _asked(self, exchange: Exchange) -> results.Asked:
        return results.Asked(exchange.transaction_id, tuple(sorted(self._acknowledged)), self.first_attempt_ms)

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
        return RequestError(Reason.NOT_ACTIVE, f"cannot {wish}: {name} {self._state.value}")
