"""Runs in which the coordinator's log goes back: an older copy is put in its place, an operator accepts the loss, and what was in
doubt is proven again from what participants know, as far as it can be.

Between the copy and its return the coordinator has begun a newer life, which all participants have heard: so the loss is found
out, always, and the start on the copy is refused whenever one of them is heard before its life begins. In some runs nobody is,
as it may happen: a life waits for `hearing_seconds` and no longer. (That a loss within one life is found out is tried in
`tests/coordinator_core/test_positions.py`.) Work goes on all the time, and some participants hear no decision for a while
before. In every third run people are at work then: what was aborted, and is still in doubt somewhere, they commit there by
hand, and they forget it when it is listed as MIXED. So the log loses what it knew of that, and what it has lost is asked of
who was ended by hand. What must hold then is another thing than in `checkers`, since decisions really are lost: whoever has
voted YES ends as all others do, or stays in doubt and listed; nobody ends against what a client was told; and nobody stays in
doubt whom another one can help. Ends by hand are compared with nothing, and nothing that the protocol ends may follow from
them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from coordinator.core import effects as out
from coordinator.core import events as into
from coordinator.core.model import Beginning, State
from participant_sdk.core import effects as said
from participant_sdk.core.branches import State as BranchState
from tests.sim.run import HEARING_SECONDS, Run
from troth.v1 import admin_pb2, common_pb2, participant_pb2, record_pb2

COMMITTED, ABORTED = common_pb2.OUTCOME_COMMITTED, common_pb2.OUTCOME_ABORTED
WORK_SECONDS = 0.7
REST_SECONDS = 20.0
DEAF_SECONDS = 0.3
"""How long some participants hear no decision, before the log goes back."""
PEOPLE_SECONDS = 0.6
"""How long people then look for what is in doubt."""
SILENCE_SECONDS = 4 * HEARING_SECONDS
"""How long nobody reaches a coordinator whose life begins in silence."""


class WentBack(Run):
    """One such run."""

    def __init__(self, seed: int, *, whole: bool = False, tracing: bool = False) -> None:
        super().__init__(2 * seed, tracing=tracing, keep=None)  # of even seeds the coordinator hears its participants
        self.returned = False
        self.found_out = False
        self.whole = whole
        """Whether the log is lost, and one that stands in for it takes its place."""
        self.refused = False
        self.restarts = 0
        """How often nobody would have followed the life that had begun."""
        self.let_begin: list[str] = []
        """Who was heard to know better before the life began, and did not refuse it."""
        self.proving: set[str] = set()
        self.helpable: set[str] = set()
        self.deaf: set[str] = set()
        self.people = seed % 3 == 0
        self.by_hand: set[tuple[str, str]] = set()
        """Transactions and participants: what people have committed there."""
        self.forgotten: set[str] = set()
        """Transactions of those that people have forgotten."""
        self.coordinator.perform = self._losing(self.coordinator.perform)  # type: ignore[method-assign]  # decisions are lost on it
        self.coordinator._step = self._hearing(self.coordinator._step)  # type: ignore[method-assign]  # an ear
        self.coordinator.on_administered = self._accepted
        self.told: dict[str, set[int]] = defaultdict(set)
        self.prepared: dict[str, set[str]] = defaultdict(set)
        self.ended: dict[str, dict[str, int]] = defaultdict(dict)
        self.coordinator.on_answered = lambda attempt, answer: self.told[answer.transaction_id or attempt].add(answer.outcome)
        for name, process in self.participants.items():
            process.perform = self._voting(name, process.perform)  # type: ignore[method-assign]  # an ear
            process.disk.write = self._listening(name, process.disk.write)  # type: ignore[method-assign]  # an ear

    def _hearing(self, step: Any) -> Any:
        def heard(event: Any, now: Any) -> None:
            decides = self.returned and isinstance(event, into.HelloReceived) and self._beginning() is Beginning.HEARING
            step(event, now)
            if decides and not self._is_refused():
                self.let_begin.append(event.participant)

        return heard

    def _listening(self, name: str, write: Any) -> Any:
        def listen(batch: Any, **how: Any) -> Any:
            for append in batch:
                if isinstance(append.record, record_pb2.ParticipantRecord):
                    self._written(name, append.record)
            return write(batch, **how)

        return listen

    def _voting(self, name: str, perform: Any) -> Any:
        def heard(effect: Any) -> None:
            if isinstance(effect, said.Send) and effect.field == "votes" and effect.message.kind == participant_pb2.VOTE_KIND_YES:
                self.prepared[effect.message.transaction_id].add(name)
            perform(effect)

        return heard

    def _losing(self, perform: Any) -> Any:
        def heard(effect: Any) -> None:
            if not (isinstance(effect, out.Send) and effect.field == "decisions" and effect.participant in self.deaf):
                perform(effect)

        return heard

    def _written(self, name: str, record: record_pb2.ParticipantRecord) -> None:
        # The first end: a call that is repeated behind it begins a branch anew, which is undone, where the first one is forgotten.
        if record.HasField("branch_finished") and (record.branch_finished.transaction_id, name) not in self.by_hand:
            self.ended[record.branch_finished.transaction_id].setdefault(name, record.branch_finished.outcome)

    # ---- the run

    def go(self, transactions: int | None) -> None:
        """A copy, a newer life, the copy in place of the log; then peace."""
        world, coordinator, random = self.world, self.coordinator, self.world.random
        for process in self.processes:
            process.start()
        for client in self.clients:
            client.connect()
        world.run_until(0.3)
        self.workload.schedule(self.plan, self.plan.count(3, 6), WORK_SECONDS)
        world.run_until(0.3 + random.uniform(0.1, 0.5))
        copy = coordinator.disk.copy()
        coordinator.crash("for a newer epoch")
        self._until_it_serves()
        self._until_all_follow()
        self.workload.schedule(self.plan, self.plan.count(20, 40), WORK_SECONDS)
        world.run_until(world.now + random.uniform(0.1, 0.4))
        self.deaf = {name for name in self.participants if self.people or random.random() < 0.6}
        world.run_until(world.now + random.uniform(DEAF_SECONDS / 3, DEAF_SECONDS))
        if self.people:
            self._end_by_hand()
        coordinator.crash("and its log goes back")
        stand_in = record_pb2.CoordinatorRecord(at_ms=1, loss=record_pb2.Loss(why="the disk died")).SerializeToString()
        coordinator.disk.durable = [(1, stand_in)] if self.whole else list(copy.durable)
        coordinator.disk.next_seq = coordinator.disk.durable[-1][0] + 1 if coordinator.disk.durable else 1
        coordinator.disk._tail.clear()
        self.deaf, self.returned = set(), True
        if random.random() < 0.15:
            self._be_silent()
        self._until_it_serves()
        self.helpable = self._helpable()
        end = world.now + REST_SECONDS
        while world.now < end:
            self._accept()
            world.run_until(world.now + 0.5)
            self.proving |= {txn.id for txn in coordinator.core._book.live.values() if txn.state is State.PROVING}

    def _until_it_serves(self) -> None:
        end = self.world.now + 10.0
        self.world.run_until(self.world.now + 0.05)
        while self.world.now < end and not (self.coordinator.alive and (self.coordinator.serving or self._is_refused())):
            self.world.run_until(self.world.now + 0.05)
        self.world.run_until(self.world.now + 1.5)

    def _until_all_follow(self) -> None:
        """Everybody has heard the newer life: a stream's end may be noticed seconds later."""
        book, end = self.coordinator.core._book, self.world.now + 10.0
        while not all(book.participants[name].ready for name in self.participants):
            assert self.world.now < end, "somebody does not come back"
            self.world.run_until(self.world.now + 0.05)

    def _be_silent(self) -> None:
        for name in self.participants:
            self.network.cut(name, self.coordinator.name, SILENCE_SECONDS)

    def _beginning(self) -> Beginning:
        return self.coordinator.core._book.beginning

    def _is_refused(self) -> bool:
        return self._beginning() is Beginning.REFUSED

    def _accept(self) -> None:
        coordinator = self.coordinator
        if coordinator.alive and coordinator.core.has_lost and self._beginning() is not Beginning.HEARING:
            self.found_out = True
            self.refused |= self._is_refused()
            coordinator.submit(into.Administer("accept", admin_pb2.AcceptLossRequest(who="ann", why="last night's")))

    def _end_by_hand(self) -> None:
        """People commit what is in doubt, though it was aborted, at one participant of each transaction; and forget it."""
        book, end = self.coordinator.core._book, self.world.now + PEOPLE_SECONDS
        while self.world.now < end:
            for name, transaction_id in self._to_end(book):
                self.by_hand.add((transaction_id, name))
                order = admin_pb2.ResolveRequest(transaction_id=transaction_id, participant=name, who="ann", why="by phone")
                order.action = admin_pb2.RESOLVE_ACTION_COMMIT
                self._order(order)
            for txn in book.live.values():
                if txn.state is State.HEURISTIC:
                    self.forgotten.add(txn.id)
                    self._order(admin_pb2.ForgetTransactionRequest(transaction_id=txn.id, who="ann", why="paid back"))
            self.world.run_until(self.world.now + 0.05)
        if self.world.random.random() < 0.5:
            for name in {name for transaction_id, name in self.by_hand if transaction_id in self.forgotten}:
                self.participants[name].crash("and has in its log what people did")

    def _to_end(self, book: Any) -> list[tuple[str, str]]:
        found = {
            transaction_id: name
            for name, process in self.participants.items()
            for transaction_id, state in process.core.states()
            if state is BranchState.PREPARED and transaction_id not in book.live
        }
        ended = {transaction_id for transaction_id, _ in self.by_hand}
        return [(name, transaction_id) for transaction_id, name in found.items() if transaction_id not in ended]

    def _order(self, request: Any) -> None:
        self.coordinator.later(0.0, self.coordinator.submit, into.Administer("people", request))

    def _accepted(self, ticket: Any, response: Any) -> None:
        """An operator does what a refusal tells: the life began in silence, and is too low for those who were heard since."""
        if ticket == "accept" and response.HasField("refusal"):
            assert "Restart this coordinator" in response.refusal.message
            self.restarts += 1
            self.coordinator.crash("restarted, as the operator was told")

    # ---- what must hold

    def judge(self) -> list[str]:
        """All violations."""
        if not self.found_out:
            return ["found out: that the log is an older copy was not"]
        found = [f"refused: {name} knew better, and the start went on" for name in self.let_begin]
        for transaction_id, names in self.prepared.items():
            ends = {self.ended[transaction_id].get(name, 0) for name in names}
            if {COMMITTED, ABORTED} <= ends:
                found.append(f"agreement: {transaction_id} ended {self.ended[transaction_id]}")
            if COMMITTED in self.told[transaction_id] and ABORTED in ends:
                found.append(f"told is true: {transaction_id} was told COMMITTED, and ended {self.ended[transaction_id]}")
            if ABORTED in self.told[transaction_id] and COMMITTED in ends:
                found.append(f"told is true: {transaction_id} was told ABORTED, and ended {self.ended[transaction_id]}")
        return found + self._in_doubt()

    def still_proving(self) -> set[str]:
        """What nobody could prove."""
        live = self.coordinator.core._book.live
        return {name for name in self.proving if name in live and live[name].state is State.PROVING}

    def _in_doubt(self) -> list[str]:
        book, found = self.coordinator.core._book, []
        for name, process in self.participants.items():
            listed = book.participants[name].stranded
            for transaction_id, state in process.core.states():
                # Who has voted early knows no peers, by whom it could be proven.
                helped = transaction_id in self.helpable and bool(process.core._m.branches[transaction_id].peers)
                self.world.reach("in doubt for good")
                if (transaction_id, name) in self.by_hand:
                    continue
                if state.name != "PREPARED" or transaction_id not in listed or helped:
                    ends = self.ended[transaction_id]
                    found.append(f"in doubt: {name} is {state.name} in {transaction_id}, {ends}, {list(listed)}")
        return found

    def _helpable(self) -> set[str]:
        """What one participant knows to be committed. Who has acknowledged may have forgotten it, with others away (rule 19)."""
        branches = [(name, branch) for name, process in self.participants.items() for branch in process.core._m.branches.values()]
        return {
            branch.transaction_id for name, branch in branches
            if branch.state is BranchState.COMMITTED and (branch.transaction_id, name) not in self.by_hand
        }  # fmt: skip


def run(seed: int, *, whole: bool = False) -> tuple[list[str], WentBack]:
    """One seed; its violations."""
    one = WentBack(seed, whole=whole)
    one.go(None)
    return one.judge(), one
