"""Handlers: decisions, RollbackIfUnseen, forced endings, and what is asked while in doubt."""

from __future__ import annotations

from typing import Any

from participant_sdk.core import records
from participant_sdk.core.blocking import blocks
from participant_sdk.core.branches import UNPREPARED, Branch, Forced, Kind, State
from participant_sdk.core.line import refuse_line
from participant_sdk.core.machine import Machine
from participant_sdk.core.work import CommitBranch, CommitFailed, Release, Undo, UndoFailed
from troth.errors import Reason
from troth.v1 import common_pb2, participant_pb2

DONE = participant_pb2.ACKNOWLEDGEMENT_KIND_DONE
HAZARD = participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD
EXPIRED = participant_pb2.ACKNOWLEDGEMENT_KIND_EXPIRED
FORCED_COMMIT = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT
FORCED_ABORT = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT

BY_HAND_CHARACTERS_MAX = 1_000
"""What is kept of who has committed a branch, and why, when that is forgotten: as much as a coordinator keeps of it."""

_COMMITTING, _COMMITTED = State.COMMITTING, State.COMMITTED


def ignore(m: Machine, b: Branch, e: Any) -> None:
    """Nothing."""


# ---- waiting for what runs


def defer_commit(m: Machine, b: Branch, e: Any) -> None:
    """Take it when what runs has ended; a repeat of the decision that is being carried out needs nothing."""
    if b.state is not State.COMMITTING or b.forced is not None:
        m.defer(b, Kind.COMMIT, e)


def defer_abort(m: Machine, b: Branch, e: Any) -> None:
    """Take it when what runs has ended."""
    m.defer(b, Kind.ABORT, e)


def defer_settle(m: Machine, b: Branch, e: Any) -> None:
    """A running operation is awaited (rule 7)."""
    m.defer(b, Kind.SETTLE, e)


def defer_lost(m: Machine, b: Branch, e: Any) -> None:
    """Take it when what runs has ended."""
    m.defer(b, Kind.LOST, e)


def defer_force_commit(m: Machine, b: Branch, e: Any) -> None:
    """Take it when what runs has ended."""
    m.defer(b, Kind.FORCE_COMMIT, e)


def defer_force_abort(m: Machine, b: Branch, e: Any) -> None:
    """Take it when what runs has ended."""
    m.defer(b, Kind.FORCE_ABORT, e)


def defer_force_forget(m: Machine, b: Branch, e: Any) -> None:
    """Take it when what runs has ended."""
    m.defer(b, Kind.FORCE_FORGET, e)


# ---- commit


def commit(m: Machine, b: Branch, e: Any) -> None:
    """Carry out the decision; it is acknowledged when it is durable here."""
    b.patient = not e.urgent
    begin_commit(m, b)


def begin_commit(m: Machine, b: Branch) -> None:
    """From PREPARED, or from PARKED by an operator's order."""
    b.state = _COMMITTING
    if m.external and b.begun:
        m.locks.finishing(b.transaction_id)
        m.invoke(CommitBranch(b.transaction_id, _works(b)))
    else:
        _append_committed(m, b)


def _append_committed(m: Machine, b: Branch) -> None:
    release = Release(b.transaction_id) if m.atomic else None
    m.append(records.finished(b, common_pb2.OUTCOME_COMMITTED), b, "committed", apply=release, patient=b.patient)
    if not m.external:
        # The resource works in the order of the log: whoever gets the locks now comes behind, and finds it committed.
        m.release_locks(b)


def resource_committed(m: Machine, b: Branch, e: Any) -> None:
    """The resource has committed: make the outcome durable."""
    _append_committed(m, b)


def commit_failed(m: Machine, b: Branch, e: CommitFailed) -> None:
    """The resource can never commit it: park it."""
    _park(m, b, common_pb2.OUTCOME_COMMITTED, e.why)


def committed_durable(m: Machine, b: Branch, e: Any) -> None:
    """COMMIT is durable here: acknowledge."""
    b.durable = True
    if b.forced is not None:
        _become_forced(m, b, State.FORCED_COMMIT, FORCED_COMMIT)
        return
    m.finish(b, _COMMITTED)
    if b.one_phase:
        say_one_phase(m, b)
    else:
        b.results = b""  # the coordinator has them since the vote
        m.acknowledge(b, DONE, patient=b.patient)


def say_one_phase(m: Machine, b: Branch) -> None:
    """Tell the outcome of a one-phase commit; to another session than the one that asked, as a report first."""
    if b.stream != m.stream_of(b) and (report := records.report(b)) is not None:
        m.send(b, "reports", report)
    m.vote(b, participant_pb2.VOTE_KIND_COMMITTED)


def acknowledge_again(m: Machine, b: Branch, e: Any) -> None:
    """Acknowledge: it is as asked for."""
    m.acknowledge(b, DONE)


