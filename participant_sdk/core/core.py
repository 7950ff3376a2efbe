"""The participant's core: `troth.ready.Core` over the table of transitions.

It finds the branch that an event is about, looks the handler up, and takes what follows from it: locks that were granted,
events that were deferred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from participant_sdk.core import interactive, local, records, recovery
from participant_sdk.core.branches import FINISHED, UNPREPARED, Branch, Config, Kind, State
from participant_sdk.core.effects import ReportsComplete, Send, Started
from participant_sdk.core.events import (
    Call,
    Cancelled,
    Connected,
    Disconnected,
    Durable,
    FromCoordinator,
    LocalWork,
    PrepareReceived,
    SchemaChange,
    Start,
    Stop,
)  # fmt: skip
from participant_sdk.core.local import LocalOwner
from participant_sdk.core.machine import Machine
from participant_sdk.core.transitions import ROWS, TABLE
from participant_sdk.core.work import CommitFailed, Committed, Executed, ExecuteRefused, LocalDone, UndoFailed, Undone
from troth.errors import LocalProtocolError, Reason, RemoteProtocolError
from troth.ready import Append, Event, Instant, Ready
from troth.v1 import participant_pb2, record_pb2

_ANSWERS: dict[type, Kind] = {
    Executed: Kind.EXECUTED,
    ExecuteRefused: Kind.EXECUTE_REFUSED,
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

    def recover(self, records: Sequence[bytes], now: Instant) -> Sequence[str]:
        """Rebuild the state from the log; unprepared work of earlier incarnations is rolled back with the first batch."""
        self._m.now = now
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
            elif m.stream or what != "ask":  # without a session there is nobody to ask; the next one arms the timer again
                self._fire(m.branches.get(subject), _TIMERS[what])
            self._follow_up()

    def _fire(self, branch: Branch | None, kind: Kind) -> None:
        # Another timer of the same tick may have moved the branch on.
        if branch is not None and kind in ROWS[branch.state]:
            TABLE[branch.state][kind](self._m, branch, None)

    def deadline(self) -> float | None:
        """When the next tick is due."""
        return self._m.timers.deadline()

    def take_ready(self) -> Ready:
        """Hand over what was decided since the last call."""
        ready, self._m.ready = self._m.ready, Ready()
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

    def epoch_seen(self, coordinator: str) -> int:
        """The highest epoch of a coordinator that was seen; 0 for none (with `Config.keeps_identity`, or in this process)."""
        return self._m.epochs.get(coordinator, 0)

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

    def states(self) -> Sequence[tuple[str, State]]:
        """Every branch that is not finished, for people."""
        return [(b.transaction_id, b.state) for b in self._m.branches.values() if b.state not in FINISHED]

    # ---- finding the branch

    def _take(self, transaction_id: str, kind: Kind, event: Any, order: int = 0) -> None:
        """Let the table's handler take an event about a branch."""
        m = self._m
        branch = m.branches.get(transaction_id) or self._unknown(transaction_id, order)
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
        if event.stream <= m.last_stream:
            raise LocalProtocolError(f"stream {event.stream} is not newer than {m.last_stream}")
        seen = m.epochs.get(event.coordinator, 0)
        if event.epoch < seen:
            raise RemoteProtocolError(f"{event.coordinator} has epoch {event.epoch}, {seen} was seen", reason=Reason.STALE_EPOCH)
        m.stream = m.last_stream = event.stream
        m.coordinator = event.coordinator
        if event.epoch > seen:
            m.epochs[event.coordinator] = event.epoch
            if m.config.keeps_identity:
                # It need not be awaited: every vote that follows lies behind it in the log.
                m.ready.appends.append(Append(recovery.epoch_seen(event.coordinator, event.epoch)))
        self._report(event)

    def _report(self, event: Connected) -> None:
        """Tell every unfinished branch, and roll back what a restarted coordinator has forgotten."""
        m = self._m
        for branch in list(m.branches.values()):
            if branch.state in UNPREPARED and branch.coordinator == event.coordinator and branch.epoch < event.epoch:
                TABLE[branch.state][Kind.LOST](m, branch, None)
            report = records.report(branch)
            if report is not None:
                m.ready.effects.append(Send(event.stream, "reports", report))
            if branch.state is State.ENLISTING:
                interactive.enlist(m, branch)
            elif branch.state is State.PREPARED or (branch.state in UNPREPARED and branch.calls is not None):
                branch.attempts = 0
                m.ask_later(branch)
        m.ready.effects.append(ReportsComplete(event.stream))

    def _disconnected(self, event: Disconnected) -> None:
        if event.stream == self._m.stream:
            self._m.stream = 0

    # ---- messages

    def _prepare_received(self, event: PrepareReceived) -> None:
        if event.stream == self._m.stream:
            message = event.message
            self._take(message.transaction_id, _PREPARE, event, message.order)

    def _from_coordinator(self, event: FromCoordinator) -> None:
        if event.stream != self._m.stream:
            return  # a superseded stream (rule 5)
        message = event.message
        hear = self._messages.get(type(message))
        if hear is None:
            raise LocalProtocolError(f"{type(message).__name__} is no message of a coordinator")
        hear(message)

    def _decision(self, message: participant_pb2.Decision) -> None:
        kind = _DECISIONS.get(message.kind)
        if kind is None:
            raise RemoteProtocolError(f"Decision of the unknown kind {message.kind}")
        self._take(message.transaction_id, kind, message, message.order)

    def _enlisted(self, message: participant_pb2.Enlisted) -> None:
        self._take(message.transaction_id, Kind.ENLISTED, message)

    def _settle(self, message: participant_pb2.RollbackIfUnseen) -> None:
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
        if asked[0] > m.epochs[m.coordinator]:
            raise RemoteProtocolError(f"a watermark of epoch {asked[0]}, which is not there yet")
        m.watermark_asked = max(m.watermark_asked, asked)
        self._move_watermark()

    def _move_watermark(self) -> None:
        """A watermark takes effect when it is durable: else a crash could make EXPIRED look like never seen."""
        m = self._m
        if m.watermark_in_flight is None and m.finished and m.finished[0][:2] < m.watermark_asked:
            m.watermark_in_flight = m.watermark_asked
            record = recovery.forgotten_below(m.watermark_asked)
            m.ready.appends.append(Append(record, force=False, event=Durable("", "watermark")))

    # ---- what the engine and the resource give back

    def _durable(self, event: Durable) -> None:
        m = self._m
        if event.transaction_id:
            self._take(event.transaction_id, _STEPS[event.step], event)
        elif event.step == "watermark" and m.watermark_in_flight is not None:
            m.watermark, m.watermark_in_flight = m.watermark_in_flight, None
            m.forget_finished()
            self._move_watermark()
        else:
            raise LocalProtocolError(f"nobody waits for {event.step!r}")

    def _answered(self, event: Any) -> None:
        self._take(event.transaction_id, _ANSWERS[type(event)], event)

    # ---- the service

    def _call(self, event: Call) -> None:
        m = self._m
        if event.ticket in m.call_tickets or event.ticket in m.local:
            raise LocalProtocolError(f"the ticket {event.ticket!r} was used before")
        self._take(event.transaction_id, Kind.CALL, event)

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

    def _check_started(self) -> None:
        """Everything unprepared is undone: serve, once the incarnation is durable."""
        m = self._m
        if not m.incarnation_asked or m.recovering:
            return
        m.started = True
        effect = Started(m.incarnation)
        if m.config.keeps_identity:
            record = recovery.incarnation_started(m.config.participant, m.incarnation)
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
                interactive.refuse_line(m, branch, cause)
