"""The workload: clients that move money, place orders over several participants, read, and retry.

A client keeps the rules of `participant_sdk.client`: it numbers its transactions, resumes its session, repeats what was not
answered, and after a restart of the coordinator asks what became of what it had sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coordinator.core import events as into
from tests.sim.bank import operation
from tests.sim.network import Stream
from tests.sim.roles import CoordinatorProcess, ParticipantProcess
from tests.sim.world import EPOCH_MS, World
from troth.v1 import client_pb2, common_pb2

Work = dict[str, list[common_pb2.Operation]]

COMMITTED = common_pb2.OUTCOME_COMMITTED
ABORTED = common_pb2.OUTCOME_ABORTED
IN_DOUBT = common_pb2.OUTCOME_IN_DOUBT


@dataclass
class Attempt:
    """One transaction of a client, as the client saw it."""

    transaction_id: str
    number: int
    work: Work
    key: str
    interactive: bool
    first_attempt_ms: int
    timeout_ms: int
    sent: bool = False
    """Whether a run or a commit may have reached the coordinator."""
    answered: bool = False
    acknowledged: dict[str, int] = field(default_factory=dict)
    committing: bool = False
    aborting: bool = False
    begun: bool = False
    asks: str = ""
    """The transaction to ask about, when it is another one."""


class History:
    """What clients were told; the checkers' second witness."""

    def __init__(self) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.told: dict[str, set[int]] = {}
        self.keys: dict[str, set[str]] = {}
        """For each key the transactions that were told committed."""
        self.refused: set[str] = set()

    def tell(self, transaction_id: str, outcome: int) -> None:
        """A client was told an outcome."""
        self.told.setdefault(transaction_id, set()).add(outcome)