def commit_unseen(m: Machine, b: Branch, e: Any) -> None:
    """COMMIT for a branch never seen is HAZARD, never an acknowledgement (rule 5)."""
    m.acknowledge(b, HAZARD, "COMMIT for a branch that was never seen")


def commit_rolled_back(m: Machine, b: Branch, e: Any) -> None:
    """COMMIT for a branch that was rolled back: HAZARD."""
    m.acknowledge(b, HAZARD, "COMMIT for a branch that was rolled back")


def commit_expired(m: Machine, b: Branch, e: Any) -> None:
    """Say that it was finished and forgotten."""
    m.acknowledge(b, EXPIRED)


# ---- abort


def roll_back(m: Machine, b: Branch, cause: common_pb2.Cause, *, force: bool = False) -> None:
    """Undo what there is; `force` when somebody must be able to rely on it."""
    if b.state in UNPREPARED and b.transaction_id not in m.recovering:
        b.proves_abort = True  # it has not voted, and will vote NO
    b.cause = b.cause or cause
    refuse_line(m, b, cause)
    m.leave_line(b)
    m.locks.finishing(b.transaction_id)
    b.prepare = None
    b.durable = force
    b.one_phase = False
    if m.atomic and b.logged:
        b.state = State.ABORTING
        m.append(records.finished(b, common_pb2.OUTCOME_ABORTED), b, force=force, apply=Undo(b.transaction_id, _works(b)))
    elif b.begun:
        b.state = State.ABORTING
        m.invoke(Undo(b.transaction_id, _works(b)))
    else:
        _write_aborted(m, b)


def _write_aborted(m: Machine, b: Branch) -> None:
    """Make it durable where somebody relies on it, or where the log says otherwise; else presume abort."""
    if b.durable or b.logged:
        b.state = State.ABORTING
        m.append(records.finished(b, common_pb2.OUTCOME_ABORTED), b, "aborted", force=b.durable)
    else:
        _aborted(m, b)


def _aborted(m: Machine, b: Branch) -> None:
    if b.durable:
        m.keep(b)
    b.results = b""
    if b.forced is not None:
        _become_forced(m, b, State.FORCED_ABORT, FORCED_ABORT)
    else:
        m.finish(b, State.ABORTED)


def abort(m: Machine, b: Branch, e: participant_pb2.Decision) -> None:
    """Roll back. An acknowledgement, if asked for, waits until that is durable."""
    b.proves_abort = True
    if e.acknowledge:
        m.defer(b, Kind.ABORT, e)
    roll_back(m, b, m.cause(Reason.ROLLED_BACK, "the coordinator decided ABORT"), force=e.acknowledge)


def abort_unseen(m: Machine, b: Branch, e: participant_pb2.Decision) -> None:
    """Succeeds, and is remembered (rule 5)."""
    m.adopt(b)
    abort(m, b, e)


def abort_again(m: Machine, b: Branch, e: participant_pb2.Decision) -> None:
    """Acknowledge if asked, once it is durable."""
    if e.acknowledge:
        if b.durable:
            m.acknowledge(b, DONE)
        else:
            _make_durable(m, b, Kind.ABORT, e)


def abort_read_only(m: Machine, b: Branch, e: participant_pb2.Decision) -> None:
    """Nothing was changed: acknowledge if asked."""
    if e.acknowledge:
        m.acknowledge(b, DONE)


def abort_committed(m: Machine, b: Branch, e: participant_pb2.Decision) -> None:
    """The branch is committed: nothing changes; say HAZARD if asked, or that people committed it."""
    if e.acknowledge and b.by_hand:
        m.acknowledge(b, FORCED_COMMIT, b.by_hand)
    elif e.acknowledge:
        m.acknowledge(b, HAZARD, "ABORT for a branch that is committed")


def abort_expired(m: Machine, b: Branch, e: participant_pb2.Decision) -> None:
    """Say that it was finished and forgotten, if asked."""
    if e.acknowledge:
        m.acknowledge(b, EXPIRED)


def lost(m: Machine, b: Branch, e: Any) -> None:
    """The coordinator restarted and has aborted what was undecided (DESIGN section 5): roll back."""
    roll_back(m, b, m.cause(Reason.COORDINATOR_RESTARTED, "the coordinator restarted before the branch was prepared"))


def undone(m: Machine, b: Branch, e: Any) -> None:
    """It is rolled back."""
    b.works, b.begun = (), False
    if m.atomic:
        _aborted(m, b)
    else:
        _write_aborted(m, b)


def undo_failed(m: Machine, b: Branch, e: UndoFailed) -> None:
    """An inverse does not apply: park it; everything else goes on."""
    _park(m, b, common_pb2.OUTCOME_ABORTED, e.why)


def aborted_durable(m: Machine, b: Branch, e: Any) -> None:
    """The rollback is written."""
    b.works, b.begun = (), False
    _aborted(m, b)


