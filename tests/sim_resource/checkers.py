"""What must hold, whatever goes wrong: named checks against the shadow, and against what was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from participant_sdk.core.branches import FINISHED, Branch, State
from participant_sdk.core.work import Execute, ExecuteRefused, LocalDone, Mode, UndoFailed, Wanted
from participant_sdk.resources.sqlite_schema import Schema
from tests.sim_resource.author import CODES, RAISED, Operations, Work
from tests.sim_resource.shadow import Rows, Shadow, dump
from troth.errors import TrothError
from troth.ready import Append, Event
from troth.v1 import common_pb2, participant_pb2

RETRYABLE = ("CONFLICT", "GROUP_LOST")
CHECKPOINT_PAGES = 64
WAL_BYTES_MAX = (CHECKPOINT_PAGES + 100) * (4096 + 24) + 32
"""Pages until the write-ahead log is moved into the file, and those of the batch that fills it."""
ENDING_SECONDS = 0.2
LOCK_WAIT_SECONDS = 0.3
WAIT_SECONDS_MAX = LOCK_WAIT_SECONDS + 0.1
_KEPT = (State.PREPARED, State.COMMITTING, State.COMMITTED, State.ABORTING, State.PARKED, State.FORCED_COMMIT, State.FORCED_ABORT)


class Checkers:
    """All checks of one run; what they find is in `violations`."""

    def __init__(self, shadow: Shadow) -> None:
        self.shadow = shadow
        self.violations: list[str] = []
        self.yes: set[str] = set()
        """Branches for which YES was said, and no ABORT was ever decided."""
        self.given_up: set[str] = set()
        """Branches of which ABORT was decided, or an operator has taken care."""
        self.done: set[str] = set()
        """Branches whose COMMIT was acknowledged."""
        self.lost_commits = 0
        """COMMITs that were made to fail, and may be told as GROUP_LOST."""
        self.may_park: set[str] = set()
        """Branches whose undo cannot apply, because somebody changed the schema behind the SDK's back."""
        self.ages: dict[str, tuple[int, str]] = {}
        self._open: dict[str, float] = {}
        """Branches that are not finished, or were until this time."""
        self.parked: set[str] = set()
        """Branches that could not be undone."""
        self._waiting: dict[tuple[str, int], float] = {}
        """Since when a branch waits for locks, by branch and call."""

    def violate(self, checker: str, what: str) -> None:
        """Something does not hold."""
        self.violations.append(f"{checker}: {what}")

    # ---- the file

    def whole(self, connection: apsw.Connection, when: str) -> None:
        """stands: the file holds what is committed and what undecided branches did, and nothing else, to the last row."""
        found, expected = dump(connection, self.shadow.keys), self.shadow.expected()
        for table in sorted(found.keys() | expected.keys()):
            if found.get(table) != expected.get(table):
                extra = [row for row in found.get(table, ()) if row not in expected.get(table, ())]
                missing = [row for row in expected.get(table, ()) if row not in found.get(table, ())]
                self.violate("stands", f"after {when}, {table} has {extra[:3]} and lacks {missing[:3]}")

    def remembered(self, schema: Schema) -> None:
        """fingerprint: what is remembered of the schema is what the file says now."""
        fresh = Schema(schema._connection)
        fresh.read()
        stale = [tables for tables, known in schema._fingerprints.items() if fresh.fingerprint(tables) != known]
        if stale or fresh._tables != schema._tables:
            self.violate("fingerprint", f"the fingerprints of {stale} are of another schema")

    def wal(self, size: int) -> None:
        """given back: the write-ahead log is moved into the file, and begins again."""
        if size > WAL_BYTES_MAX:
            self.violate("given back", f"the write-ahead log has {size} bytes")

    def row_locks(self, found: dict[str, list[bytes]], machine: Any) -> None:
        """until the outcome: the row locks are those that the unfinished branches' work names, and no others."""
        named = {
            name: {row for _, work in branch.works for row in work.rows}
            for name, branch in machine.branches.items()
            if branch.state not in FINISHED
        }
        for name in found.keys() | named.keys():
            if set(found.get(name, ())) != named.get(name, set()):
                self.violate("until the outcome", f"{name} holds the rows {found.get(name)}, and its work names {named.get(name)}")

    # ---- work

    def once(self, operations: Operations, arguments: list[bytes]) -> None:
        """once: an operation's function runs once, or twice when its group was lost in between."""
        for argument in set(arguments):
            runs = operations.runs.pop(argument, 0)
            if runs > 2 * arguments.count(argument):
                self.violate("once", f"an operation ran {runs} times")

    def executed(self, name: str, works: list[Work], values: list[Any], changed: bool, seq: int) -> Rows:
        """Work has succeeded. Returns the rows that it changed."""
        for work in works:
            if work.expected:
                self.violate("denied", f"{name} was to be refused with {work.expected}: {work.steps}")
                return frozenset()
        forecast = self.shadow.forecast(name, works, values)
        if forecast.found is None:
            self.violate("constraints", f"{name} broke a constraint and succeeded: {[work.steps for work in works]}")
            return frozenset()
        if repr(forecast.found) != repr(values):
            self.violate("isolation", f"{name} read {values}, and should have read {forecast.found}")
        if bool(forecast.rows) != changed:
            self.violate("captured", f"{name} says changed={changed}, and changed {sorted(forecast.rows)}")
        if changed != bool(seq) and changed:
            self.violate("one transaction", f"{name} has changed rows without a record")
        locked = forecast.rows & self.shadow.rows_of_others(name)
        if locked:
            self.violate("row locks", f"{name} changed {sorted(locked)}, which another branch has changed and not finished")
        return forecast.rows

    def refused(self, name: str, works: list[Work], cause: common_pb2.Cause, seq: int) -> None:
        """Work was refused."""
        if seq:
            self.violate("dropped", f"{name} was refused, and has a record")
        if cause.reason in RETRYABLE and not cause.retryable:
            self.violate("retryable", f"{name} was refused with {cause.reason}, and is told not to try again")
        expected = [work.expected for work in works if work.expected]
        if cause.reason == "GROUP_LOST":
            if not self.lost_commits:
                self.violate("group", f"{name} was refused with GROUP_LOST, and no COMMIT has failed")
            return
        tables = frozenset().union(*(work.tables for work in works))
        shared = tables & self.shadow.tables_of_others(name)
        if cause.reason == "CONFLICT" and shared:
            return
        harmless = [work for work in works if not work.expected]
        forecast = self.shadow.forecast(name, harmless, None)
        if cause.reason == "CONSTRAINT" and "badge" in shared:
            if forecast.found is not None and not expected and not cause.retryable:
                self.violate("retryable", f"{name} met a constraint of undecided data, and is told not to try again")
            return
        if forecast.found is None:
            expected.append(forecast.reason)
        if "badge" in tables:  # the shadow knows nothing of its UNIQUE
            expected.append("CONSTRAINT")
        if cause.reason not in expected:
            self.violate("needless", f"{name} was refused with {cause.reason}, not {expected}: {cause.message}")
        if cause.reason == "REFUSED" and (cause.code not in CODES or cause.retryable):
            self.violate("refuse", f"the author's refusal came as {cause.code!r}")

    def local(self, work: Work, write: bool, event: LocalDone) -> None:
        """Local work has run: the same holds for it."""
        if event.error is not None:
            self._local_failed(work, event.error)
            return
        if work.expected:
            self.violate("denied", f"local work was to be refused with {work.expected}: {work.steps}")
            return
        forecast = self.shadow.forecast("", [work], [event.value])
        if forecast.found is None or repr(forecast.found) != repr([event.value]):
            self.violate("isolation", f"local work read {event.value}, and should have read {forecast.found}")
            return
        if forecast.rows and not write:
            self.violate("denied", f"a local read changed {sorted(forecast.rows)}")
        locked = forecast.rows & self.shadow.rows_of_others("")
        if locked:
            self.violate("row locks", f"local work changed {sorted(locked)}, which a branch has changed and not finished")
        self.shadow.locally(work, event.value)

    def _local_failed(self, work: Work, error: BaseException) -> None:
        if work.expected == "OPERATION_FAILED" and type(error) in RAISED:
            return
        reason = error.reason.name if isinstance(error, TrothError) else type(error).__name__
        shared = work.tables & self.shadow.tables_of_others("")
        if reason == "GROUP_LOST" and self.lost_commits:
            return
        if work.expected in ("REFUSED", reason) or (shared and reason in ("CONFLICT", "ConstraintError")):
            return
        constrained = not work.expected and reason in ("ConstraintError", "CONSTRAINT", "MismatchError")
        if constrained and ("badge" in work.tables or self.shadow.forecast("", [work], None).found is None):
            return
        self.violate("needless", f"local work was refused with {reason}, not {work.expected!r}: {error}")

    def schema_change(self) -> None:
        """schema waits: nothing is undecided while the schema changes."""
        if self.shadow.undecided:
            self.violate("schema waits", f"the schema was changed while {sorted(self.shadow.undecided)} were undecided")

    # ---- undo

    def undone(self, name: str, seq: int) -> None:
        """A branch is rolled back."""
        if not seq:
            self.violate("one transaction", f"{name} was undone without a record")
        if name in self.may_park:
            self.violate("fingerprint", f"the undo of {name} was applied to another schema")

    def undo_failed(self, name: str, event: Any, seq: int) -> None:
        """hazard: an undo fails only where keys were too narrow, or the schema is another; and then leaves no record."""
        assert isinstance(event, UndoFailed)
        narrow = any(row[0] == "badge" for entry in self.shadow.undecided.get(name, ()) for row in entry.rows)
        if not narrow and name not in self.may_park:
            self.violate("hazard", f"{name} cannot be undone: {event.why}")
        if seq:
            self.violate("dropped", f"the undo of {name} did not apply, and its record was kept")
        self.parked.add(name)

    # ---- what is said

    def said(self, field: str, message: Any) -> None:
        """A message was handed to the network."""
        name = message.transaction_id
        if field == "votes":
            if message.kind == participant_pb2.VOTE_KIND_YES and name not in self.given_up:
                self.yes.add(name)
            elif message.kind == participant_pb2.VOTE_KIND_NO:
                self._said_no(name, message.cause)
            elif message.kind == participant_pb2.VOTE_KIND_COMMITTED and name not in self.shadow.committed:
                self.violate("told", f"{name} was told committed, and is not in the file")
            elif message.kind == participant_pb2.VOTE_KIND_READ_ONLY and self.shadow.undecided.get(name):
                self.violate("told", f"{name} voted READ_ONLY, and has changed something")
        elif field == "acknowledgements" and message.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_DONE:
            self.done.add(name)
            if name in self.shadow.undecided:
                self.violate("told", f"{name} is acknowledged, and its work is still undecided in the file")

    def _said_no(self, name: str, cause: common_pb2.Cause) -> None:
        if cause.reason in RETRYABLE and not cause.retryable:
            self.violate("retryable", f"{name} voted NO with {cause.reason}, and is told not to try again")
        if name in self.yes:
            self.violate("told", f"{name} voted NO after YES")

    def give_up(self, name: str) -> None:
        """The branch need not be kept any more."""
        self.given_up.add(name)
        self.yes.discard(name)

    # ---- wait-die

    def began(self, name: str) -> None:
        """A branch may hold locks from now on."""
        self._open[name] = float("inf")

    def ended(self, name: str, now: float) -> None:
        """A branch was told to be over; its rollback may still be on its way."""
        self._open[name] = min(self._open[name], now + ENDING_SECONDS)

    def died(self, name: str, now: float, *, excused: bool) -> None:
        """wait-die: who dies has met somebody older (a one-shot answers for a whole millisecond), or one for whom nobody waits."""
        mine = self.ages[name]
        if self.parked or excused:
            return
        if not any(self.ages[other][0] <= mine[0] for other, until in self._open.items() if until >= now and other != name):
            self.violate("wait-die", f"{name} died, and nobody unfinished is older")

    def waits(self, name: str, holders: Sequence[str], since: tuple[str, int], now: float) -> None:
        """wait-die: who waits does so for younger ones only, and not for long."""
        for holder in holders:
            if self.ages[holder] < self.ages[name]:
                self.violate("wait-die", f"{name} waits for {holder}, which is older")
        began = self._waiting.setdefault(since, now)
        if now - began > WAIT_SECONDS_MAX:
            self.violate("bounded", f"{name} has waited for locks since {began}, and it is {now}")

    # ---- cost and life

    def written(self, batch: Sequence[Append], events: Sequence[Event | None], syncs: int) -> None:
        """group: a batch is synced once, and what is not prepared asks for no sync."""
        lost = any(isinstance(event, ExecuteRefused | LocalDone | UndoFailed | Wanted) for event in events)
        if syncs > 3 and not lost:  # behind a checkpoint the log's new header, and what was unsynced before, come to it
            self.violate("group", f"a batch of {len(batch)} was synced {syncs} times")
        for append in batch:
            if isinstance(append.apply, Execute) and append.apply.mode is Mode.ACTIVE and append.force:
                self.violate("unforced", f"a call of {append.apply.transaction_id} asks for a sync")

    def serves(self, machine: Any) -> None:
        """recovery: who serves again has undone whatever was not prepared."""
        for name in self.shadow.undecided:
            branch = machine.branches.get(name)
            if branch is None or branch.state is State.ACTIVE or name in machine.recovering:
                self.violate("recovery", f"the service has started, and {name} is {branch!r}")

    # ---- crashes

    def promises_after_crash(self, branches: dict[str, Branch]) -> None:
        """durable: after a crash the log still holds every branch for which YES was said, until it is finished."""
        for name in self.yes - self.done:
            branch = branches.get(name)
            if branch is None or branch.state not in _KEPT:
                self.violate("durable", f"YES was said for {name}, and after a crash it is {branch!r}")
