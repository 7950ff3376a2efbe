"""The participant's core: `troth.ready.Core` over the table of transitions.

It finds the branch that an event is about, looks the handler up, and takes what follows from it: locks that were granted,
events that were deferred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from participant_sdk.core import interactive, local, records, recovery, undeclared
from participant_sdk.core.branches import FINISHED, UNPREPARED, Branch, Config, Kind, State
from participant_sdk.core.coordinators import Coordinators
from participant_sdk.core.effects import ReportsComplete, Send, Started
from participant_sdk.core.events import (
    Call,
    Cancelled,
    Connected,
    Disconnected,
    Durable,
    FromCoordinator,
    LastCall,
    LocalWork,
    PrepareReceived,
    SchemaChange,
    Start,
    Stop,
)  # fmt: skip
from participant_sdk.core.line import refuse_line
from participant_sdk.core.local import LocalOwner
from participant_sdk.core.machine import NAMELESS, Machine, Watermark
from participant_sdk.core.starts import Starts
from participant_sdk.core.transitions import ROWS, TABLE
from participant_sdk.core.work import CommitFailed, Committed, Executed, ExecuteRefused, LocalDone, UndoFailed, Undone, Wanted
from troth.errors import LocalProtocolError, Reason, RemoteProtocolError
from troth.ready import Append, Event, Instant, Opened, Ready
from troth.v1 import participant_pb2, record_pb2

_ANSWERS: dict[type, Kind] = {
    Executed: Kind.EXECUTED,
    ExecuteRefused: Kind.EXECUTE_REFUSED,
    Wanted: Kind.WANTED,
    Committed: Kind.RESOURCE_COMMITTED,
    CommitFailed: Kind.COMMIT_FAILED,
    Undone: Kind.UNDONE,
    UndoFailed: Kind.UNDO_FAILED,
}
_STEPS = {
    "prepared": Kind.DURABLE_PREPARED,
    "committed": Kind.DURABLE_COMMITTED,
    "aborted": Kind.DURABLE_ABORTED,
    "parked": Kind.DURABLE_PARKED,
}
_DECISIONS: dict[int, Kind] = {
    participant_pb2.DECISION_KIND_COMMIT: Kind.COMMIT,
    participant_pb2.DECISION_KIND_ABORT: Kind.ABORT,
}
_FORCES: dict[int, Kind] = {
    participant_pb2.FORCE_KIND_COMMIT: Kind.FORCE_COMMIT,
    participant_pb2.FORCE_KIND_ABORT: Kind.FORCE_ABORT,
    participant_pb2.FORCE_KIND_FORGET: Kind.FORCE_FORGET,
}
_PREPARE = Kind.PREPARE
_ASK = Kind.ASK
_TIMERS = {"ask": Kind.ASK, "lock": Kind.LOCK_TIMEOUT, "enlist": Kind.ENLIST_TIMEOUT}


class ParticipantCore:
    """The pure state machine of one participant. Events are in `events` and `work`, effects in `effects`."""

    def __init__(self, config: Config) -> None:
        self._m = Machine(config)
        self._steps: dict[type, Callable[[Any], None]] = {
            PrepareReceived: self._prepare_received,
            FromCoordinator: self._from_coordinator,
            Durable: self._durable,
            Call: self._call,
            LastCall: self._last_call,
            Cancelled: self._cancelled,
            LocalWork: self._local_work,
            SchemaChange: self._local_work,
            LocalDone: self._local_done,
            Connected: self._connected,
            Disconnected: self._disconnected,
            Start: self._start,
            Stop: self._stop,
            **dict.fromkeys(_ANSWERS, self._answered),
        }
        self._messages: dict[type, Callable[[Any], None]] = {
            participant_pb2.Decision: self._decision,
            participant_pb2.Enlisted: self._enlisted,
            participant_pb2.RollbackIfUnseen: self._settle,
            participant_pb2.Watermark: self._watermark,
            participant_pb2.Force: self._force,
        }

    # ---- the engine's side

    def recover(self, records: Sequence[bytes], now: Instant, opened: Opened) -> Sequence[str]:
        """Rebuild the state from the log; unprepared work of earlier incarnations is rolled back with the first batch."""
        self._m.now, self._m.opened_at = now, opened.position
        return recovery.recover(self._m, records)

    def step(self, event: Event, now: Instant) -> None:
        """Take one event."""
        m = self._m
        m.now = now
        try:
            handle = self._steps[type(event)]
        except KeyError:
            raise LocalProtocolError(f"{type(event).__name__} is no event of a participant") from None
        handle(event)
        if m.granted or m.rerun:
            self._follow_up()
        if not m.started:
            self._check_started()

    def tick(self, now: Instant) -> None:
        """Carry out what is due."""
        m = self._m
        m.now = now
        for what, subject in m.timers.pop_due(now.monotonic):
            if what == "local":
                local.timed_out(m, subject)
            elif what == "turn":
                local.turn(m)
            else:
                self._fire(m.branches.get(subject), _TIMERS[what])
            self._follow_up()

    def _fire(self, branch: Branch | None, kind: Kind) -> None:
        # Another timer of the same tick may have moved the branch on.
        if branch is None or kind not in ROWS[branch.state]:
            return
        # Without a session there is nobody to ask; the next one arms the timer again.
        if kind is not _ASK or self._m.stream_of(branch):
            TABLE[branch.state][kind](self._m, branch, None)

    def deadline(self) -> float | None:
        """When the next tick is due."""
        return self._m.timers.deadline()

    def take_ready(self) -> Ready:
        """Hand over what was decided since the last call."""
        m = self._m
        while m.overtaken:
            coordinator = m.overtaken.pop()
            self._move_watermark(coordinator, m.watermark_of(coordinator))
        ready, m.ready = m.ready, Ready()
        return ready

    def live_records(self, owner: str) -> Sequence[record_pb2.ParticipantRecord]:
        """What the log must still hold about a transaction; without one, about identity and watermark."""
        if not owner:
            return recovery.identity_records(self._m)
        branch = self._m.branches.get(owner)
        return () if branch is None else records.live(branch)

    def live_owners(self) -> int:
        """How many transactions have live records."""
        return self._m.live + 1

    # ---- the shell's side

    @property
    def incarnation_seen(self) -> int:
        """The highest incarnation in the log; the next one is one higher (with `Config.keeps_identity`)."""
        return self._m.incarnation

    @property
    def starts(self) -> Starts:
        """Every start, the present one last (with `Config.keeps_identity`)."""
        return self._m.starts

    @property
    def coordinators(self) -> Coordinators:
        """Which coordinators were followed (with `Config.keeps_identity`, or in this process)."""
        return self._m.coordinators

    def lock_counts(self) -> tuple[int, int]:
        """How many hold locks, and how many wait for some."""
        return self._m.locks.counts()

    def recovered_rows(self) -> Sequence[tuple[str, Sequence[bytes]]]:
        """Rows that unfinished branches have changed, to be locked again before the first write (ATOMIC)."""
        return [
            (branch.transaction_id, [row for _, work in branch.works for row in work.rows])
            for branch in self._m.branches.values()
            if branch.works
        ]

    def resource_branches(self) -> Sequence[tuple[str, str]]:
        """Every branch that the resource must keep, or keeps a proof of, with the resource's own name of it. What else it
        holds prepared is an orphan of a crash before the vote, and may be rolled back (EXTERNAL)."""
        return [(b.transaction_id, b.resource_branch) for b in self._m.branches.values() if b.resource_branch]

    def in_doubt(self) -> Sequence[tuple[str, bytes]]:
        """Every branch that voted YES and has heard no decision, with the serialised Peers that came with Prepare."""
        return [(b.transaction_id, b.peers) for b in self._m.branches.values() if b.state is State.PREPARED]

    def states(self) -> Sequence[tuple[str, State]]:
        """Every branch that is not finished, for people."""
        return [(b.transaction_id, b.state) for b in self._m.branches.values() if b.state not in FINISHED]

    # ---- finding the branch

    def _take(self, transaction_id: str, kind: Kind, event: Any, order: int = 0) -> None:
        """Let the table's handler take an event about a branch. A decision or a question tells its order as well."""
        m = self._m
        branch = m.branches.get(transaction_id)
        if branch is None:
            branch = self._unknown(transaction_id, order)
        elif order and not branch.order and kind is not _PREPARE and kind in ROWS[branch.state]:
            m.learn_order(branch, order)
        TABLE[branch.state][kind](m, branch, event)

    def _unknown(self, transaction_id: str, order: int) -> Branch:
        """A branch that is UNSEEN or EXPIRED, and not remembered."""
        branch = recovery.new_branch(transaction_id)
        branch.order = order
        if self._m.expired(branch):
            branch.state = State.EXPIRED
        return branch

    def _follow_up(self) -> None:
        """Take what follows: granted locks, then deferred events."""
        m = self._m
        while m.granted or m.rerun:
            if m.granted:
                owner = m.granted.popleft()
                if isinstance(owner, LocalOwner):
                    local.run(m, owner.ticket)
                else:
                    self._locked(m.branches.get(owner))
                continue
            branch = m.rerun.popleft()
            deferred, branch.deferred = branch.deferred, ()
            for kind, event in deferred:
                TABLE[branch.state][kind](m, branch, event)

    def _locked(self, branch: Branch | None) -> None:
        # It may have been rolled back in the step in which its locks were granted.
        if branch is not None and branch.state is State.WAITING:
            TABLE[branch.state][Kind.LOCKED](self._m, branch, None)

    # ---- the session

    def _connected(self, event: Connected) -> None:
        m = self._m
        m.sessions.check_newer(event.coordinator, event.stream)
        said = record_pb2.EpochSeen(
            coordinator=event.coordinator, epoch=event.epoch, log_id=event.log_id, nonce=event.nonce, position=event.position
        )
        news = m.coordinators.check(said)
        life = f"{event.coordinator}.{event.epoch}." + (f"{event.nonce}." if event.nonce else "")
        m.sessions.begin(event.coordinator, event.stream, event.cell, life)
        m.coordinator = event.coordinator
        m.coordinators.replay(said)
        if news and (m.config.keeps_identity or event.position):
            # It need not be awaited: every vote that follows lies behind it in the log.
            record = record_pb2.ParticipantRecord(epoch_seen=said)
            m.ready.appends.append(Append(record, force=m.config.keeps_identity))
        self._settle_nameless(event)
        self._report(event)

    def _settle_nameless(self, event: Connected) -> None:
        """A watermark that was kept for all is that of the coordinator that there was: one of a lower epoch is another one."""
        m = self._m
        before = m.watermarks.pop(NAMELESS, None)
        if before is not None:
            if event.epoch >= before.durable[0]:
                m.watermarks.setdefault(event.coordinator, before)
            # In the log before any branch of this coordinator is: there it says whose the other one was.
            below = m.watermarks.setdefault(event.coordinator, Watermark()).durable
            m.ready.appends.append(Append(recovery.forgotten_below(event.coordinator, below)))

    def _report(self, event: Connected) -> None:
        """Tell every unfinished branch that is no other shard's, and roll back what a restarted coordinator has forgotten."""
        m = self._m
        others = event.cell - {event.coordinator}
        for branch in list(m.branches.values()):
            if branch.coordinator in others:
                continue
            of_this_life = (branch.coordinator, branch.epoch) == (event.coordinator, event.epoch)
            if branch.state in UNPREPARED and not of_this_life:
                TABLE[branch.state][Kind.LOST](m, branch, None)
            report = records.report(branch)
            if report is not None:
                m.ready.effects.append(Send(event.stream, "reports", report))
            if branch.state is State.PREPARED or (branch.state in UNPREPARED and branch.calls is not None):
                branch.attempts = 0
                m.ask_later(branch)
            elif branch.state is State.ABORTED and of_this_life:
                interactive.ask_for_order(m, branch)
        m.ready.effects.append(ReportsComplete(event.stream))
        undeclared.tell(m, event.stream, m.undeclared)

    def _disconnected(self, event: Disconnected) -> None:
        self._m.sessions.end(event.stream)

    # ---- messages

    def _prepare_received(self, event: PrepareReceived) -> None:
        coordinator = self._m.sessions.coordinator_of(event.stream)
        if coordinator is not None:
            message = event.message
            if event.position > self._m.told.get(coordinator, 0):
                self._m.told[coordinator] = event.position
            self._take(message.transaction_id, _PREPARE, event, message.order)

    def _from_coordinator(self, event: FromCoordinator) -> None:
        coordinator = self._m.sessions.coordinator_of(event.stream)
        if coordinator is None:
            return  # a superseded stream (rule 5)
        self._m.coordinator = coordinator
        message = event.message
        hear = self._messages.get(type(message))
        if hear is None:
            raise LocalProtocolError(f"{type(message).__name__} is no message of a coordinator")
        if event.position > self._m.told.get(coordinator, 0):
            self._m.told[coordinator] = event.position
        hear(message)

    def _decision(self, message: participant_pb2.Decision) -> None:
        kind = _DECISIONS.get(message.kind)
        if kind is None:
            raise RemoteProtocolError(f"Decision of the unknown kind {message.kind}")
        self._check_its_own(message.transaction_id)
        self._take(message.transaction_id, kind, message, message.order)

    def _enlisted(self, message: participant_pb2.Enlisted) -> None:
        self._take(message.transaction_id, Kind.ENLISTED, message)

    def _check_its_own(self, transaction_id: str) -> None:
        """A coordinator decides about nothing that another one began: of that it has no record, and absence says nothing."""
        if transaction_id.partition(".")[0] != self._m.coordinator:
            text = f"{self._m.coordinator} decides about {transaction_id[:120]}, which is not its to decide"
            raise RemoteProtocolError(text, reason=Reason.FOREIGN_COORDINATOR)

    def _settle(self, message: participant_pb2.RollbackIfUnseen) -> None:
        self._check_its_own(message.transaction_id)
        self._take(message.transaction_id, Kind.SETTLE, message, message.order)

    def _force(self, message: participant_pb2.Force) -> None:
        kind = _FORCES.get(message.kind)
        if kind is None:
            raise RemoteProtocolError(f"Force of the unknown kind {message.kind}")
        self._take(message.transaction_id, kind, message)

    # ---- the watermark (rule 19)

    def _watermark(self, message: participant_pb2.Watermark) -> None:
        m = self._m
        asked = (message.epoch, message.below)
        if asked[0] > m.coordinators.epoch(m.coordinator):
            raise RemoteProtocolError(f"a watermark of epoch {asked[0]}, which is not there yet")
        watermark = m.watermark_of(m.coordinator)
        watermark.asked = max(watermark.asked, asked)
        self._move_watermark(m.coordinator, watermark)

    def _move_watermark(self, coordinator: str, watermark: Watermark) -> None:
        """A watermark takes effect when it is durable: else a crash could make EXPIRED look like never seen."""
        if watermark.in_flight is None and watermark.finished and watermark.finished[0][:2] < watermark.asked:
            watermark.in_flight = watermark.asked
            record = recovery.forgotten_below(coordinator, watermark.asked)
            event = Durable("", "watermark", coordinator)
            self._m.ready.appends.append(Append(record, force=False, event=event, patient=True))

    # ---- what the engine and the resource give back

    def _durable(self, event: Durable) -> None:
        m = self._m
        if event.transaction_id:
            self._take(event.transaction_id, _STEPS[event.step], event)
        else:
            watermark = m.watermarks.get(event.coordinator)
            if event.step != "watermark" or watermark is None or watermark.in_flight is None:
                raise LocalProtocolError(f"nobody waits for {event.step!r}")
            watermark.durable, watermark.in_flight = watermark.in_flight, None
            m.forget_finished(watermark)
            self._move_watermark(event.coordinator, watermark)

    def _answered(self, event: Any) -> None:
        self._take(event.transaction_id, _ANSWERS[type(event)], event)

    # ---- the service

    def _call(self, event: Call) -> None:
        m = self._m
        if event.ticket in m.call_tickets or event.ticket in m.local:
            raise LocalProtocolError(f"the ticket {event.ticket!r} was used before")
        self._take(event.transaction_id, Kind.CALL, event)

    def _last_call(self, event: LastCall) -> None:
        self._take(event.transaction_id, Kind.LAST_CALL, event)

    def _local_work(self, event: LocalWork | SchemaChange) -> None:
        local.begin(self._m, event)

    def _local_done(self, event: LocalDone) -> None:
        local.done(self._m, event)

    def _cancelled(self, event: Cancelled) -> None:
        m = self._m
        if event.ticket in m.local:
            local.cancelled(m, event.ticket)
        elif event.ticket in m.call_tickets:
            interactive.cancelled(m, event.ticket)

    # ---- the process

    def _start(self, event: Start) -> None:
        m = self._m
        if m.incarnation_asked:
            raise LocalProtocolError("started twice")
        if event.incarnation <= (m.incarnation if m.config.keeps_identity else 0):
            raise LocalProtocolError(f"incarnation {event.incarnation} is not higher than {m.incarnation}")
        m.incarnation = m.incarnation_asked = event.incarnation
        m.nonce = event.nonce

    def _check_started(self) -> None:
        """Everything unprepared is undone: serve, once the incarnation is durable."""
        m = self._m
        if not m.incarnation_asked or m.recovering:
            return
        m.started = True
        effect = Started(m.incarnation)
        if m.config.keeps_identity:
            record = recovery.begin_incarnation(m)
            m.ready.appends.append(Append(record, effects=(effect,)))
        else:
            m.ready.effects.append(effect)

    def _stop(self, event: Stop) -> None:
        m = self._m
        m.stopping = True
        cause = m.cause(Reason.SHUTTING_DOWN, "the participant is going down")
        local.stop(m)
        for branch in list(m.branches.values()):
            if branch.state is State.ENLISTING:
                interactive.not_accepted(m, branch, cause)
            elif branch.state in UNPREPARED:
                refuse_line(m, branch, cause)
