"""The client: one stream to the coordinator, any number of transactions at a time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import grpc.aio

from participant_sdk.client import checks, results
from participant_sdk.client.interceptors import client_interceptors
from participant_sdk.client.results import Asked, Committed
from participant_sdk.client.retry import retried
from participant_sdk.client.session import Lost, Session
from participant_sdk.client.transaction import Terms, Transaction, refuse_nesting
from troth.backoff import Backoff
from troth.errors import Aborted, Reason, RequestError
from troth.ids import TransactionId, check_name
from troth.v1 import client_pb2, common_pb2
from troth.values import encode_arguments

TIMEOUT_SECONDS = 10.0
"""The timeout of a transaction that names none."""
GRACE_SECONDS = 5.0
"""How much longer than `timeout` the client waits for the outcome before it raises `OutcomeUnknown`."""
PENDING_MAX = 10_000
"""Transactions that one client may have open; the next one waits."""
ASK_AGAIN = Backoff(first_seconds=0.05, cap_seconds=2.0)
"""The wait between two questions about a transaction whose outcome is not known yet."""


_check_participant = functools.lru_cache(maxsize=1024)(functools.partial(check_name, "participant"))
"""The participants are few, and called again and again."""


class Call(NamedTuple):
    """One operation of a one-shot transaction; make it with `call`."""

    participant: str
    name: str
    arguments: bytes
    """A serialised Arguments message."""

    @property
    def operation(self) -> common_pb2.Operation:
        """The wire form."""
        return common_pb2.Operation(name=self.name, arguments=self.arguments)


def call(participant: str, operation: str, /, **arguments: object) -> Call:
    """Name an operation of a participant, with its keyword arguments.

    Arguments are None, bool, int, float, str, bytes, Decimal, and lists and dicts of them. Raises `RequestError` with
    INVALID_NAME, or with BAD_ARGUMENTS, naming the argument.
    """
    _check_participant(participant)
    if not isinstance(operation, str) or not operation:
        raise RequestError(Reason.INVALID_NAME, f"{operation!r} is no name of an operation")
    return Call(participant, operation, encode_arguments(arguments))


class Client:
    """Runs transactions at one coordinator.

    `address`         `HOST:PORT` of the coordinator.
    `grace_seconds`   how much longer than a transaction's `timeout` the outcome is waited for.
    `pending_max`     transactions that may be open at a time; the next one waits until there is room.

    Use it as `async with Client(...) as client`; entering does not wait for the coordinator. Leaving it waits at most
    `grace_seconds` for the outcomes of what is open, and rolls back what was not asked to commit.
    """

    def __init__(self, address: str, *, grace_seconds: float = GRACE_SECONDS, pending_max: int = PENDING_MAX) -> None:
        self.address = address
        self.grace_seconds = checks.timeout_ms(grace_seconds) / 1000
        self._pending_max = checks.positive("pending_max", pending_max)
        self._running: Session | None = None

    async def __aenter__(self) -> Client:
        if self._running is not None:
            raise RequestError(Reason.INVALID_ARGUMENT, "a client is entered once")
        self._running = Session(self.address, pending_max=self._pending_max)
        self._running.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.session.stop(self.grace_seconds)

    @property
    def session(self) -> Session:
        """The session with the coordinator. Raises `RequestError` outside `async with`."""
        if self._running is None:
            raise RequestError(Reason.INVALID_ARGUMENT, "the client was not entered: use `async with Client(...)`")
        return self._running

    # ---- one-shot

    async def run(
        self,
        *calls: Call,
        timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - the coordinator's timeout: it ends the transaction, not the wait
        key: str | None = None,
        wait: str = "logged",
        first_attempt_ms: int | None = None,
        hold_read_locks: bool = False,
        attempts: int = 1,
    ) -> Committed:
        """Run all operations, everywhere or nowhere; calls of one participant run in the order given.

        `timeout`           seconds until the coordinator aborts what is not decided.
        `key`               idempotency key: at most one commit under it, however often it is run.
        `wait`              answer when the decision is "logged" (durable), or "complete" (every participant has done it).
        `first_attempt_ms`  when the business action was first tried, for a caller who retries by himself.
        `hold_read_locks`   keep the locks of branches that only read until the decision.
        `attempts`          how often to try, with back-off, when it aborts for a reason that may pass.

        Raises `RequestError` (nothing has run), `Aborted` (nothing happened), `OutcomeUnknown` (ask with `get`) or
        `HeuristicOutcome`. Cancelling the caller cancels nothing at the coordinator.
        """
        refuse_nesting()
        if not calls:
            raise RequestError(Reason.INVALID_ARGUMENT, "there is nothing to run: name at least one call")
        terms = _terms(timeout, key, wait, first_attempt_ms, hold_read_locks)
        request = _run_request(calls, terms)
        if attempts == 1:
            return await self._run(request, terms)
        return await retried(checks.positive("attempts", attempts), lambda: self._run(request, terms))

    async def _run(self, request: client_pb2.RunRequest, terms: Terms) -> Committed:
        session = self.session
        now = asyncio.get_running_loop().time
        started = now()
        request.timeout_ms = terms.timeout_ms
        while True:
            if not session.ready:
                await session.wait_ready(started + terms.timeout_seconds)
                request.timeout_ms = max(1, terms.timeout_ms - int((now() - started) * 1000))
            self.check_terms(terms)
            checks.within_limits(request.branches, request.ByteSize(), session.limits)
            exchange = session.open("runs", request, started + terms.timeout_seconds + self.grace_seconds)
            assert exchange.reply is not None
            reply = await exchange.reply
            if reply is not Lost.NEVER_SENT:
                break
        if isinstance(reply, client_pb2.Answer) and reply.outcome == common_pb2.OUTCOME_COMMITTED:
            return Committed(reply, exchange.transaction_id)
        asked = Asked(exchange.transaction_id, tuple(branch.participant for branch in request.branches), terms.first_attempt_ms)
        if isinstance(reply, client_pb2.Answer):
            raise results.failure(reply, asked)
        if reply is Lost.DEADLINE_NEVER_SENT:
            message = "it could not be sent in time, and never will be"
            raise Aborted(Reason.COORDINATOR_AWAY, message, transaction_id=asked.transaction_id)
        return await self.settle(asked, exchange.deadline)

    # ---- interactive

    def transaction(
        self,
        *,
        timeout: float = TIMEOUT_SECONDS,
        key: str | None = None,
        wait: str = "logged",
        first_attempt_ms: int | None = None,
        hold_read_locks: bool = False,
    ) -> Transaction:
        """An interactive transaction, for `async with`; it begins when the block is entered. Arguments are those of `run`."""
        terms = _terms(timeout, key, wait, first_attempt_ms, hold_read_locks)
        return Transaction(self, self.session, terms)

    def interceptors(self) -> Sequence[grpc.aio.ClientInterceptor]:
        """For `grpc.aio.insecure_channel(address, interceptors=...)`: calls on it take part in the transaction around them."""
        return client_interceptors(self)

    # ---- asking

    async def get(
        self,
        transaction_id: str,
        *,
        participants: Sequence[str] = (),
        first_attempt_ms: int | None = None,
        timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - it ends in OutcomeUnknown, not in TimeoutError
    ) -> Committed:
        """What became of a transaction: returned or raised as by `run`. Asks again, with back-off, until `timeout` seconds.

        With the participants and the time of the first attempt (`OutcomeUnknown` has both) the coordinator can settle what
        it has no record of; without them that stays `OutcomeUnknown`.
        """
        TransactionId.parse(transaction_id)
        for participant in participants:
            check_name("participant", participant)
        first = 0 if first_attempt_ms is None else checks.first_attempt(first_attempt_ms)
        deadline = asyncio.get_running_loop().time() + checks.timeout_ms(timeout) / 1000
        return await self.settle(Asked(transaction_id, tuple(participants), first), deadline)

    async def settle(self, asked: Asked, deadline: float) -> Committed:
        """Ask until there is an outcome or the deadline (in the loop's time) is there."""
        request = client_pb2.GetRequest(
            transaction_id=asked.transaction_id, participants=asked.participants, first_attempt_ms=asked.first_attempt_ms
        )
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            answer = await self.session.question(request, deadline)
            if answer is None:
                raise results.unknown(Reason.IN_DOUBT, "no answer came in time", asked)
            delay = ASK_AGAIN.delay_seconds(attempt, asked.transaction_id)
            if not _may_change(answer, asked) or loop.time() + delay >= deadline:
                return results.conclude(answer, asked)
            await asyncio.sleep(delay)
            attempt += 1

    def check_terms(self, terms: Terms) -> None:
        """Raise `RequestError` when the coordinator would refuse this timeout or key."""
        checks.within_timeout_and_key(terms.timeout_ms, terms.key, self.session.limits)


def _terms(timeout: float, key: str | None, wait: str, first_attempt_ms: int | None, hold_read_locks: bool) -> Terms:
    """What a caller asked for, checked as far as that goes without the coordinator's limits."""
    return Terms(
        timeout,
        checks.timeout_ms(timeout),
        checks.key_text(key),
        checks.first_attempt(first_attempt_ms),
        checks.wait_mode(wait),
        hold_read_locks,
    )


def _run_request(calls: Sequence[Call], terms: Terms) -> client_pb2.RunRequest:
    """All but the timeout and the number, which belong to the attempt."""
    # Fields are set one by one: arguments by name take half as long again.
    request = client_pb2.RunRequest()
    request.first_attempt_ms = terms.first_attempt_ms
    request.wait = terms.wait
    if terms.key:
        request.key = terms.key
    if terms.hold_read_locks:
        request.hold_read_locks = True
    branches = request.branches
    operations: dict[str, Any] = {}
    for participant, name, arguments in calls:
        if participant not in operations:
            branch = branches.add()
            branch.participant = participant
            operations[participant] = branch.operations
        operation = operations[participant].add()
        operation.name = name
        operation.arguments = arguments
    return request


def _may_change(answer: client_pb2.Answer, asked: Asked) -> bool:
    """Whether asking again may bring another answer."""
    if answer.outcome != common_pb2.OUTCOME_IN_DOUBT:
        return False
    # A transaction that the coordinator has no record of stays so, unless there are participants who can be asked.
    return bool(asked.participants) or answer.cause.reason != Reason.UNKNOWN_TRANSACTION.name
