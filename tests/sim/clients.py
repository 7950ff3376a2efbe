"""The workload: clients that move money, place orders over several participants, read, and retry.

A client keeps the rules of `participant_sdk.client`: it numbers its transactions, resumes its session, repeats what was not
answered, and after a restart of the coordinator asks what became of what it had sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coordinator.core import events as into
from tests.sim.bank import arguments_of
from tests.sim.disk import DiskFailed
from tests.sim.network import Stream
from tests.sim.process import Crashed
from tests.sim.results import result_of
from tests.sim.roles import CoordinatorProcess, ParticipantProcess
from tests.sim.world import World
from troth.keys import INTERACTIVE_HASH, body_hash
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
    acknowledged: dict[tuple[str, int], int] = field(default_factory=dict)
    """Operations of each incarnation of each participant."""
    votes: dict[tuple[str, int], common_pb2.SealedVote] = field(default_factory=dict)
    """What each of these has voted early."""
    brought: frozenset[str] = frozenset()
    """Whose early votes its commit brought, as they were told."""
    says_last: bool = False
    """Whether its client says which call to each participant is the last one."""
    unknown: bool = False
    """Whether a call has ended, and its client does not know how."""
    committing: bool = False
    aborting: bool = False
    begun: bool = False
    asks: str = ""
    """The transaction to ask about, when it is another one."""
    random: random.Random = field(default_factory=random.Random)
    """What its client does on the way is drawn from this."""
    steady: bool = False
    """Whether its client does nothing but wait: no change of mind, no haste, no cancelled call."""
    began: float = 0.0
    ended: float = 0.0
    age: str = ""
    """`old` or `ahead` when the time of its first attempt must be refused."""
    outcome: int = 0
    """What its client was told in the end."""
    told_of: str = ""
    """The transaction whose outcome that is: the holder's, when it came with a key."""
    rounds: int = 0
    """How often a loop of questions has begun; only the last one goes on."""

    def accounts(self) -> frozenset[str]:
        """What it may lock."""
        return frozenset(arguments_of(op.arguments)[0] for operations in self.work.values() for op in operations)


def body_of(attempt: Attempt) -> bytes:
    """The hash of what it asked for."""
    if attempt.interactive:
        return INTERACTIVE_HASH
    return body_hash([client_pb2.BranchRequest(participant=name, operations=work) for name, work in attempt.work.items()])


class History:
    """What clients were told; the checkers' second witness."""

    def __init__(self) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.told: dict[str, set[int]] = {}
        self.keys: dict[str, set[str]] = {}
        """For each key the transactions that were told committed."""
        self.results: set[tuple[str, str, bytes]] = set()
        """Results that clients heard: under which key, of which transaction."""
        self.refused: set[str] = set()
        self.votes: list[common_pb2.SealedVote] = []
        """Early votes that clients were told."""

    def hear_result(self, key: str, answer: client_pb2.Answer) -> None:
        """A client asked under a key, and was answered."""
        if key and answer.outcome == COMMITTED:
            self.results.add((key, answer.transaction_id, answer.result))

    def tell(self, transaction_id: str, outcome: int) -> None:
        """A client was told an outcome."""
        self.told.setdefault(transaction_id, set()).add(outcome)


