"""The client: one stream to the coordinator, any number of transactions at a time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import grpc.aio

from participant_sdk.carriers import Carried, aio_carriers
from participant_sdk.client import checks, results, traced
from participant_sdk.client.cell import Sessions
from participant_sdk.client.connection import Connection
from participant_sdk.client.exchange import Lost
from participant_sdk.client.results import Asked, Committed
from participant_sdk.client.retry import ATTEMPTS, retried
from participant_sdk.client.session import Session
from participant_sdk.client.transaction import Terms, Transaction, current_transaction, refuse_nesting, terms_of
from participant_sdk.codec import Coded, PayloadCodec
from participant_sdk.frameworks.clients import Http, carry
from participant_sdk.seat import Seat
from troth import forks, tracing
from troth.address import check_dialled
from troth.backoff import Backoff
from troth.errors import Aborted, Reason, RequestError
from troth.identity.tls import Tls
from troth.ids import TransactionId, check_name, check_participant
from troth.keys import body_hash
from troth.logs import encodable
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
    if not isinstance(operation, str) or not operation or encodable(operation) != operation:
        raise RequestError(Reason.INVALID_NAME, f"{operation!r} is no name of an operation")
    return Call(participant, operation, encode_arguments(arguments))


class Client:
    """Runs transactions at one coordinator.

    `address`         `HOST:PORT` of the coordinator, or of each of its nodes: `HOST:PORT,HOST:PORT`.
    `grace_seconds`   how much longer than a transaction's `timeout` the outcome is waited for.
    `pending_max`     transactions that may be open at a time; the next one waits until there is room.

    `tls`             how the coordinator is believed, and who this client is; without it nothing is encrypted.
    `codec`           what encodes arguments and decodes results, so that the coordinator sees neither; participants need the same.

    Raises `ConfigError` for what is no address, and for files of TLS that cannot be used.

    Use it as `async with Client(...) as client`; entering does not wait for the coordinator. Leaving it waits at most
    `grace_seconds` for the outcomes of what is open, and rolls back what was not asked to commit.
    """

    def __init__(
        self, address: str, *, grace_seconds: float = GRACE_SECONDS, pending_max: int = PENDING_MAX, tls: Tls | None = None,
        codec: PayloadCodec | None = None,
    ) -> None:  # fmt: skip
        self.address = check_dialled(address)
        if tls is not None:
            tls.check()
        self._tls = tls
        self.coded = None if codec is None else Coded(codec)
        """The codec at work."""
        self.grace_seconds = checks.timeout_ms(grace_seconds) / 1000
        self._pending_max = checks.positive("pending_max", pending_max)
        self._running: Sessions | None = None

    async def __aenter__(self) -> Client:
        if self._running is not None:
            raise RequestError(Reason.INVALID_ARGUMENT, "a client is entered once", hint="Make a new Client.")
        forks.check_channels()
        self._running = Sessions(self._session)
        self._running.start()
        return self

    def _session(self, seat: Seat) -> Session:
        connect = functools.partial(Connection, tls=self._tls)
        return Session(self.address, pending_max=self._pending_max, connect=connect, seat=seat)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._running is not None
        await self._running.stop(self.grace_seconds)

    @property
    def session(self) -> Session:
        """The session for work without a key. Raises `RequestError` outside `async with`."""
        return self.sessions.home

    @property
    def sessions(self) -> Sessions:
        """The sessions with the coordinator, or with the shards of its cell. Raises `RequestError` outside `async with`."""
        if self._running is None:
            raise RequestError(
                Reason.INVALID_ARGUMENT, "the client was not entered", hint="Use it inside `async with Client(...) as client`."
            )
        self._running.home.check_place()
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
        attempts: int = ATTEMPTS,
    ) -> Committed:
        """Run all operations, everywhere or nowhere; calls of one participant run in the order given.

        `timeout`           seconds until the coordinator aborts what is not decided.
        `key`               idempotency key: at most one commit under it, however often it is run.
        `wait`              answer when the decision is "logged" (durable), or "complete" (every participant has done it).
        `first_attempt_ms`  when the business action was first tried, for a caller who retries by himself.
        `hold_read_locks`   keep the locks of branches that only read until the decision.
        `attempts`          how often to try, with back-off, when it aborts for a reason that may pass; none begins later than
                            `timeout` after the first. `Committed.attempts` says which one it was.

        Raises `RequestError` (nothing has run), `Aborted` (nothing happened), `OutcomeUnknown` (ask with `get`) or
        `HeuristicOutcome`. Cancelling the caller cancels nothing at the coordinator.
        """
        refuse_nesting()
        if not calls:
            raise RequestError(Reason.INVALID_ARGUMENT, "there is nothing to run: name at least one call")
        terms = terms_of(timeout, key, wait, first_attempt_ms, hold_read_locks)
        request = _run_request(self._on_the_way(calls, terms), terms)
        work = self._attempted(request, terms, attempts)
        return await (work if tracing.spans is None else traced.one_shot(tracing.spans, request.trace, work))

    def _on_the_way(self, calls: Sequence[Call], terms: Terms) -> Sequence[Call]:
        """Calls with arguments that only their participants can read, where there is a codec. Raises `RequestError`."""
        coded = self.coded
        if coded is None:
            return calls
        if terms.key:
            coded.check_steady()
        return [one._replace(arguments=coded.encoded_arguments(*one)) for one in calls]

    async def _attempted(self, request: client_pb2.RunRequest, terms: Terms, attempts: int) -> Committed:
        if attempts == 1:
            return await self._run(request, terms)
        made = 0

        async def attempt() -> Committed:
            nonlocal made
            made += 1
            return await self._run(request, terms)

        seconds, has_key = terms.timeout_seconds, bool(terms.key)
        done = await retried(checks.positive("attempts", attempts), attempt, keyed=lambda _: has_key, seconds=seconds)
        done.attempts = made
        return done

    async def _run(self, request: client_pb2.RunRequest, terms: Terms) -> Committed:
        sessions = self.sessions
        now = asyncio.get_running_loop().time
        started = now()
        request.timeout_ms = terms.timeout_ms
        while True:
            session = sessions.of_work(terms.key)
            if not session.ready:
                session = await self.ready_session(_asked("", request, terms), started + terms.timeout_seconds)
                request.timeout_ms = max(1, terms.timeout_ms - int((now() - started) * 1000))
            self.check_terms(terms, session)
            checks.within_limits(request.branches, request.ByteSize(), session.limits)
            call = None if tracing.spans is None else traced.request(tracing.spans, traced.RUN, self.address, request.trace)
            exchange = session.open("runs", request, started + terms.timeout_seconds + self.grace_seconds)
            assert exchange.reply is not None
            reply = await (exchange.reply if call is None else traced.answered(call, exchange.reply))
            if reply is not Lost.NEVER_SENT:
                break
        if isinstance(reply, client_pb2.Answer) and reply.outcome == common_pb2.OUTCOME_COMMITTED:
            return Committed(reply, exchange.transaction_id, self.coded)
        asked = _asked(exchange.transaction_id, request, terms)
        if isinstance(reply, client_pb2.Answer):
            raise results.failure(reply, asked)
        if reply is Lost.DEADLINE_NEVER_SENT:
            message = f"it could not be sent in time, and never will be{session.why_silent()}"
            raise results.never_sent(Aborted(Reason.COORDINATOR_AWAY, message, transaction_id=asked.transaction_id), asked)
        return await self.settle(asked, exchange.deadline)

    async def ready_session(self, asked: Asked, deadline: float) -> Session:
        """A session on which a transaction may be opened. Raises what `results.never_sent` makes of it when the deadline comes
        first."""
        try:
            return await self.sessions.ready(asked.key, deadline)
        except Aborted as away:
            raise results.never_sent(away, asked) from None

    def check_terms(self, terms: Terms, session: Session) -> None:
        """Raise `RequestError` when the coordinator would refuse this timeout or key."""
        checks.within_timeout_and_key(terms.timeout_ms, terms.key, session.limits)

    # ---- interactive

    def transaction(
        self,
        *,
        timeout: float = TIMEOUT_SECONDS,
        key: str | None = None,
        wait: str = "logged",
        first_attempt_ms: int | None = None,
        hold_read_locks: bool = False,
        one_call_each: bool = False,
    ) -> Transaction:
        """An interactive transaction, for `async with`; it begins when the block is entered. Arguments are those of `run`, and

        `one_call_each`     no service is called twice: each call is its service's last one (see `Transaction.last_call`).
        """
        terms = terms_of(timeout, key, wait, first_attempt_ms, hold_read_locks, one_call_each)
        return Transaction(self, self.sessions, terms)

    def interceptors(self) -> Sequence[grpc.aio.ClientInterceptor]:
        """For `grpc.aio.insecure_channel(address, interceptors=...)`: calls on it take part in the transaction around them."""
        return aio_carriers(self._around)

    def carry(self, http: Http) -> Http:
        """Make the calls of an `httpx.AsyncClient`, an `httpx.Client` or a `requests.Session` take part in the transaction around
        them, at services with Troth's middleware; returns the client."""
        return carry(http, self._around)

    def _around(self) -> Carried | None:
        """The transaction of this client that surrounds a call."""
        tx = current_transaction()
        return None if tx is None or tx.client is not self else tx.carried()

    # ---- asking

    async def get(
        self,
        transaction_id: str,
        *,
        participants: Sequence[str] = (),
        first_attempt_ms: int | None = None,
        key: str | None = None,
        body_hash: bytes = b"",
        timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - it ends in OutcomeUnknown, not in TimeoutError
    ) -> Committed:
        """What became of a transaction: returned or raised as by `run`. Asks again, with back-off, until `timeout` seconds.

        With the participants and the time of the first attempt (`OutcomeUnknown` has both) the coordinator can settle what
        it has no record of; without them that stays `OutcomeUnknown`. What was asked for with a key must be asked about with it:
        the answer is then that of the key, whichever attempt holds it. `body_hash` (`OutcomeUnknown` has it too) tells the
        coordinator that it is the same request.
        """
        TransactionId.parse(transaction_id)
        for participant in participants:
            check_participant(participant)
        first = 0 if first_attempt_ms is None else checks.first_attempt(first_attempt_ms)
        deadline = asyncio.get_running_loop().time() + checks.timeout_ms(timeout) / 1000
        asked = Asked(transaction_id, tuple(participants), first, checks.key_text(key or None), body_hash)
        return await self.settle(asked, deadline)

    async def settle(self, asked: Asked, deadline: float) -> Committed:
        """Ask until there is an outcome or the deadline (in the loop's time) is there."""
        request = client_pb2.GetRequest(**asked._asdict())
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            session = self.sessions.of_question(asked.transaction_id, asked.key)
            answer = await session.question(request, deadline)
            if answer is None:
                raise results.unknown(Reason.IN_DOUBT, f"no answer came in time{session.why_silent()}", asked)
            delay = ASK_AGAIN.delay_seconds(attempt, asked.transaction_id)
            if not _may_change(answer, asked) or loop.time() + delay >= deadline:
                return results.conclude(answer, asked, self.coded)
            await asyncio.sleep(delay)
            attempt += 1


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


def _asked(transaction_id: str, request: client_pb2.RunRequest, terms: Terms) -> Asked:
    """What to ask about a run whose answer is missing."""
    branches = request.branches[:]
    body = body_hash(branches) if terms.key else b""
    return Asked(transaction_id, tuple(branch.participant for branch in branches), terms.first_attempt_ms, terms.key, body)


def _may_change(answer: client_pb2.Answer, asked: Asked) -> bool:
    """Whether asking again may bring another answer."""
    if answer.outcome != common_pb2.OUTCOME_IN_DOUBT:
        return False
    # A transaction that the coordinator has no record of stays so, unless there are participants who can be asked.
    return bool(asked.participants) or answer.cause.reason != Reason.UNKNOWN_TRANSACTION.name
