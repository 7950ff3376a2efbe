"""Runs in which a participant's log goes back, an operator lets it have its name again, and it is asked what it has of its commits.

What must hold then: every commit that it has lost and that the coordinator still knows is listed by its id, and no other; what the
retention has dropped is told of as such; what it
holds in doubt, and the coordinator had committed, is never rolled back, be it behind the retention or not; and in the end it is a
participant like any other. The judge looks at what the participant wrote before and after, and at what the coordinator decided.
"""

from __future__ import annotations

from typing import Any

from coordinator.core import events as into
from coordinator.core import recalling
from participant_sdk.core.branches import State as BranchState
from tests.sim.following import copied, identity_of
from tests.sim.run import Run
from tests.sim.world import World
from troth.ids import TransactionId
from troth.v1 import admin_pb2, common_pb2, record_pb2

COMMITTED, ABORTED = common_pb2.OUTCOME_COMMITTED, common_pb2.OUTCOME_ABORTED
WORK_SECONDS = 1.2
REST_SECONDS = 20.0
SYNCS_LOST = (1, 2, 3, 5, 8, 12, 20)


class Restored(Run):
    """One such run."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        super().__init__(seed, tracing=tracing, keep=None)
        self.own = self.world.random
        self.victim = self.own.choice([*self.participants.values()])
        self.victim.disk.history = []
        self.identities: list[Any] = []
        self.committed_at: dict[str, int] = {}
        """The position of the record with which it committed, of each transaction, before its log went back."""
        self.prepared_at: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        """How its branches ended since."""
        self.decided: set[str] = set()
        self.struck = False
        self.cut = 0
        self.reached = 0
        self.lost: set[str] = set()
        self.unnamed: set[str] = set()
        """What it has lost of which no list can tell."""
        self.victim.disk.write = self._listening(self.victim.disk.write)  # type: ignore[method-assign]  # an ear
        self.coordinator.disk.write = self._deciding(self.coordinator.disk.write)  # type: ignore[method-assign]  # an ear

    def _listening(self, write: Any) -> Any:
        def listen(batch: Any, **how: Any) -> Any:
            seqs, events = write(batch, **how)
            for append, seq in zip(batch, seqs, strict=True):
                if seq and isinstance(append.record, record_pb2.ParticipantRecord):
                    self._written(append.record, seq)
            self._identify()
            return seqs, events

        return listen

    def _identify(self) -> None:
        victim, history = self.victim, self.victim.disk.history
        while history is not None and len(self.identities) < len(history):
            self.identities.append(identity_of(victim))

    def _written(self, record: record_pb2.ParticipantRecord, seq: int) -> None:
        done = record.branch_finished
        if record.HasField("branch_prepared") and not self.struck:
            self.prepared_at.setdefault(record.branch_prepared.transaction_id, seq)
        elif record.HasField("branch_finished") and self.struck:
            self.ended[done.transaction_id] = done.outcome
        elif record.HasField("branch_finished") and done.outcome == COMMITTED:
            self.committed_at.setdefault(done.transaction_id, seq)

    def _deciding(self, write: Any) -> Any:
        def listen(batch: Any, **how: Any) -> Any:
            answer = write(batch, **how)
            self.decided |= {append.record.decided.transaction_id for append in batch if append.record and _is_decided(append)}
            return answer

        return listen

    # ---- the run

    def go(self, transactions: int | None) -> None:
        """Work; an older copy of one participant's log; an operator; peace."""
        world = self.world
        for process in self.processes:
            process.start()
        for client in self.clients:
            client.connect()
        world.run_until(0.3)
        self.workload.schedule(self.plan, self.plan.count(20, 40), WORK_SECONDS)
        world.run_until(0.3 + self.own.uniform(WORK_SECONDS / 3, WORK_SECONDS))
        self._strike()
        world.run_until(world.now + self.own.uniform(0.0, 1.5))  # until somebody has looked, and meanwhile the retention passes
        end = world.now + REST_SECONDS
        while world.now < end:
            self._let_in()
            world.run_until(world.now + self.own.uniform(0.05, 0.5))
            if world.now < end - REST_SECONDS / 2 and self.own.random() < 0.05:
                self.own.choice([self.coordinator, self.victim]).crash("while it is asked")

    def _strike(self) -> None:
        victim, history = self.victim, self.victim.disk.history
        assert history is not None
        victim.crash("and its log is put back")
        self._identify()
        self.reached = victim.disk.position
        number = max(0, len(history) - 1 - self.own.choice(SYNCS_LOST))
        victim.disk.put_back(number)
        victim.incarnation, starts, coordinators = self.identities[number]
        victim.starts, victim.coordinators = copied(starts), copied(coordinators)
        self.struck, self.cut = True, victim.disk.position
        self.lost = {name for name, seq in self.committed_at.items() if self.cut < seq <= self.reached}
        _say(self.world, f"WENT BACK {victim.name} to {self.cut} of {self.reached}, lost {sorted(self.lost)}")

    def _let_in(self) -> None:
        """An operator lets the log have its name, as often as it is refused."""
        coordinator, name = self.coordinator, self.victim.name
        if coordinator.alive and coordinator.serving and coordinator.core._book.participants[name].went_back:
            self.world.reach("let in")
            request = admin_pb2.ReplaceParticipantRequest(participant=name, log_id=f"log-{name}", who="ann", why="restored")
            coordinator.submit(into.Administer("replace", request))
            if self.own.random() < 0.3:
                self.world.after(self.own.uniform(0.0, 0.1), coordinator.crash, "while it is asked")

    # ---- what must hold

    def judge(self) -> list[str]:
        """All violations."""
        book, name = self.coordinator.core._book, self.victim.name
        row, found = book.participants[name], []
        if row.recalling or not row.ready:
            found.append(f"recalled: {name} is {'still asked' if row.ready else 'away'}: {row.recalled} {row.to_recall}")
        lacking = {*recalling.lacking(book).get(name, [])}
        back = {one for one, outcome in self.ended.items() if outcome == COMMITTED}
        self.unnamed = {one for one in self.lost - back if one not in book.finished and one not in book.live}
        if self.unnamed and not recalling.unlisted(book, row)[0]:
            found.append(f"that some cannot be listed is said: nothing is, of {sorted(self.unnamed)}")
        # What was behind the retention when it was asked may be back since: a restart reads what the cleaner has not taken.
        for one in sorted(one for one in self.lost - back if not book.dropped.covers(TransactionId.parse(one))):
            told = book.live[one].outcome if one in book.live else book.finished[one].told if one in book.finished else None
            if told == COMMITTED:
                found.append(f"lost commits are listed: {one} is not, of {sorted(self.lost)}")
        if wrong := sorted(lacking - (self.lost - back)):
            found.append(f"no other is: {wrong}")
        kept = {one for one, seq in self.prepared_at.items() if seq <= self.cut < self.committed_at.get(one, self.cut + 1)}
        turned = sorted(one for one in kept & self.decided if self.ended.get(one) == ABORTED)
        return found + [f"in doubt: {one} was committed, and is rolled back" for one in turned] + self._stuck(kept)

    def _stuck(self, kept: set[str]) -> list[str]:
        listed = self.coordinator.core._book.participants[self.victim.name].stranded
        states = dict(self.victim.core.states()) if self.victim.alive else {}
        prepared = {one for one, state in states.items() if state is BranchState.PREPARED}
        self.world.reached["in doubt behind the retention"] += len(prepared & kept)
        return [f"in doubt: {one} is not listed" for one in sorted(prepared - listed.keys())]


def _is_decided(append: Any) -> bool:
    return isinstance(append.record, record_pb2.CoordinatorRecord) and append.record.HasField("decided")


def _say(world: World, text: str) -> None:
    world.say("*", text)


def run(seed: int) -> tuple[list[str], Restored]:
    """One seed; its violations."""
    one = Restored(seed)
    one.go(None)
    return one.judge(), one