class Client:
    """One client process. It loses its connection, and it may die with everything that it knew."""

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
        self.on_orphan: Callable[[Attempt], None] = lambda attempt: None
        """Told of each attempt whose session is gone."""

    # ---- the connection

    def connect(self) -> None:
        """Dial until the coordinator is there."""
        if self.stream is not None:
            return
        coordinator = self.coordinator.answering()
        if not coordinator.alive or coordinator.paused:
            coordinator.when_up(self.connect)
            return
        if not coordinator.serving:  # the daemon listens, and answers nobody before its epoch is durable
            self.world.after(0.01, self.connect)
            return
        self._connection += 1
        number = self._connection
        try:
            self.stream, session = coordinator.connect(
                self.session, lambda f, m: self._hear(number, f, m), lambda: self._lost(number)
            )
        except (Crashed, DiskFailed):
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

    def die(self) -> None:
        """The process is gone, and with it whoever waited. A new one comes later."""
        self.world.reach("client died")
        self.pending.clear()
        self.asking.clear()
        self.on_end.clear()
        self.session = ""
        self._connection += 1
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.break_()
            self.world.after(self.world.random.uniform(0.1, 5.0), self.connect)

    def _send(self, event: Any) -> None:
        if self.stream is not None:
            self.stream.send(1, "event", event)

    def _repeat(self, attempt: Attempt) -> None:
        if not attempt.interactive:
            self._send_run(attempt)
            return
        if attempt.key and not attempt.begun:
            self._send_begin(attempt)
        if attempt.committing:
            self._send_commit(attempt)
        elif attempt.aborting:
            self._send_abort(attempt)

    def _orphan(self, attempt: Attempt) -> None:
        """The session is gone, and with it every answer that it owed."""
        self.pending.pop(attempt.transaction_id, None)
        if attempt.age == "ahead":
            self.on_end.pop(attempt.transaction_id, None)  # nobody will tell it anything until its clock is right
        elif attempt.sent:
            self.asking[attempt.transaction_id] = attempt
            self.on_orphan(attempt)
        else:
            self._end(attempt, ABORTED, None, told=True)

    # ---- doing

    def start(self, attempt: Attempt) -> bool:
        """Begin one transaction, numbering it; not without a connection."""
        if self.stream is None or not self.session:
            return False
        self._number += 1
        attempt.number = self._number
        attempt.transaction_id = f"{self.session}.{self._number}"
        attempt.began = self.world.now
        attempt.says_last = attempt.interactive and attempt.random.random() < 0.5
        self.pending[attempt.transaction_id] = attempt
        self.history.attempts[attempt.transaction_id] = attempt
        if not attempt.interactive:
            self._send_run(attempt)
        elif attempt.key:
            self._send_begin(attempt)
        else:
            self._work_at_once(attempt)
        return True

    def _work_at_once(self, attempt: Attempt) -> None:
        """Without a key nothing is asked first: the coordinator hears at once, later, or with the commit if that comes sooner. Not
        only with the commit: a call that has to be enlisted first waits for the Begin, and the commit for the call (seed 442)."""
        attempt.begun = True
        self.world.after(attempt.random.choice([0.0, 0.01, 0.1, 0.1]), self._send_begin_late, self.session, attempt)
        self._call_next(attempt, [(name, op) for name, ops in attempt.work.items() for op in ops])

    def _send_begin_late(self, session: str, attempt: Attempt) -> None:
        if session == self.session and not attempt.answered:
            self._send_begin(attempt)

    def _send_run(self, attempt: Attempt) -> None:
        attempt.sent = True
        request = client_pb2.RunRequest(
            number=attempt.number, timeout_ms=attempt.timeout_ms, key=attempt.key, first_attempt_ms=attempt.first_attempt_ms
        )  # fmt: skip
        for name, operations in attempt.work.items():
            request.branches.add(participant=name, operations=operations)
        if attempt.random.random() < 0.2:
            request.wait = common_pb2.WAIT_COMPLETE
        self._send(into.Run(self.session, request))
        self._perhaps_abort(attempt)

    def _perhaps_abort(self, attempt: Attempt) -> None:
        """A client that changes its mind when it is too late: whoever decided first wins."""
        if not attempt.steady and attempt.random.random() < 0.1:
            self.world.reach("client abort against the commit")
            request = client_pb2.AbortRequest(number=attempt.number)
            session = self.session
            self.world.after(attempt.random.uniform(0.0, 0.02), self._send_in, session, into.Abort(session, request))

    def _send_in(self, session: str, event: Any) -> None:
        if session == self.session:
            self._send(event)

    def _begin_of(self, attempt: Attempt) -> client_pb2.BeginRequest:
        return client_pb2.BeginRequest(
            number=attempt.number, timeout_ms=attempt.timeout_ms, key=attempt.key, first_attempt_ms=attempt.first_attempt_ms
        )  # fmt: skip

    def _send_begin(self, attempt: Attempt) -> None:
        self._send(into.Begin(self.session, self._begin_of(attempt)))

    def _branches_of(self, attempt: Attempt) -> list[client_pb2.AcknowledgedOperations]:
        named = [
            client_pb2.AcknowledgedOperations(
                participant=name, count=count, incarnation=incarnation, vote=self._vote_of(attempt, (name, incarnation))
            )
            for (name, incarnation), count in attempt.acknowledged.items()
        ]
        return [*named, client_pb2.AcknowledgedOperations(unknown=True)] if attempt.unknown else named

    def _vote_of(self, attempt: Attempt, key: tuple[str, int]) -> common_pb2.SealedVote | None:
        """What was voted early; some clients lose it, or tell the vote of somebody else or on something else."""
        vote, others = attempt.votes.get(key), self.history.votes
        if attempt.steady or attempt.random.random() < 0.9:
            return vote
        self.world.reach("an early vote was left out, or another was told")
        return others[attempt.random.randrange(len(others))] if others and attempt.random.random() < 0.7 else None

    def _send_abort(self, attempt: Attempt) -> None:
        request = client_pb2.AbortRequest(number=attempt.number, acknowledged=self._branches_of(attempt))
        self._send(into.Abort(self.session, request))

    def _send_commit(self, attempt: Attempt) -> None:
        attempt.sent = True
        request = client_pb2.CommitRequest(number=attempt.number, acknowledged=self._branches_of(attempt))
        if attempt.key:
            request.result = result_of(attempt)
        else:
            request.begin.CopyFrom(self._begin_of(attempt))
        told = {(done.participant, done.incarnation): done.vote for done in request.acknowledged if done.HasField("vote")}
        attempt.brought = frozenset(key[0] for key, vote in told.items() if attempt.votes.get(key) == vote)
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
        if attempt is None or (attempt.begun and attempt.key):
            return
        if message.HasField("refusal"):
            self._end(attempt, ABORTED, message.refusal, told=False)
        elif message.HasField("holder"):
            self.history.tell(message.holder.transaction_id, message.holder.outcome)
            self.history.hear_result(attempt.key, message.holder)
            if message.holder.result:
                self.world.reach("a result was given back under its key")
            self._end(attempt, message.holder.outcome, message.holder.cause, told=False)
        elif not attempt.begun:
            attempt.begun = True
            self._call_next(attempt, [(name, op) for name, ops in attempt.work.items() for op in ops])

    def _hear_answer(self, answer: client_pb2.Answer) -> None:
        attempt = self.pending.get(f"{self.session}.{answer.number}")
        self._answered.add(answer.number)
        self._send(into.AnswersSeen(self.session, self._below()))
        if attempt is None:
            return
        self.history.tell(answer.transaction_id, answer.outcome)
        attempt.told_of = answer.transaction_id
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
        attempt.rounds += 1
        self._ask_on(attempt, attempt.rounds)

    def _ask_on(self, attempt: Attempt, rounds: int) -> None:
        if attempt.transaction_id not in self.asking or attempt.rounds != rounds:
            return
        request = client_pb2.GetRequest(
            transaction_id=attempt.asks or attempt.transaction_id,
            participants=list(attempt.work),
            first_attempt_ms=attempt.first_attempt_ms,
            key=attempt.key,
            body_hash=body_of(attempt) if attempt.key else b"",
        )
        self._send(into.Get((self.session, attempt.transaction_id), request))
        self.world.after(self.world.random.uniform(0.5, 1.5), self._ask_on, attempt, rounds)

    def wonder(self, attempt: Attempt) -> None:
        """Ask about a transaction that was answered before."""
        if attempt.transaction_id not in self.asking and attempt.transaction_id not in self.pending:
            self.world.reach("asked again with another first attempt")
            self.asking[attempt.transaction_id] = attempt
            self._ask(attempt)

    def _hear_got(self, transaction_id: str, answer: client_pb2.Answer) -> None:
        attempt = self.asking.get(transaction_id)
        if answer.outcome == IN_DOUBT:
            return
        self.history.tell(answer.transaction_id, answer.outcome)
        if attempt is not None:
            del self.asking[transaction_id]
            self.history.hear_result(attempt.key, answer)
            self.world.reach("client asked and was told")
            self._end(attempt, answer.outcome, answer.cause, told=False)

    def _end(self, attempt: Attempt, outcome: int, cause: common_pb2.Cause | None, *, told: bool) -> None:
        if told:
            self.history.tell(attempt.transaction_id, outcome)
        attempt.answered = True
        attempt.ended = self.world.now
        attempt.outcome = outcome
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

        def answer(ok: bool, incarnation: int, vote: common_pb2.SealedVote | None = None) -> None:
            if done[0]:
                return
            done[0] = True
            key = (name, incarnation)
            attempt.acknowledged[key] = attempt.acknowledged.get(key, 0) + ok
            if vote is not None:
                attempt.votes[key] = vote
                self.history.votes.append(vote)
            if ok:
                self._call_next(attempt, rest)
            else:
                self._give_up(attempt)

        def lost() -> None:
            """A careless client goes on, and says that it does not know."""
            if done[0]:
                return
            done[0] = attempt.unknown = True
            if attempt.steady or attempt.random.random() < 0.5:
                self._give_up(attempt)
            else:
                self.world.reach("went on behind a call of which nothing came back")
                self._call_next(attempt, rest)

        last = attempt.says_last and all(name != other for other, _ in rest)
        self._call(attempt, name, op, call_id, last, answer)
        if not attempt.steady and not rest and attempt.random.random() < 0.1:
            # A hasty client counts the last call before its answer: Prepare meets the running operation.
            self.world.reach("Prepare against a running operation")
            done[0] = True
            key = (name, self.participants[name].incarnation)
            attempt.acknowledged[key] = attempt.acknowledged.get(key, 0) + 1
            self.world.after(attempt.random.uniform(0.0, 0.005), self._finish, attempt)
            return
        if attempt.random.random() < 0.2:
            self.world.reach("repeated interactive call")
            self.world.after(attempt.random.uniform(0, 0.05), self._call, attempt, name, op, call_id, last, answer)
        self.world.after(2.0 if attempt.steady else attempt.random.choice([0.02, 2.0]), lost)

    def _call(
        self, attempt: Attempt, name: str, op: common_pb2.Operation, call_id: str, last: bool, answer: Callable[..., None]
    ) -> None:
        participant = self.participants[name]
        context = (attempt.transaction_id, call_id, attempt.first_attempt_ms, attempt.random.random() < 0.9, last)
        if participant.alive:
            ticket = object()
            delay = self.coordinator.network.delay()
            participant.later(delay, participant.call, ticket, context, op, answer)
            if not attempt.steady and attempt.random.random() < 0.05:
                participant.later(delay + attempt.random.uniform(0.0, 0.02), participant.cancel, ticket)

    def _finish(self, attempt: Attempt) -> None:
        if attempt.answered or attempt.transaction_id not in self.pending:
            return
        if not attempt.steady and attempt.random.random() < 0.1:
            self._give_up(attempt)
            return
        attempt.committing = True
        self._send_commit(attempt)

    def _give_up(self, attempt: Attempt) -> None:
        if attempt.committing or attempt.answered or attempt.transaction_id not in self.pending:
            return
        attempt.aborting = True
        self._send_abort(attempt)
