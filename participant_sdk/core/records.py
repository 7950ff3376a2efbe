"""From branches to records and reports, and back."""

from __future__ import annotations

from collections.abc import Sequence

from participant_sdk.core.branches import Branch, State
from participant_sdk.core.work import Keys
from troth.v1 import common_pb2, participant_pb2, record_pb2

# ---- records


def active(branch: Branch, call_id: str, work: record_pb2.BranchWork | None = None) -> record_pb2.ParticipantRecord:
    """BranchActive; an atomic resource fills in the work."""
    return record_pb2.ParticipantRecord(
        branch_active=record_pb2.BranchActive(transaction_id=branch.transaction_id, order=branch.order, call_id=call_id, work=work)
    )


def prepared(branch: Branch, work: record_pb2.BranchWork | None = None) -> record_pb2.ParticipantRecord:
    """BranchPrepared; an atomic resource fills in the work."""
    record = record_pb2.ParticipantRecord()
    body = record.branch_prepared
    body.transaction_id = branch.transaction_id
    body.order = branch.order
    body.incarnation = branch.incarnation
    body.peers = branch.peers
    body.first_attempt_ms = branch.first_attempt_ms
    if branch.one_phase:
        body.one_phase = True
    if branch.early:
        body.early, body.operation_count = True, branch.operation_count
    if work is not None:
        body.work.CopyFrom(work)
    return record


def finished(branch: Branch, outcome: common_pb2.Outcome.ValueType) -> record_pb2.ParticipantRecord:
    """BranchFinished, forced or not."""
    record = record_pb2.ParticipantRecord()
    body = record.branch_finished
    body.transaction_id = branch.transaction_id
    body.order = branch.order
    body.outcome = outcome
    if branch.one_phase:
        body.one_phase = True
        if branch.results:
            body.results.ParseFromString(branch.results)
    if branch.proves_abort:
        body.proves_abort = True
    if branch.forced is not None:
        body.forced = True
        body.who, body.why, body.forced_at_ms = branch.forced
    elif branch.by_hand and outcome == common_pb2.OUTCOME_COMMITTED:
        body.by_hand, body.why = True, branch.by_hand
    if branch.resource_branch:
        body.resource_branch = branch.resource_branch
    return record


def parked(branch: Branch) -> record_pb2.ParticipantRecord:
    """BranchParked."""
    return record_pb2.ParticipantRecord(
        branch_parked=record_pb2.BranchParked(
            transaction_id=branch.transaction_id, why=branch.detail, order=branch.order, decided=branch.decided,
            by_hand=bool(branch.by_hand),
        )
    )


def live(branch: Branch) -> Sequence[record_pb2.ParticipantRecord]:
    """All that the log must still say about a branch: replayed after whatever else is there, it gives the same branch."""
    if not branch.logged:
        return ()
    if branch.state in (State.COMMITTED, State.FORCED_COMMIT):
        return (finished(branch, common_pb2.OUTCOME_COMMITTED),)
    if branch.state in (State.ABORTED, State.FORCED_ABORT):
        return (finished(branch, common_pb2.OUTCOME_ABORTED),)
    if not branch.works and branch.state is State.COMMITTING:
        return (finished(branch, common_pb2.OUTCOME_COMMITTED),)
    if not branch.works and branch.state is State.ABORTING:
        return (finished(branch, common_pb2.OUTCOME_ABORTED),)
    records = [prepared(branch, work) if call_id == "" else active(branch, call_id, work) for call_id, work in branch.works]
    if branch.state is State.PARKED:
        records.append(parked(branch))
    return records


def merged(branch: Branch, keys: Keys) -> record_pb2.BranchWork:
    """The work of all calls in one, for a log that holds no BranchActive records; `keys` are those of the branch."""
    whole = record_pb2.BranchWork()
    keys.into(whole)
    for _, work in branch.works:
        whole.undo.extend(work.undo)
        whole.rows.extend(work.rows)
        whole.operations.extend(work.operations)
        whole.resource_branch = work.resource_branch or whole.resource_branch
    return whole


# ---- reports

_ACTIVE = participant_pb2.BRANCH_STATE_ACTIVE
_PREPARED = participant_pb2.BRANCH_STATE_PREPARED
_REPORTED = {
    State.ENLISTING: _ACTIVE,
    State.WAITING: _ACTIVE,
    State.EXECUTING: _ACTIVE,
    State.ACTIVE: _ACTIVE,
    State.PREPARING: _ACTIVE,
    State.ONE_PHASE: _ACTIVE,
    State.PREPARED: _PREPARED,
    # The decision is known, but it is not durable: if this process died now, it would be in doubt again.
    State.COMMITTING: _PREPARED,
    State.COMMITTED: participant_pb2.BRANCH_STATE_COMMITTED,
    State.FORCED_COMMIT: participant_pb2.BRANCH_STATE_FORCED_COMMIT,
    State.FORCED_ABORT: participant_pb2.BRANCH_STATE_FORCED_ABORT,
    State.PARKED: participant_pb2.BRANCH_STATE_HAZARD,
}


_EARLY = frozenset({
    _PREPARED, participant_pb2.BRANCH_STATE_FORCED_COMMIT, participant_pb2.BRANCH_STATE_FORCED_ABORT,
})  # fmt: skip
"""What is in doubt, or people have ended it while it was."""


def report(branch: Branch) -> participant_pb2.BranchReport | None:
    """What Hello says about a branch; `None` when nobody waits for that.

    A one-phase commit that still runs is ACTIVE: the coordinator asks about it (RollbackIfUnseen awaits what runs), and lets no
    watermark pass it until then. Of finished branches only one-phase commits are reported, which nobody else may know of.
    """
    state = _REPORTED.get(branch.state)
    if state is None:
        return None
    if branch.one_phase and branch.state is State.COMMITTING:
        state = _ACTIVE
    if branch.state is State.COMMITTED and not branch.one_phase:
        return None
    return participant_pb2.BranchReport(
        transaction_id=branch.transaction_id,
        order=branch.order,
        state=state,
        results=branch.results,
        detail=branch.detail or str(branch.forced or ""),
        peers=branch.peers if state == _PREPARED else b"",
        early=branch.early and state in _EARLY,
    )