class Client:
    """One client process; it never crashes, but it loses its connection."""

    def __init__(
        self,
        world: World,
        name: str,
        coordinator: CoordinatorProcess,
        participants: dict[str, ParticipantProcess],
        history: History,
    ) -> None:
        self.world = world
        self.name = name
        self.coordinator = coordinator
        self.participants = participants
        self.history = history
        self.session = ""
        self.stream: Stream | None = None
        self.pending: dict[str, Attempt] = {}
        self.asking: dict[str, Attempt] = {}
        self._number = 0
        self._connection = 0
        self._calls = 0
        self._answered: set[int] = set()
        self.on_end: dict[str, Callable[[int, common_pb2.Cause | None], None]] = {}
        self.stopped = False

    # ---- the connection

    def connect(self) -> None:
        """Dial until the coordinator is there."""
        if self.stream is not None:
            return
        coordinator = self.coordinator
        if not coordinator.alive or coordinator.paused:
            self.world.after(self.world.random.uniform(0.01, 0.1), self.connect)
            return
        self._connection += 1
        number = self._connection
        try:
            self.stream, session = coordinator.connect(
                self.session, lambda f, m: self._hear(number, f, m), lambda: self._lost(number)
            )
        except Exception as error:
            if type(error).__name__ not in ("Crashed", "DiskFailed"):
                raise
            coordinator.crash("while a client connected")
            self.world.after(0.01, self.connect)
            return
        resumed, self.session = session == self.session, session
        if resumed:
            self.world.reach("client resumed its session")
            for attempt in list(self.pending.values()):
                self._repeat(attempt)
        else:
            self._number = 0
            self._answered.clear()
            for attempt in list(self.pending.values()):
                self._orphan(attempt)
        for attempt in list(self.asking.values()):
            self._ask(attempt)

    def _lost(self, number: int) -> None:
        if number == self._connection and self.stream is not None:
            self.stream = None
            self.world.after(self.world.random.uniform(0.001, 0.05), self.connect)

    def _send(self, event: Any) -> None:
        if self.stream is not None:
            self.stream.send(1, "event", event)

    def _repeat(self, attempt: Attempt) -> None:
        if not attempt.interactive:
            self._send_run(attempt)
            return
        if not attempt.begun:
            self._send_begin(attempt)
        if attempt.committing:
            self._send_commit(attempt)
        elif attempt.aborting:
            self._send(into.Abort(self.session, client_pb2.AbortRequest(number=attempt.number)))

    def _orphan(self, attempt: Attempt) -> None:
        """The session is gone, and with it every answer that it owed."""
        self.pending.pop(attempt.transaction_id, None)
        if attempt.sent:
            self.asking[attempt.transaction_id] = attempt
        else:
            self._end(attempt, ABORTED, None, told=True)

    # ---- doing

    def start(self, work: Work, *, key: str, interactive: bool, timeout_ms: int, first_attempt_ms: int) -> Attempt | None:
        """Begin one transaction; `None` without a connection."""
        if self.stream is None or not self.session:
            return None
        self._number += 1
        attempt = Attempt(
            f"{self.session}.{self._number}", self._number, work, key, interactive, first_attempt_ms, timeout_ms
        )  # fmt: skip
        self.pending[attempt.transaction_id] = attempt
        self.history.attempts[attempt.transaction_id] = attempt
        if interactive:
            self._send_begin(attempt)
        else:
            self._send_run(attempt)
        return attempt

    def _send_run(self, attempt: Attempt) -> None:
        attempt.sent = True
        request = client_pb2.RunRequest(
            number=attempt.number, timeout_ms=attempt.timeout_ms, key=attempt.key, first_attempt_ms=attempt.first_attempt_ms
        )  # fmt: skip
        for name, operations in attempt.work.items():
            request.branches.add(participant=name, operations=operations)
        if self.world.random.random() < 0.2:
            request.wait = common_pb2.WAIT_COMPLETE
        self._send(into.Run(self.session, request))
        self._perhaps_abort(attempt)

    def _perhaps_abort(self, attempt: Attempt) -> None:
        """A client that changes its mind when it is too late: whoever decided first wins."""
        if self.world.random.random() < 0.1:
            self.world.reach("client abort against the commit")
            request = client_pb2.AbortRequest(number=attempt.number)
            session = self.session
            self.world.after(self.world.random.uniform(0.0, 0.02), lambda: self._send_in(session, into.Abort(session, request)))

    def _send_in(self, session: str, event: Any) -> None:
        if session == self.session:
            self._send(event)

    def _send_begin(self, attempt: Attempt) -> None:
        request = client_pb2.BeginRequest(
            number=attempt.number, timeout_ms=attempt.timeout_ms, key=attempt.key, first_attempt_ms=attempt.first_attempt_ms
        )  # fmt: skip
        self._send(into.Begin(self.session, request))

    def _send_commit(self, attempt: Attempt) -> None:
        attempt.sent = True
        request = client_pb2.CommitRequest(number=attempt.number)
        for name, count in attempt.acknowledged.items():
            request.acknowledged.add(participant=name, count=count)
        self._send(into.Commit(self.session, request))
        self._perhaps_abort(attempt)

    # ---- hearing

    def _hear(self, number: int, field: str, message: Any) -> None:
        if field == "got":
            self._hear_got(*message)
        elif number != self._connection:
            return  # of an earlier stream, and perhaps of an earlier session with the same numbers
        elif field == "begun":
            self._hear_begun(message)
        else:
            self._hear_answer(message)

    def _hear_begun(self, message: client_pb2.BeginResponse) -> None:
        attempt = self.pending.get(f"{self.session}.{message.number}")
        if attempt is None or attempt.begun:
            return
        if message.HasField("refusal"):
            self._end(attempt, ABORTED, message.refusal, told=False)
        elif message.HasField("holder"):
            self.history.tell(message.holder.transaction_id, message.holder.outcome)
            self._end(attempt, message.holder.outcome, message.holder.cause, told=False)
        else:
            attempt.begun = True
            self._call_next(attempt, [(name, op) for name, ops in attempt.work.items() for op in ops])

    def _hear_answer(self, answer: client_pb2.Answer) -> None:
        attempt = self.pending.get(f"{self.session}.{answer.number}")
        self._answered.add(answer.number)
        self._send(into.AnswersSeen(self.session, self._below()))
        if attempt is None:
            return
        self.history.tell(answer.transaction_id, answer.outcome)
        if attempt.key and answer.outcome == COMMITTED:
            self.history.keys.setdefault(attempt.key, set()).add(answer.transaction_id)
        if answer.outcome == IN_DOUBT:
            self.pending.pop(attempt.transaction_id, None)
            # With a key it is the holder that is in doubt, and the holder that has to be asked about.
            attempt.asks = answer.transaction_id
            self.asking[attempt.transaction_id] = attempt
            self._ask(attempt)
        else:
            self._end(attempt, answer.outcome, answer.cause, told=False)

    def _below(self) -> int:
        open_numbers = [
            attempt.number for attempt in self.pending.values() if attempt.transaction_id.startswith(self.session + ".")
        ]
        return min([number for number in open_numbers if number not in self._answered], default=self._number + 1)

    def _ask(self, attempt: Attempt) -> None:
        if attempt.transaction_id not in self.asking or self.stopped:
            return
        request = client_pb2.GetRequest(
            transaction_id=attempt.asks or attempt.transaction_id,
            participants=list(attempt.work),
            first_attempt_ms=attempt.first_attempt_ms,
        )
        self._send(into.Get((self.session, attempt.transaction_id), request))
        self.world.after(self.world.random.uniform(0.5, 1.5), lambda: self._ask(attempt))

    def _hear_got(self, transaction_id: str, answer: client_pb2.Answer) -> None:
        attempt = self.asking.get(transaction_id)
        if answer.outcome == IN_DOUBT:
            return
        self.history.tell(answer.transaction_id, answer.outcome)
        if attempt is not None:
            del self.asking[transaction_id]
            self.world.reach("client asked and was told")
            self._end(attempt, answer.outcome, answer.cause, told=False)

    def _end(self, attempt: Attempt, outcome: int, cause: common_pb2.Cause | None, *, told: bool) -> None:
        if told:
            self.history.tell(attempt.transaction_id, outcome)
        attempt.answered = True
        self.pending.pop(attempt.transaction_id, None)
        action = self.on_end.pop(attempt.transaction_id, None)
        if action is not None:
            action(outcome, cause)

    # ---- interactive work

    def _call_next(self, attempt: Attempt, rest: list[tuple[str, common_pb2.Operation]]) -> None:
        if attempt.answered or attempt.transaction_id not in self.pending:
            return
        if not rest:
            self._finish(attempt)
            return
        (name, op), rest = rest[0], rest[1:]
        self._calls += 1
        call_id = f"{self.name}/{self._calls}"
        done = [False]

        def answer(ok: bool, _: object) -> None:
            if done[0]:
                return
            done[0] = True
            if ok:
                attempt.acknowledged[name] = attempt.acknowledged.get(name, 0) + 1
                self._call_next(attempt, rest)
            else:
                self._give_up(attempt)

        self._call(attempt, name, op, call_id, answer)
        if not rest and self.world.random.random() < 0.1:
            # A hasty client counts the last call before its answer: Prepare meets the running operation.
            self.world.reach("Prepare against a running operation")
            done[0] = True
            attempt.acknowledged[name] = attempt.acknowledged.get(name, 0) + 1
            self.world.after(self.world.random.uniform(0.0, 0.005), lambda: self._finish(attempt))
            return
        if self.world.random.random() < 0.2:
            self.world.reach("repeated interactive call")
            self.world.after(self.world.random.uniform(0, 0.05), lambda: self._call(attempt, name, op, call_id, answer))
        self.world.after(2.0, lambda: answer(False, None))

    def _call(
        self, attempt: Attempt, name: str, op: common_pb2.Operation, call_id: str, answer: Callable[[bool, object], None]
    ) -> None:
        participant = self.participants[name]
        context = (attempt.transaction_id, call_id, attempt.first_attempt_ms)
        if participant.alive:
            delay = self.coordinator.network.delay()
            participant.later(delay, lambda: participant.call(context, op, answer))

    def _finish(self, attempt: Attempt) -> None:
        if attempt.answered or attempt.transaction_id not in self.pending:
            return
        if self.world.random.random() < 0.1:
            self._give_up(attempt)
            return
        attempt.committing = True
        self._send_commit(attempt)

    def _give_up(self, attempt: Attempt) -> None:
        if attempt.committing or attempt.answered or attempt.transaction_id not in self.pending:
            return
        attempt.aborting = True
        self._send(into.Abort(self.session, client_pb2.AbortRequest(number=attempt.number)))