def _make_durable(m: Machine, b: Branch, kind: Kind, e: Any) -> None:
    """Make a tombstone durable, and take the event again then."""
    m.defer(b, kind, e)
    m.append(records.finished(b, common_pb2.OUTCOME_ABORTED), b, "aborted")


def tombstone_durable(m: Machine, b: Branch, e: Any) -> None:
    """What was refused in memory only is now refused durably."""
    b.durable = True
    m.keep(b)
    m.idle(b)


# ---- RollbackIfUnseen (rule 7)


def settle_unseen(m: Machine, b: Branch, e: participant_pb2.RollbackIfUnseen) -> None:
    """Remember that it is rolled back, durably; then say so. Whoever was asked to vote, has forgotten nothing, and knows nothing of
    it has not voted."""
    b.proves_abort = m.remembers_votes and e.incarnation == m.incarnation
    m.adopt(b)
    settle_unprepared(m, b, e)


def settle_unprepared(m: Machine, b: Branch, e: participant_pb2.RollbackIfUnseen) -> None:
    """Roll back, durably; then say so."""
    m.defer(b, Kind.SETTLE, e)
    roll_back(m, b, m.cause(Reason.ROLLED_BACK, "the coordinator no longer knew the transaction"), force=True)


def settle_prepared(m: Machine, b: Branch, e: Any) -> None:
    """Say that it is in doubt."""
    m.settle(b, participant_pb2.SETTLEMENT_KIND_PREPARED)


def settle_committed(m: Machine, b: Branch, e: Any) -> None:
    """Say that it is committed, with results as far as they are kept; or that people committed it."""
    if b.by_hand:
        m.acknowledge(b, FORCED_COMMIT, b.by_hand)
    else:
        m.settle(b, participant_pb2.SETTLEMENT_KIND_COMMITTED)


def settle_aborted(m: Machine, b: Branch, e: Any) -> None:
    """Say that it is rolled back, once that is durable."""
    if b.durable:
        m.settle(b, participant_pb2.SETTLEMENT_KIND_ROLLED_BACK)
    else:
        _make_durable(m, b, Kind.SETTLE, e)


def settle_read_only(m: Machine, b: Branch, e: Any) -> None:
    """A one-phase read is over and done. Another is turned into a rollback: whether the rest commits is not known here."""
    if b.one_phase:
        m.settle(b, participant_pb2.SETTLEMENT_KIND_COMMITTED)
    else:
        b.state = State.ABORTED
        b.results = b""
        _make_durable(m, b, Kind.SETTLE, e)


def settle_parked(m: Machine, b: Branch, e: Any) -> None:
    """Say that an operator is needed."""
    m.acknowledge(b, HAZARD, b.detail)


def settle_expired(m: Machine, b: Branch, e: Any) -> None:
    """Say that it was finished and forgotten."""
    m.settle(b, participant_pb2.SETTLEMENT_KIND_EXPIRED)


# ---- operators (rule 18)


def force_commit(m: Machine, b: Branch, e: participant_pb2.Force) -> None:
    """Commit by order; recorded with who and why."""
    _take_order(m, b, e)
    begin_commit(m, b)


def _take_order(m: Machine, b: Branch, e: participant_pb2.Force) -> None:
    """Who wants it, when and why. What was tried before, by hand or not, and could not be carried out, is over."""
    b.forced, b.detail, b.by_hand = Forced(e.who, e.why, m.now.wall_ms), "", ""


def force_abort(m: Machine, b: Branch, e: participant_pb2.Force) -> None:
    """Roll back by order; recorded with who and why."""
    _take_order(m, b, e)
    roll_back(m, b, m.cause(Reason.OPERATOR_ABORT, f"{e.who}: {e.why}"), force=True)


def force_abort_unprepared(m: Machine, b: Branch, e: participant_pb2.Force) -> None:
    """It was not in doubt: an ordinary rollback, durable before it is acknowledged."""
    m.defer(b, Kind.FORCE_ABORT, e)
    roll_back(m, b, m.cause(Reason.OPERATOR_ABORT, f"{e.who}: {e.why}"), force=True)


def force_abort_unseen(m: Machine, b: Branch, e: participant_pb2.Force) -> None:
    """Succeeds, and is remembered."""
    m.adopt(b)
    force_abort_unprepared(m, b, e)


def force_finished(m: Machine, b: Branch, e: Any) -> None:
    """It is finished as decided: nothing is forced. Or people have committed it: say who, when and why."""
    if b.by_hand:
        m.acknowledge(b, FORCED_COMMIT, b.by_hand)
    else:
        m.acknowledge(b, DONE, f"was {b.state.name} as decided; nothing was forced")


def force_unseen(m: Machine, b: Branch, e: Any) -> None:
    """There is nothing to commit."""
    m.acknowledge(b, HAZARD, "the branch was never seen")


