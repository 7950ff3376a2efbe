"""What must hold, whatever went wrong. Each checker is one object, named after what it checks.

The witnesses are independent of the cores: the rows of each bank with what each transaction left in them, the messages as they
were handed to the network, and what clients were told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coordinator.core.core import CoordinatorCore
from participant_sdk.core.core import ParticipantCore
from tests.sim.clients import ABORTED, COMMITTED, History
from tests.sim.process import Process
from tests.sim.roles import CoordinatorProcess, ParticipantProcess
from troth.v1 import common_pb2, participant_pb2


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

    def applied(self, transaction_id: str) -> dict[str, int]:
        """Where a transaction's effects stand, and what they come to."""
        found = {}
        for name, participant in self.participants.items():
            changes = participant.bank.rows.applied.get(transaction_id)
            if changes:
                found[name] = sum(change for _, change in changes)
        return found


class Witness:
    """Listens to what is said during the run."""

    def __init__(self) -> None:
        self.votes: dict[tuple[str, str], int] = {}
        self.violations: list[str] = []
        self.answers: dict[str, set[int]] = {}

    def participant_said(self, name: str, field: str, message: Any) -> None:
        """A participant handed a message to the network."""
        if field == "votes":
            key = (name, message.transaction_id)
            before = self.votes.get(key)
            if before == participant_pb2.VOTE_KIND_NO and message.kind == participant_pb2.VOTE_KIND_YES:
                self.violations.append(f"AC2: {name} voted YES after NO on {message.transaction_id}")
            self.votes[key] = message.kind

    def told(self, transaction_id: str, outcome: int) -> None:
        """The coordinator answered."""
        if outcome in (COMMITTED, ABORTED):
            self.answers.setdefault(transaction_id, set()).add(outcome)


def agreement(scene: Scene) -> Iterator[str]:
    """AC1: a transaction's effects stand at every participant that owes one, in full, or nowhere."""
    for name, expected in scene.expected.items():
        found = scene.applied(name)
        if found and found != expected:
            yield f"AC1: {name} stands at {found}, and should at {expected}"


def never_reversed(scene: Scene, witness: Witness) -> Iterator[str]:
    """AC2: no outcome is reversed. A transaction that changed nothing has no outcome that could be: it leaves no record."""
    for name, outcomes in witness.answers.items():
        if len(outcomes) > 1 and scene.expected.get(name):
            yield f"AC2: {name} was answered committed and aborted"


def all_voted(scene: Scene, witness: Witness) -> Iterator[str]:
    """AC3: effects of a transaction over several participants stand only if each of them voted for it."""
    for name, expected in scene.expected.items():
        attempt = scene.history.attempts[name]
        if len(attempt.work) < 2 or not scene.applied(name):
            continue
        for participant in attempt.work:
            vote = witness.votes.get((participant, name))
            # A YES need not be a vote on the wire: a Hello that reports a prepared branch tells it too.
            if expected.get(participant) and vote == participant_pb2.VOTE_KIND_NO:
                yield f"AC3: {name} committed although {participant} voted NO"


def told_is_true(scene: Scene) -> Iterator[str]:
    """What a client was told of an outcome is what happened."""
    for name, outcomes in scene.history.told.items():
        expected = scene.expected.get(name)
        stands = bool(scene.applied(name))
        if COMMITTED in outcomes and ABORTED in outcomes and expected:
            yield f"told: {name} was told committed and aborted"
        if COMMITTED in outcomes and expected and not stands:
            yield f"told: {name} was told committed, and nothing stands"
        if ABORTED in outcomes and stands:
            yield f"told: {name} was told aborted, and stands at {scene.applied(name)}"
        heuristic = {common_pb2.OUTCOME_MIXED, common_pb2.OUTCOME_HAZARD} & outcomes
        if heuristic:
            yield f"told: {name} was told {heuristic}, and nobody forced anything"


def exactly_once(scene: Scene) -> Iterator[str]:
    """Each operation of a transaction took effect once, and each key committed at most once."""
    for name in scene.expected:
        for participant, process in scene.participants.items():
            changes = process.bank.rows.applied.get(name, [])
            allowed = len(scene.history.attempts[name].work.get(participant, ()))
            if len(changes) > allowed:
                yield f"exactly once: {name} changed {len(changes)} rows at {participant}, and had {allowed} operations"
    by_key: dict[str, set[str]] = {}
    for name, attempt in scene.history.attempts.items():
        if attempt.key and scene.applied(name):
            by_key.setdefault(attempt.key, set()).add(name)
    for key, names in by_key.items():
        if len(names) > 1:
            yield f"exactly once: the key {key} committed {sorted(names)}"


def conservation(scene: Scene) -> Iterator[str]:
    """No money is made or lost."""
    total = sum(sum(process.bank.rows.accounts.values()) for process in scene.participants.values())
    if total != scene.money:
        yield f"conservation: {total} in all, and there were {scene.money}"


def nothing_left(scene: Scene) -> Iterator[str]:
    """AC5: once faults stop, everything is decided, and no branch or lock is left over."""
    left = list(scene.coordinator.core._book.live.values())
    if left:
        yield f"AC5: the coordinator still has {[(txn.id, txn.state.name, txn.owing()) for txn in left]}"
    for name, process in scene.participants.items():
        if process.core.states():
            yield f"AC5: {name} still has {process.core.states()} unfinished branches"
        if process.bank.row_locks:
            yield f"AC5: {name} still holds {process.bank.row_locks}"


def everyone_answered(scene: Scene, clients: list[Any]) -> Iterator[str]:
    """Every client was told something of every transaction, once it could be."""
    for client in clients:
        for attempt in [*client.pending.values(), *client.asking.values()]:
            yield f"AC5: {client.name} was never told of {attempt.transaction_id}"


def nothing_expires(scene: Scene) -> Iterator[str]:
    """Within the retention nobody is told EXPIRED: the log knows whatever participants have forgotten."""
    for name, outcomes in scene.history.told.items():
        if common_pb2.OUTCOME_EXPIRED in outcomes and not scene.coordinator.forgetful:
            yield f"told: {name} was told expired, and nothing is so old"


def isolation(scene: Scene) -> Iterator[str]:
    """Nobody reads what is not decided."""
    for process in scene.participants.values():
        yield from process.bank.violations


def recovery_repeats(scene: Scene) -> Iterator[str]:
    """A log read twice comes to the same."""
    for process in [scene.coordinator, *scene.participants.values()]:
        _, bodies = process.disk.read()
        once, twice = (_recovered(process, records) for records in (bodies, bodies + bodies))
        if once != twice:
            yield f"recovery: {process.name} comes to {once} from its log, and to {twice} from reading it twice"


def _recovered(process: Process, records: list[bytes]) -> object:
    core = process.make_core()
    core.recover(records, process.world.instant())
    if isinstance(core, CoordinatorCore):
        book = core._book
        return sorted((name, txn.state.name, txn.missing) for name, txn in book.live.items()), list(book.finished), list(book.keys)
    assert isinstance(core, ParticipantCore)
    return sorted((name, state.name) for name, state in core.states())


def nobody_broke_the_protocol(scene: Scene) -> Iterator[str]:
    """No core met an event that its table does not have."""
    for process in [scene.coordinator, *scene.participants.values()]:
        for text in process.violations:
            yield f"protocol: {process.name}: {text}"