class Workload:
    """Draws transactions: transfers, orders over several participants, reads, one-participant work, and keys that come again."""

    def __init__(self, world: World, clients: list[Client], accounts: dict[str, list[str]]) -> None:
        self.world = world
        self.clients = clients
        self.accounts = accounts
        self.started = 0
        self._keys = 0

    def schedule(self, count: int, seconds: float) -> None:
        """Spread transactions over a time."""
        for _ in range(count):
            self.world.after(self.world.random.uniform(0.0, seconds), self._one)

    def _one(self) -> None:
        random = self.world.random
        kind = random.random()
        names = sorted(self.accounts)
        if kind < 0.45:
            source, target = random.sample(names, 2)
            work = self._move(source, target)
        elif kind < 0.6:
            work = self._order(names)
        elif kind < 0.8:
            work = self._alone(random.choice(names))
        else:
            work = {name: [operation("read", random.choice(self.accounts[name]))] for name in random.sample(names, 2)}
        key = ""
        if random.random() < 0.4:
            self._keys += 1
            key = f"k{self._keys}"
        self._attempt(work, key, random.random() < 0.4, self.world.now, 0)

    def _move(self, source: str, target: str) -> Work:
        amount = self.world.random.randint(1, 30)
        debit = operation("debit", self.world.random.choice(self.accounts[source]), amount)
        return {source: [debit], target: [operation("credit", self.world.random.choice(self.accounts[target]), amount)]}

    def _alone(self, name: str) -> Work:
        one, other = self.world.random.sample(self.accounts[name], 2)
        amount = self.world.random.randint(1, 30)
        return {name: [operation("debit", one, amount), operation("credit", other, amount)]}

    def _order(self, names: list[str]) -> Work:
        payer, *others = self.world.random.sample(names, len(names))
        amounts = [self.world.random.randint(1, 10) for _ in others]
        work: Work = {payer: [operation("debit", self.world.random.choice(self.accounts[payer]), sum(amounts))]}
        for name, amount in zip(others, amounts, strict=True):
            work[name] = [operation("credit", self.world.random.choice(self.accounts[name]), amount)]
        return work

    def _attempt(self, work: Work, key: str, interactive: bool, began: float, retries: int) -> None:
        client = self.world.random.choice(self.clients)
        first_attempt_ms = EPOCH_MS + int(began * 1000)
        timeout_ms = self.world.random.choice([50, 400, 2000])
        attempt = client.start(work, key=key, interactive=interactive, timeout_ms=timeout_ms, first_attempt_ms=first_attempt_ms)
        if attempt is None:
            return
        self.started += 1

        def ended(outcome: int, cause: common_pb2.Cause | None) -> None:
            retry = outcome == ABORTED and retries < 3
            again = key and outcome in (COMMITTED, ABORTED) and retries < 3 and self.world.random.random() < 0.3
            if retry or again:
                self.world.reach("key retried after a commit" if again and outcome == COMMITTED else "retry after an abort")
                delay = self.world.random.uniform(0.0, 0.2)
                self.world.after(delay, lambda: self._attempt(work, key, interactive, began, retries + 1))

        client.on_end[attempt.transaction_id] = ended
        if key and not interactive and self.world.random.random() < 0.3:
            self.world.reach("key joined while running")
            delay = self.world.random.uniform(0.0, 0.05)
            self.world.after(delay, lambda: self._attempt(work, key, False, began, 3))