def forced_commit_stands(m: Machine, b: Branch, e: Any) -> None:
    """Say who had committed it, when and why."""
    m.acknowledge(b, FORCED_COMMIT, str(b.forced))


def forced_abort_stands(m: Machine, b: Branch, e: Any) -> None:
    """Say who had rolled it back, when and why."""
    m.acknowledge(b, FORCED_ABORT, str(b.forced))


def close_committed(m: Machine, b: Branch, e: Any) -> None:
    """The decision agrees with the operator: an ordinary commit from here. Or the operator forgets: then it stays one that people
    made, which is kept for nobody any more. Acknowledged when durable."""
    if b.forced is not None:
        b.by_hand = _by_hand(b) if isinstance(e, participant_pb2.Force) else ""
    b.forced, b.by_hand = None, b.by_hand[:BY_HAND_CHARACTERS_MAX]
    b.state = State.COMMITTING
    _append_committed(m, b)


def close_aborted(m: Machine, b: Branch, e: participant_pb2.Force | participant_pb2.Decision) -> None:
    """The decision agrees with the operator, or the operator forgets: an ordinary rollback from here."""
    b.forced = None
    b.durable = True
    if isinstance(e, participant_pb2.Force):
        m.defer(b, Kind.FORCE_FORGET, e)
    elif e.acknowledge:
        m.defer(b, Kind.ABORT, e)
    b.state = State.ABORTING
    release = Release(b.transaction_id) if m.atomic else None
    m.append(records.finished(b, common_pb2.OUTCOME_ABORTED), b, "aborted", apply=release)


def _by_hand(b: Branch) -> str:
    """What is remembered of an operator's commit. Of one phase nothing: that is its own decision, and concerns nobody else."""
    return str(b.forced) if b.forced is not None and not b.one_phase else ""


def close_parked(m: Machine, b: Branch, e: participant_pb2.Force) -> None:
    """The operator has dealt with it: locks go, and it counts as finished the way it was decided."""
    if b.decided == common_pb2.OUTCOME_COMMITTED:
        b.begun = False
        close_committed(m, b, e)
    else:
        close_aborted(m, b, e)


def parked(m: Machine, b: Branch, e: Any) -> None:
    """Say that an operator is needed."""
    m.acknowledge(b, HAZARD, b.detail)


def _park(m: Machine, b: Branch, decided: common_pb2.Outcome.ValueType, why: str) -> None:
    """Keep it with its locks for an operator; nothing that failed deletes itself."""
    b.state = State.PARKED
    m.locks.stuck(b.transaction_id)
    b.by_hand = _by_hand(b) and f"{why}; {b.forced}" if decided == common_pb2.OUTCOME_COMMITTED else ""
    b.decided, b.detail, b.forced = decided, b.by_hand or why, None
    m.recovering.discard(b.transaction_id)
    m.append(records.parked(b), b, "parked")


def parked_durable(m: Machine, b: Branch, e: Any) -> None:
    """HAZARD is durable: say so."""
    m.keep(b)
    m.acknowledge(b, HAZARD, b.detail)
    m.idle(b)


def _become_forced(m: Machine, b: Branch, state: State, kind: participant_pb2.AcknowledgementKind.ValueType) -> None:
    b.state = state
    b.works = ()
    m.keep(b)
    m.let_go(b)
    m.acknowledge(b, kind, str(b.forced))
    m.idle(b)


def _works(b: Branch) -> tuple[Any, ...]:
    return tuple(work for _, work in b.works)


# ---- asking (rule 8)


def enlisted_prepared(m: Machine, b: Branch, e: participant_pb2.Enlisted) -> None:
    """Its order is known now. Or what it had announced before it was prepared is refused: nobody will ever commit it."""
    m.learn_order(b, e.order)
    if e.HasField("refusal"):
        b.proves_abort = True
        roll_back(m, b, e.refusal)


def ask_prepared(m: Machine, b: Branch, e: Any) -> None:
    """Ask for the decision, for ever: who voted YES never decides alone. From now on nobody begins to wait for its locks; but the
    first question of a branch that was prepared early only announces it."""
    if b.order or b.attempts:
        m.locks.stuck(b.transaction_id)
    inquire(m, b, participant_pb2.BRANCH_STATE_PREPARED)


def inquire(m: Machine, b: Branch, state: participant_pb2.BranchState.ValueType) -> None:
    """Ask what became of the transaction, ever later."""
    inquiry = participant_pb2.Inquiry(transaction_id=b.transaction_id, order=b.order, state=state)
    if b.state is State.PREPARED:
        inquiry.blocks.CopyFrom(blocks(m.locks, b.transaction_id))
    m.send(b, "inquiries", inquiry)
    b.attempts += 1
    m.ask_later(b)
