"""Recovery: from the records of the log to the state, and back to the records that must stay.

Replay takes repeats and any prefix: each record says what is true from there on, whatever was said before (the cleaner writes
live records again at the end of the log, oldest first). Nothing is answered before what was unprepared is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from participant_sdk.core.branches import FINISHED, Branch, Forced, State
from participant_sdk.core.finishing import begin_commit, force_abort, force_commit, roll_back
from participant_sdk.core.locks import OLDEST, Rank
from participant_sdk.core.machine import NAMELESS, Machine, Watermark, sequence_of
from participant_sdk.core.work import Keys
from troth.errors import LogDamaged, Reason, RemoteProtocolError
from troth.ids import ID_BYTES_MAX, NUMBER_DIGITS_MAX
from troth.newer import kind_of
from troth.v1 import common_pb2, participant_pb2, record_pb2


def new_branch(transaction_id: str) -> Branch:
    """A branch of which nothing is known. Raises `RemoteProtocolError` for what is no transaction id."""
    parts = transaction_id.split(".")
    well_formed = len(parts) == 5 and parts[1].isascii() and parts[1].isdigit() and len(parts[1]) <= NUMBER_DIGITS_MAX
    if not well_formed or len(transaction_id) > ID_BYTES_MAX:
        raise RemoteProtocolError(f"{transaction_id[:120]!r} is not a transaction id")
    return Branch(transaction_id, parts[0], int(parts[1]))


# ---- records that belong to no branch


def incarnation_started(m: Machine) -> record_pb2.ParticipantRecord:
    """IncarnationStarted, the newest."""
    assert m.started_record is not None
    return record_pb2.ParticipantRecord(incarnation_started=m.started_record)


def begin_incarnation(m: Machine) -> record_pb2.ParticipantRecord:
    """IncarnationStarted, of this process."""
    m.started_record = m.starts.begin(m.config.participant, m.incarnation, m.nonce, m.opened_at)
    return incarnation_started(m)


def forgotten_below(coordinator: str, watermark: tuple[int, int]) -> record_pb2.ParticipantRecord:
    """ForgottenBelow."""
    epoch, below = watermark
    record = record_pb2.ForgottenBelow(epoch=epoch, below=below, coordinator=coordinator)
    return record_pb2.ParticipantRecord(forgotten_below=record)


def identity_records(m: Machine) -> Sequence[record_pb2.ParticipantRecord]:
    """What the log must still hold that belongs to no branch."""
    found = [forgotten_below(name, one.durable) for name, one in m.watermarks.items() if one.durable > (0, 0)]
    if m.config.keeps_identity:
        found += [incarnation_started(m)] if m.started_record is not None else []
    # Where another log keeps the identity, this one says how far they were heard.
    kept = [seen for seen in m.coordinators.records() if m.config.keeps_identity or seen.position]
    found += [record_pb2.ParticipantRecord(epoch_seen=seen) for seen in kept]
    return found


# ---- replay


def recover(m: Machine, bodies: Sequence[bytes]) -> Sequence[str]:
    """Replay the records, then put the branches to work. Returns the owner of each record."""
    owners = [_replay(m, body, number) for number, body in enumerate(bodies, 1)]
    for watermark in m.watermarks.values():
        m.forget_finished(watermark)
    for branch in list(m.branches.values()):
        _resume(m, branch)
    for order in m.orders.values():
        _obey(m, order)
    m.orders.clear()
    return owners


def _replay(m: Machine, body: bytes, number: int) -> str:
    record = record_pb2.ParticipantRecord()
    try:
        record.ParseFromString(body)
    except DecodeError as error:
        raise LogDamaged(Reason.LOG_DAMAGED, f"record {number} of {m.config.participant}'s log is no record") from error
    kind = kind_of(record, f"record {number} of {m.config.participant}'s log")
    owner = _REPLAY[kind](m, getattr(record, kind))
    if record.heard:
        m.coordinators.hear(owner.partition(".")[0], record.heard)
    return owner


def _replay_incarnation(m: Machine, record: record_pb2.IncarnationStarted) -> str:
    m.incarnation = max(m.incarnation, record.incarnation)
    m.started_record = record
    m.starts.replay(record)
    return ""


def _replay_epoch(m: Machine, record: record_pb2.EpochSeen) -> str:
    m.coordinators.replay(record)
    return ""


def _replay_watermark(m: Machine, record: record_pb2.ForgottenBelow) -> str:
    names = [record.coordinator]
    if record.coordinator:
        m.watermarks.pop(NAMELESS, None)  # whose that was is settled
    else:  # it holds for every coordinator that is known by now, and for the first one that comes
        names += [name for name in m.watermarks if name]
    for name in names:
        watermark = m.watermarks.setdefault(name, Watermark())
        watermark.durable = watermark.asked = max(watermark.durable, (record.epoch, record.below))
        m.forget_finished(watermark)
    return ""


def _replay_schema(m: Machine, record: record_pb2.SchemaChanged) -> str:
    return ""


def _known(m: Machine, transaction_id: str, order: int) -> Branch:
    branch = m.branches.get(transaction_id)
    if branch is None:
        branch = new_branch(transaction_id)
        m.adopt(branch)
        m.keep(branch)
    if branch.state in FINISHED and not branch.order:
        m.learn_order(branch, order)  # the watermark finds it by that
    else:
        branch.order = order or branch.order
    return branch


def _replay_active(m: Machine, record: record_pb2.BranchActive) -> str:
    branch = _known(m, record.transaction_id, record.order)
    branch.state = State.ACTIVE
    branch.works = (*(item for item in branch.works if item[0] != record.call_id), (record.call_id, record.work))
    return branch.transaction_id


def _replay_prepared(m: Machine, record: record_pb2.BranchPrepared) -> str:
    branch = _known(m, record.transaction_id, record.order)
    branch.state = State.PREPARED
    branch.works = (*(item for item in branch.works if item[0]), ("", record.work))
    branch.incarnation, branch.peers = record.incarnation, record.peers
    branch.first_attempt_ms = record.first_attempt_ms
    branch.one_phase = record.one_phase
    branch.early, branch.operation_count = record.early, record.operation_count
    branch.results = record.work.results.SerializeToString()
    branch.resource_branch = record.work.resource_branch
    return branch.transaction_id


def _replay_finished(m: Machine, record: record_pb2.BranchFinished) -> str:
    branch = _known(m, record.transaction_id, record.order)
    committed = record.outcome == common_pb2.OUTCOME_COMMITTED
    branch.durable = True
    branch.one_phase = record.one_phase
    branch.results = record.results.SerializeToString() if record.one_phase else b""
    branch.forced = Forced(record.who, record.why, record.forced_at_ms) if record.forced else None
    branch.by_hand = _by_hand(record)
    branch.resource_branch = record.resource_branch or branch.resource_branch
    branch.detail = ""
    branch.proves_abort = record.proves_abort
    branch.works = ()
    if record.forced:
        branch.state = State.FORCED_COMMIT if committed else State.FORCED_ABORT
    elif branch.state not in FINISHED:
        m.finish(branch, State.COMMITTED if committed else State.ABORTED)
    return branch.transaction_id


def _by_hand(record: record_pb2.BranchFinished | record_pb2.BranchParked) -> str:
    return (record.why or "ended by hand") if record.by_hand else ""


def _replay_parked(m: Machine, record: record_pb2.BranchParked) -> str:
    branch = _known(m, record.transaction_id, record.order)
    branch.state = State.PARKED
    branch.detail, branch.decided = record.why, record.decided
    branch.by_hand = _by_hand(record)
    return branch.transaction_id


def _replay_order(m: Machine, record: record_pb2.ForceOrdered) -> str:
    m.orders[record.transaction_id] = record
    return record.transaction_id


_REPLAY: dict[str, Callable[[Machine, Any], str]] = {
    "incarnation_started": _replay_incarnation,
    "epoch_seen": _replay_epoch,
    "forgotten_below": _replay_watermark,
    "schema_changed": _replay_schema,
    "force_ordered": _replay_order,
    "branch_active": _replay_active,
    "branch_prepared": _replay_prepared,
    "branch_finished": _replay_finished,
    "branch_parked": _replay_parked,
}


def _resume(m: Machine, branch: Branch) -> None:
    """Take the locks again; undo what was not prepared, newest first; go on with a commit that is its own decision."""
    if branch.state in FINISHED or not branch.works:
        return
    exclusive = tuple(key for _, work in branch.works for key in work.keys)
    shared = tuple(key for _, work in branch.works for key in work.shared_keys)
    # Whom it may have to wait for elsewhere is not in the log: it answers for everybody.
    rank = Rank((branch.first_attempt_ms, branch.transaction_id), OLDEST, sequence_of(branch.transaction_id))
    m.locks.take(branch.transaction_id, rank, Keys(exclusive, shared))
    branch.begun = bool(branch.resource_branch) if m.external else not m.atomic
    if branch.state is State.ACTIVE:
        m.recovering.add(branch.transaction_id)
        roll_back(m, branch, m.cause(Reason.PARTICIPANT_RESTARTED, "its unprepared work is undone"))
    elif branch.state is State.PREPARED and branch.one_phase:
        # The resource may have committed already: nobody may roll it back any more.
        begin_commit(m, branch)


def _obey(m: Machine, order: record_pb2.ForceOrdered) -> None:
    """End a branch that is still in doubt, or parked, by an order that was written while the process did not run (rule 18)."""
    branch = m.branches.get(order.transaction_id)
    if branch is None or branch.state not in (State.PREPARED, State.PARKED):
        return  # carried out before, or overtaken by the decision
    force = participant_pb2.Force(transaction_id=order.transaction_id, who=order.who, why=order.why)
    if order.outcome == common_pb2.OUTCOME_COMMITTED:
        force_commit(m, branch, force)
    else:
        force_abort(m, branch, force)
