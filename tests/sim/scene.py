"""What the checkers look at: the witness, which listens during the run, and the scene when it is over.

The witnesses are independent of the cores: the rows of each bank with what each transaction left in them, the messages as they
were handed to the network, the forced records as they were written to disks, and what clients were told.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.sim.clients import ABORTED, COMMITTED, Attempt, Client, History
from tests.sim.key_history import KeyHistory
from tests.sim.operators import Operators
from tests.sim.roles import CoordinatorProcess, ParticipantProcess
from tests.sim.stale import NAME as STALE
from troth.ready import Append
from troth.v1 import participant_pb2, record_pb2

COMMIT = participant_pb2.DECISION_KIND_COMMIT
YES = participant_pb2.VOTE_KIND_YES
NO = participant_pb2.VOTE_KIND_NO
COUNTED = frozenset({"prepares", "votes", "decisions", "acknowledgements"})
"""The messages that DESIGN section 4 counts."""
Branch = tuple[str, str]
"""A participant and a transaction."""


class Witness:
    """Listens to what is said and written during the run."""

    def __init__(self) -> None:
        self.coordinator: CoordinatorProcess
        self.history: History
        self.aborted_by_operator: set[str] = set()
        self.votes: dict[Branch, int] = {}
        self.answers: dict[str, set[int]] = {}
        self.violations: list[str] = []
        self.commit_told: dict[str, set[str]] = {}
        """For each transaction the participants to whom COMMIT was said."""
        self.told: dict[Branch, set[int]] = {}
        """Decisions that were said to a participant; 0 for a question that rolls back, and for an operator's order."""
        self.acknowledged: set[Branch] = set()
        """Branches whose COMMIT was acknowledged as done."""
        self.committed_alone: set[Branch] = set()
        """Branches whose one-phase commit was told."""
        self.rolled_back: set[Branch] = set()
        """Branches of which their participant said that they are, and will stay, rolled back."""
        self.opened: dict[str, str] = {}
        """One-phase commits that were handed over with a key, until their participant has said something."""
        self.over: dict[str, set[int]] = {}
        """What people were told to be over, and how, operators' doings apart."""
        self.orders: dict[Branch, int] = {}
        self.messages: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        """Participants' questions about each transaction."""
        self.commit_points: dict[str, float] = {}
        """When the record was written that is the commit point of a transaction."""
        self.forced: Counter[tuple[str, str]] = Counter()
        """Forced records of each transaction, by the name of the disk's process."""

    def was_over(self, over: Any) -> None:
        """People were told that a transaction is over."""
        if not over.heuristic:
            self.over.setdefault(over.transaction_id, set()).add(over.outcome)

    # ---- the network

    def handed_over(self, source: str, target: str, field: str, message: Any) -> None:
        """A process handed a message to the network."""
        hear = _HEARD.get(field)
        if hear is not None:
            hear(self, source, target, message)
        if field in COUNTED:
            self.messages[message.transaction_id] += 1
        elif field == "inquiries":
            self.asked[message.transaction_id] += 1
        if target == STALE and field not in ("reports", "complete", "event"):
            self.violations.append(f"stale epochs write nothing: {source} said {field} to a coordinator of an old epoch")

    def _vote(self, source: str, target: str, message: Any) -> None:
        self.participant_said(source, "votes", message)
        self.opened.pop(message.transaction_id, None)
        branch = (source, message.transaction_id)
        if message.kind == participant_pb2.VOTE_KIND_COMMITTED:
            self.committed_alone.add(branch)
        elif message.kind == NO:
            self.rolled_back.add(branch)

    def participant_said(self, name: str, field: str, message: Any) -> None:
        """A participant handed a message to the network; only votes matter."""
        if field == "votes":
            key = (name, message.transaction_id)
            before = self.votes.get(key)
            if before == NO and message.kind == YES:
                self.violations.append(f"AC2 never reversed: {name} voted YES after NO on {message.transaction_id}")
            self.votes[key] = message.kind

    def _prepare(self, source: str, target: str, message: Any) -> None:
        self.orders[target, message.transaction_id] = message.order
        if message.one_phase and message.key:
            self.opened[message.transaction_id] = target

    def _decision(self, source: str, target: str, message: Any) -> None:
        if message.kind == COMMIT:
            self.commit_told.setdefault(message.transaction_id, set()).add(target)
        self.told.setdefault((target, message.transaction_id), set()).add(message.kind)
        if message.order:
            self.orders[target, message.transaction_id] = message.order

    def _order(self, source: str, target: str, message: Any) -> None:
        self.told.setdefault((target, message.transaction_id), set()).add(0)

    def _acknowledgement(self, source: str, target: str, message: Any) -> None:
        branch = (source, message.transaction_id)
        self.opened.pop(message.transaction_id, None)
        if message.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_DONE:
            told = self.told.get(branch, set())
            (self.acknowledged if COMMIT in told else self.rolled_back).add(branch)
        elif message.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT:
            self.rolled_back.add(branch)

    def _settlement(self, source: str, target: str, message: Any) -> None:
        self.opened.pop(message.transaction_id, None)
        if message.kind in (participant_pb2.SETTLEMENT_KIND_ROLLED_BACK, participant_pb2.SETTLEMENT_KIND_EXPIRED):
            self.rolled_back.add((source, message.transaction_id))

    def _report(self, source: str, target: str, message: Any) -> None:
        self.opened.pop(message.transaction_id, None)

    def _answer(self, source: str, target: str, answer: Any) -> None:
        self.told_client(answer.transaction_id, answer.outcome)

    def _got(self, source: str, target: str, message: Any) -> None:
        _, answer = message
        self.told_client(answer.transaction_id, answer.outcome)
        if answer.outcome == ABORTED and not self._known_aborted(source, answer.transaction_id):
            self.violations.append(f"no abort from absence: {source} said so of {answer.transaction_id}, and could not know")

    def told_client(self, transaction_id: str, outcome: int) -> None:
        """The coordinator answered."""
        if outcome in (COMMITTED, ABORTED):
            self.answers.setdefault(transaction_id, set()).add(outcome)

    def _known_aborted(self, source: str, transaction_id: str) -> bool:
        """Whether whoever says so began it in this very life, or heard of every participant that nothing stands there."""
        speaker = self.coordinator if source == self.coordinator.name else self.coordinator.stale
        assert speaker is not None
        attempt = self.history.attempts.get(transaction_id)
        if transaction_id in speaker.begun or transaction_id in self.aborted_by_operator or attempt is None:
            return attempt is not None
        return all((name, transaction_id) in self.rolled_back for name in attempt.work)

    # ---- disks

    def welcomed(self, process: CoordinatorProcess, hello: participant_pb2.Hello) -> None:
        """A coordinator answers Hello with Welcome."""
        said = (hello.participant, hello.log_id, hello.incarnation, hello.nonce)
        for _, body in reversed(process.disk.durable):
            bound = record_pb2.CoordinatorRecord.FromString(body).participant_bound
            if bound.participant == hello.participant:
                if (bound.participant, bound.log_id, bound.incarnation, bound.nonce) == said:
                    return
                break
        self.violations.append(f"bound before welcomed: {process.name} welcomed {said}, and its log does not say so")

    def forced_record(self, name: str, append: Append) -> None:
        """A disk wrote a forced record."""
        self.forced[name, append.owner] += 1
        record: Any = append.record
        if record.HasField("decided" if isinstance(record, record_pb2.CoordinatorRecord) else "branch_finished"):
            self._committed(record)

    def _committed(self, record: Any) -> None:
        if isinstance(record, record_pb2.CoordinatorRecord):
            self.commit_points.setdefault(record.decided.transaction_id, self.coordinator.world.now)
        elif record.branch_finished.one_phase and record.branch_finished.outcome == COMMITTED:
            self.commit_points.setdefault(record.branch_finished.transaction_id, self.coordinator.world.now)


