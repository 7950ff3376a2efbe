"""Runs in which another coordinator takes the place of the one that had decided: what is in doubt is of nobody that is there.

Until then some participants hear no decision for a while. From then on nothing is presumed, and people settle what is listed: they
read the lost coordinator's log, and end each branch in doubt as that says, online or, while a participant is down, in its log. Some
of them err. In some runs they forget what is listed before all is settled, or while somebody is away; and everybody crashes.

What must hold: nobody is told by the new coordinator what it cannot know; MIXED is told of what people have ended in two ways, and
of nothing else; what they have ended in one way is listed, as HAZARD; what is in doubt is listed as such, and what is not is not.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from random import Random
from typing import Any

from coordinator.core import effects as out
from coordinator.core import events as into
from coordinator.core.model import State
from participant_sdk.core.branches import State as BranchState
from tests.sim.roles import SETTINGS, ParticipantProcess
from tests.sim.run import Run
from troth.v1 import admin_pb2, common_pb2, record_pb2

COMMITTED, ABORTED = common_pb2.OUTCOME_COMMITTED, common_pb2.OUTCOME_ABORTED
MIXED, HAZARD = common_pb2.OUTCOME_MIXED, common_pb2.OUTCOME_HAZARD
WORK_SECONDS = 0.7
DEAF_SECONDS = 0.3
SETTLING_SECONDS = 12.0
"""How long people settle; then nobody errs, crashes or forgets any more."""
REST_SECONDS = 6.0
WHO, WHY = "ann", "as the log of c1 says"


class Foreign(Run):
    """One such run."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        super().__init__(2 * seed, tracing=tracing, keep=None)
        self.own = Random(f"foreign {seed}")
        # What is retained is looked at to the end.
        self.coordinator.settings = replace(self.coordinator.settings, retained_transactions_max=SETTINGS.retained_transactions_max)
        self.errs = self.own.random() < 0.6
        self.hasty_for = self.own.choice([0.0, 1.5, SETTLING_SECONDS / 2])
        """How long people forget what is listed before all is settled."""
        self.hasty = False
        self.struck = False
        self.deaf: set[str] = set()
        self.decided: set[str] = set()
        self.in_doubt: set[tuple[str, str]] = set()
        """Who was in doubt about what, when the new coordinator came."""
        self.ended: dict[str, dict[str, int]] = defaultdict(dict)
        self.by_itself: list[str] = []
        self.coordinator.perform = self._losing(self.coordinator.perform)  # type: ignore[method-assign]  # decisions are lost on it
        self.coordinator.disk.write = self._deciding(self.coordinator.disk.write)  # type: ignore[method-assign]  # an ear
        for name, process in self.participants.items():
            process.disk.write = self._listening(name, process.disk.write)  # type: ignore[method-assign]  # an ear

    def _losing(self, perform: Any) -> Any:
        def heard(effect: Any) -> None:
            if not (isinstance(effect, out.Send) and effect.field == "decisions" and effect.participant in self.deaf):
                perform(effect)

        return heard

    def _deciding(self, write: Any) -> Any:
        def listen(batch: Any, **how: Any) -> Any:
            records = [append.record for append in batch if isinstance(append.record, record_pb2.CoordinatorRecord)]
            self.decided |= {one.decided.transaction_id for one in records if one.HasField("decided")}
            return write(batch, **how)

        return listen

    def _listening(self, name: str, write: Any) -> Any:
        def listen(batch: Any, **how: Any) -> Any:
            for append in batch:
                if isinstance(append.record, record_pb2.ParticipantRecord) and append.record.HasField("branch_finished"):
                    self._finished(name, append.record.branch_finished)
            return write(batch, **how)

        return listen

    def _finished(self, name: str, done: record_pb2.BranchFinished) -> None:
        if (name, done.transaction_id) not in self.in_doubt:
            return
        if not done.forced and name not in self.ended[done.transaction_id]:
            self.by_itself.append(f"told: {name} ended {done.transaction_id} {done.outcome}, and nobody but people can know that")
        self.ended[done.transaction_id].setdefault(name, done.outcome)

    # ---- the run

    def go(self, transactions: int | None) -> None:
        """Work; another coordinator; people."""
        world, coordinator = self.world, self.coordinator
        for process in self.processes:
            process.start()
        for client in self.clients:
            client.connect()
        world.run_until(0.3)
        self.workload.schedule(self.plan, self.plan.count(20, 40), WORK_SECONDS)
        world.run_until(0.3 + self.own.uniform(WORK_SECONDS / 3, WORK_SECONDS))
        self.deaf = {name for name in self.participants if self.own.random() < 0.7}
        world.run_until(world.now + self.own.uniform(DEAF_SECONDS / 3, DEAF_SECONDS))
        coordinator.crash("and another one takes its place")
        coordinator.coordinator, coordinator.disk.log_id = "c2", "log-C2"
        coordinator.disk.durable, coordinator.disk.next_seq = [], 1
        coordinator.disk._tail.clear()
        for known in (self.scene.witness.commit_told, self.scene.witness.opened):
            known.clear()  # the new one has nothing of that
        self.deaf = set()
        world.run_until(world.now + 3.0)
        self.in_doubt = {(name, one) for name, process in self.participants.items() for one in _prepared(process)}
        began, end = world.now, world.now + SETTLING_SECONDS
        while world.now < end:
            self.hasty = world.now < began + self.hasty_for
            self._settle(calm=False)
            world.run_until(world.now + self.own.uniform(0.05, 0.6))
        end = world.now + REST_SECONDS
        while world.now < end:
            self._settle(calm=True)
            world.run_until(world.now + 0.5)

    def _settle(self, *, calm: bool) -> None:
        """People look, and do one thing."""
        coordinator, own = self.coordinator, self.own
        if not calm and own.random() < 0.06:
            own.choice(self.processes).crash("while it is settled")
        if not calm and own.random() < 0.15:
            self._end_offline()
        if not (coordinator.alive and coordinator.serving):
            return
        if not calm and self.hasty and own.random() < 0.4:
            self.forget(away=own.random() < 0.5)
        book = coordinator.core._book
        there = [book.participants[name] for name in self.participants if name in book.participants]
        listed = [(one.name, transaction_id) for one in there for transaction_id in one.stranded]
        if listed and (calm or own.random() < 0.7):
            name, transaction_id = own.choice(listed)
            commits = self._says(transaction_id, calm=calm)
            action = admin_pb2.RESOLVE_ACTION_COMMIT if commits else admin_pb2.RESOLVE_ACTION_ABORT
            self.world.reach("settled by hand")
            request = admin_pb2.ResolveRequest(transaction_id=transaction_id, participant=name, action=action, who=WHO, why=WHY)
            coordinator.submit(into.Administer("resolve", request))

    def _says(self, transaction_id: str, *, calm: bool) -> bool:
        """What the lost log says, as somebody reads it."""
        commits = transaction_id in self.decided
        return commits if calm or not self.errs or self.own.random() < 0.75 else not commits

    def _end_offline(self) -> None:
        """Stop one that is in doubt, and write the order into its log."""
        name = self.own.choice([*self.participants])
        process = self.participants[name]
        found = _prepared(process)
        if not found:
            return
        process.down_until = self.world.now + self.own.uniform(0.1, 1.0)
        process.crash("and somebody ends its branches in its log")
        for transaction_id in found:
            outcome = COMMITTED if self._says(transaction_id, calm=False) else ABORTED
            order = record_pb2.ForceOrdered(transaction_id=transaction_id, outcome=outcome, who=WHO, why=WHY)
            process.disk.append_offline(record_pb2.ParticipantRecord(force_ordered=order).SerializeToString())
            self.world.reach("settled by hand offline")

    def forget(self, *, away: bool) -> None:
        """Forget all that is listed; `away`: while one participant is."""
        coordinator = self.coordinator
        if away:
            process = self.own.choice([*self.participants.values()])
            process.down_until = self.world.now + 0.5
            process.crash("while what it has ended is forgotten")
        for name in [one.id for one in coordinator.core._book.live.values() if one.state is State.HEURISTIC]:
            self.world.reach("forgotten")
            coordinator.submit(into.Administer("forget", admin_pb2.ForgetTransactionRequest(transaction_id=name, who=WHO, why=WHY)))

    # ---- what must hold

    def judge(self) -> list[str]:
        """All violations; and what must hold when all is forgotten."""
        found = [*self.by_itself, *self._told(), *self._listed()]
        found += [one for one in self.prefixes.violations if one.startswith("replay: C")]
        self.forget(away=True)
        self.world.run_until(self.world.now + 2.0)
        self.network.renew()
        self.world.run_until(self.world.now + 2.0)
        found += [f"forgotten: {one}" for one in self._told()]
        live = self.coordinator.core._book.live
        found += [f"forgotten: {one} is still listed" for one in self.ended if one in live]
        for name, process in self.participants.items():
            left = {state.name for one, state in process.core.states() if (name, one) in self.in_doubt}
            found += [f"forgotten: {name} still has what is {state}" for state in sorted(left)]
        return found

    def _told(self) -> list[str]:
        """How each is told against how its branches ended."""
        book, found = self.coordinator.core._book, []
        for transaction_id, ends in self.ended.items():
            txn, done = book.live.get(transaction_id), book.finished.get(transaction_id)
            told = txn.outcome if txn is not None else done.told if done is not None else 0
            parted = len(set(ends.values())) > 1
            self.world.reach("parted" if parted else "ended in one way")
            if told != (MIXED if parted else HAZARD):
                found.append(f"told: {transaction_id} ended {ends}, and is told as {common_pb2.Outcome.Name(told)}")
        return found

    def _listed(self) -> list[str]:
        """Who is in doubt is listed; who is not, is not."""
        book, found = self.coordinator.core._book, []
        for name, process in self.participants.items():
            listed, prepared = set(book.participants[name].stranded), _prepared(process)
            found += [f"listed: {name} is in doubt about {one}, and is not" for one in sorted(prepared - listed)]
            found += [f"listed: {name} is not in doubt about {one}, and is" for one in sorted(listed - prepared)]
        return found


def _prepared(process: ParticipantProcess) -> set[str]:
    states = process.core.states() if process.alive and process.serving else ()
    return {name for name, state in states if state is BranchState.PREPARED and name.startswith("c1.")}


def run(seed: int) -> tuple[list[str], Foreign]:
    """One seed; its violations."""
    one = Foreign(seed)
    one.go(None)
    return one.judge(), one
