"""The service as a process: the participant's core, its file, and the witness at the file's edge.

The witness sees each batch when it has been written, in the order of the log, and tells the shadow what it must hold from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from participant_sdk.core import effects as out
from participant_sdk.core import events as into
from participant_sdk.core.branches import FINISHED, Branch, Config, State
from participant_sdk.core.core import ParticipantCore
from participant_sdk.core.locks import conflict
from participant_sdk.core.work import (
    Execute,
    Executed,
    ExecuteRefused,
    Keys,
    LocalDone,
    LocalRun,
    Mode,
    Release,
    ResourceKind,
    Undo,
    Undone,
    Wanted,
)
from tests.sim.world import World
from tests.sim_resource.author import Operations, Work, parsed
from tests.sim_resource.checkers import LOCK_WAIT_SECONDS, Checkers
from tests.sim_resource.files import PARTICIPANT, Files
from tests.sim_resource.shadow import Shadow
from tests.sim_resource.shell import Shell
from troth.backoff import Backoff
from troth.ready import Append, Effect, Event
from troth.v1 import common_pb2
from troth.values import decode_value

COORDINATOR = "c1"


class LocalFunction:
    """A function for `participant.local` or `participant.read`, that carries what it is."""

    def __init__(self, operations: Operations, work: Work) -> None:
        self.work = work
        self._operations = operations

    def __call__(self, db: Any) -> Any:
        return self._operations.take_steps(self.work.steps, db)


class Service(Shell):
    """One participant."""

    def __init__(self, world: World, files: Files, shadow: Shadow, checkers: Checkers) -> None:
        super().__init__(world, files)
        self.shadow = shadow
        self.checkers = checkers
        self.incarnation = 0
        self.epoch = 1
        self.stream = 0
        self.number = 0
        self.hear: Callable[[str, Any], None] = lambda field, message: None
        self.replies: dict[Any, Callable[[Any], None]] = {}
        self.altered: set[str] = set()
        """Tables that were changed behind the SDK's back since the last life."""
        self.ordered: set[str] = set()
        """Branches that an operator has ended offline."""
        self.ordered_now: set[str] = set()
        """Those among them that were ended since the last life."""
        files.on_written = self._witness

    # ---- life

    def make_core(self) -> ParticipantCore:
        """A core of a new incarnation."""
        self.incarnation += 1
        self.stream = 0
        self.replies.clear()
        config = Config(
            PARTICIPANT, ResourceKind.ATOMIC, lock_wait_seconds=LOCK_WAIT_SECONDS, local_wait_seconds=0.5, inquiry=Backoff(0.3, 2.0)
        )
        return ParticipantCore(config)

    def recovered(self) -> None:
        """Row locks are taken again, and the file is compared; then the core may begin."""
        resource = self.disk.resource
        assert resource is not None
        for transaction_id, rows in self.core.recovered_rows():
            resource.recover_locks(transaction_id, rows)
        self._check_recovery()
        self._inbox.append(into.Start(self.incarnation))

    def _check_recovery(self) -> None:
        branches = self.core._m.branches
        # Branches that recovery is ending (ABORTING, COMMITTING) have still done what they did.
        unfinished = {name: len(branch.works) for name, branch in branches.items() if branch.state not in FINISHED and branch.works}
        self.checkers.promises_after_crash(branches)
        for name in unfinished.keys() & self.shadow.committed:
            if branches[name].state not in (State.FORCED_COMMIT, State.FORCED_ABORT):
                self.checkers.violate("durable", f"{name} was committed, and is {branches[name].state.name} after a crash")
        for name in sorted(self.ordered_now):
            if name in branches and branches[name].state is State.PREPARED:
                self.checkers.violate("orders", f"{name} was ended by an operator, and is in doubt")
        self.ordered_now.clear()
        self.shadow.recovered(unfinished)
        for name, entries in self.shadow.undecided.items():
            if any(row[0] in self.altered for entry in entries for row in entry.rows):
                self.checkers.may_park.add(name)
        self.altered.clear()
        self._check_script()
        self.compare("recovery")

    def _check_script(self) -> None:
        """A new schema script has run at this start, or was refused: it waits until nothing is undecided."""
        files = self.disk
        if files.script_refused:
            self.world.reach("schema script refused")
            if not self.core.states():
                self.checkers.violate("needless", "a schema script was refused, and nothing is undecided")
        if files.script_ran:
            self.world.reach("schema script")
            if self.shadow.run_schema(files.script_ran) and self.shadow.undecided:
                open_work = sorted(self.shadow.undecided)
                self.checkers.violate("schema waits", f"a script has changed rows while {open_work} were undecided")
        files.script_refused, files.script_ran = False, ""

    def compare(self, when: str) -> None:
        """Compare the whole file with the shadow."""
        self.checkers.whole(self.disk.log._file.connection, when)
        self.checkers.remembered(self.disk.log._schema)

    def check_waiting(self, keys: Callable[[str], tuple[Keys, int]]) -> None:
        """Look at everybody who stands in line; `keys` tells what a transaction waits for, and in which call."""
        machine = self.core._m
        if not self._writing and not self._queued:
            self.checkers.row_locks(self.disk.log.locks._rows, machine)
        for name, branch in machine.branches.items():
            if branch.state is State.WAITING:
                wanted, call = keys(name)
                current = branch.calls.current if branch.calls is not None else None
                finds = branch.finds if current is None else current.finds  # it may wait once more for what it finds
                since = (f"{name} {self.life} {finds}", call)
                holders = machine.locks._exclusive.items()
                found = {str(holder) for key, holder in holders if holder != name and conflict(wanted, Keys((key,)))}
                awaited = [one for one in found if one in machine.branches and self._is_rivalled(branch, machine.branches[one])]
                self.checkers.waits(name, awaited, since, self.world.now)

    def has_stuck(self) -> bool:
        """Whether a branch is in doubt since an earlier life, or for so long that it has asked: nobody waits for it."""
        machine = self.core._m
        in_doubt = [branch for branch in machine.branches.values() if branch.state is State.PREPARED]
        return any(branch.attempts or branch.incarnation != machine.incarnation for branch in in_doubt)

    @staticmethod
    def _is_rivalled(branch: Branch, holder: Branch) -> bool:
        """Whether wait-die is the rule between the two: not between one-shots, and not for who is about to end."""
        if holder.calls is None:
            return branch.calls is not None and holder.state in (State.WAITING, State.PREPARING, State.PREPARED)
        return holder.state in (State.WAITING, State.EXECUTING, State.ACTIVE)

    def perform(self, effect: Effect) -> None:
        """Carry one effect out."""
        if self.world.tracing:
            self.world.say("->", effect)
        if isinstance(effect, out.Send):
            if effect.stream == self.stream:
                self.checkers.said(effect.field, effect.message)
                self.hear(effect.field, effect.message)
        elif isinstance(effect, out.Started):
            self.checkers.serves(self.core._m)
            self.later(self.world.random.uniform(0.0, 0.1), self.connect)
        elif isinstance(effect, (out.Reply, out.LocalReply)):
            answer = self.replies.pop(effect.ticket, None)
            if answer is not None:
                answer(effect)

    def connect(self) -> None:
        """A session with the coordinator opens; a new one supersedes the old."""
        self.number += 1
        self.stream = self.number
        self.submit(into.Connected(self.number, COORDINATOR, self.epoch))

    def tell(self, message: Any) -> None:
        """A message of the coordinator arrives after a while, if this life lasts."""
        delay = self.world.random.choice([0.0, 0.001, 0.01])
        stream = self.stream
        if isinstance(message, into.PrepareReceived):
            self.later(delay, lambda: self.submit(replace(message, stream=stream)))
        else:
            self.later(delay, lambda: self.submit(into.FromCoordinator(stream, message)))

    # ---- the witness

    def _witness(self, batch: Sequence[Append], seqs: Sequence[int], events: Sequence[Event | None]) -> None:
        self.checkers.written(batch, events, self.disk.syncs_of_batch)
        self.checkers.wal(self.disk.wal_bytes)
        works = [append.apply for append in batch if isinstance(append.apply, Execute)]
        self.checkers.once(self.disk.operations, [operation.arguments for work in works for operation in work.operations])
        for append, seq, event in zip(batch, seqs, events, strict=True):
            work = append.apply
            if isinstance(work, Execute):
                self._executed(work, seq, event)
            elif isinstance(work, LocalRun):
                assert isinstance(event, LocalDone)
                self._local(work, event)
            elif isinstance(work, Release):
                self._released(work, append.record)
            elif isinstance(work, Undo):
                self._undone(work, seq, event)
        undone = any(isinstance(append.apply, Undo) for append in batch) or any(isinstance(event, Wanted) for event in events)
        if undone or self.world.random.random() < 0.15:
            self.compare("an undo" if undone else "a batch")
        if self.world.random.random() < 0.02:
            self.world.reach("checkpoint")
            self.disk.checkpoint()

    def _executed(self, work: Execute, seq: int, event: Event | None) -> None:
        works = [parsed(operation) for operation in work.operations]
        name = work.transaction_id
        if isinstance(event, ExecuteRefused):
            self.checkers.refused(name, works, event.cause, seq)
            self.world.reach(f"refused {event.cause.reason}")
            return
        if isinstance(event, Wanted):
            self.world.reach("keys found")
            assert seq == 0, "an operation that was broken off left a record"
            return
        assert isinstance(event, Executed)
        values = [decode_value(value) for value in event.work.results.values]
        rows = self.checkers.executed(name, works, values, event.changed, seq)
        if rows:
            self.shadow.ran(name, works, values, rows)
        if work.mode is Mode.ONE_PHASE:
            self.world.reach("one phase")
            self.shadow.commit(name)

    def _released(self, work: Release, record: Any) -> None:
        """A commit; or an operator who forgets a parked branch: what it did stays."""
        if record.branch_finished.outcome == common_pb2.OUTCOME_COMMITTED or work.transaction_id in self.shadow.undecided:
            self.shadow.commit(work.transaction_id)

    def _undone(self, work: Undo, seq: int, event: Event | None) -> None:
        if isinstance(event, Undone):
            self.world.reach("undone")
            self.checkers.undone(work.transaction_id, seq)
            self.shadow.abort(work.transaction_id)
        else:
            self.world.reach("undo does not apply")
            self.checkers.undo_failed(work.transaction_id, event, seq)

    def _local(self, work: LocalRun, event: LocalDone) -> None:
        if isinstance(work.function, LocalFunction):
            self.checkers.local(work.function.work, work.write, event)
        elif event.error is None:
            self.checkers.schema_change()
            self.shadow.run_schema(work.ticket[1])