_HEARD: dict[str, Any] = {
    "votes": Witness._vote,
    "prepares": Witness._prepare,
    "decisions": Witness._decision,
    "settles": Witness._order,
    "forces": Witness._order,
    "acknowledgements": Witness._acknowledgement,
    "settlements": Witness._settlement,
    "reports": Witness._report,
    "answer": Witness._answer,
    "got": Witness._got,
}


class Scene:
    """What the checkers look at when a run is over."""

    def __init__(
        self,
        coordinator: CoordinatorProcess,
        participants: dict[str, ParticipantProcess],
        history: History,
        money: int,
        expected: dict[str, dict[str, int]],
    ) -> None:
        self.coordinator = coordinator
        self.participants = participants
        self.history = history
        self.money = money
        self.expected = expected
        """For each transaction the change that each participant owes, for those that change anything."""
        self.witness = Witness()
        self.keys = KeyHistory()
        self.clients: list[Client] = []
        self.operators: Operators | None = None
        self.outcomes: dict[str, int] = {}
        """What the coordinator told operators, before any of it was forgotten."""
        self.calm = False
        self.aged = False
        """Whether the retention has passed since anything was done."""
        self.young = 0
        """Finished transactions that the retention has not passed yet."""
        self.forgetful = False
        """Whether the coordinator dropped outcomes at once."""

    def applied(self, transaction_id: str) -> dict[str, int]:
        """Where a transaction's effects stand, and what they come to."""
        found = {}
        for name, participant in self.participants.items():
            changes = participant.bank.rows.applied.get(transaction_id)
            if changes:
                found[name] = sum(change for _, change in changes)
        return found

    def touched(self, transaction_id: str) -> bool:
        """Whether an operator may have had a hand in its outcome."""
        return self.operators is not None and self.operators.touched(transaction_id)

    def forced(self, transaction_id: str) -> dict[str, int]:
        """The branches that an operator ordered to end, and how; and those whose log was lost, however they ended."""
        if self.operators is None:
            return {}
        undone = dict.fromkeys(self.operators.undone.get(transaction_id, ()), 0)
        return undone | self.operators.forced.get(transaction_id, {})

    def by_protocol(self, transaction_id: str) -> tuple[dict[str, int], dict[str, int]]:
        """What a transaction owes, and where it stands, without the branches that operators ended."""
        forced = self.forced(transaction_id)
        expected, found = self.expected[transaction_id], self.applied(transaction_id)
        return (
            {name: change for name, change in expected.items() if name not in forced},
            {name: change for name, change in found.items() if name not in forced},
        )

    def judged(self) -> list[tuple[str, Attempt]]:
        """Every attempt that clients made, by its transaction."""
        return list(self.history.attempts.items())
