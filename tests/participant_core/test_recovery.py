"""Recovery and what the log must hold; what a shell may look at."""

from __future__ import annotations

import pytest

from participant_sdk.core.branches import State
from participant_sdk.core.events import Start
from participant_sdk.core.work import LocalDone, ResourceKind
from tests.participant_core.driver import Machinery, ParticipantDriver
from tests.participant_core.test_table import T1, reach
from tests.transcripts import Command
from troth.errors import LocalProtocolError, LogDamaged, LogForeign
from troth.ready import Opened
from troth.v1 import common_pb2, record_pb2


def test_record_that_is_none_stops_the_process() -> None:
    machine = Machinery()
    machine.durable = [b"\xff\xff\xff"]
    with pytest.raises(LogDamaged):
        machine.boot()


def test_record_of_a_newer_format_stops_the_process() -> None:
    machine = Machinery()
    machine.durable = [record_pb2.ParticipantRecord().SerializeToString()]
    with pytest.raises(LogForeign):
        machine.boot()


def test_what_was_undone_before_its_order_was_known_is_forgotten_with_the_others() -> None:
    """Its end is recorded twice: when it was undone, and with the order that it learnt then."""
    machine = Machinery()
    ends = [record_pb2.BranchFinished(transaction_id=T1, order=order, outcome=common_pb2.OUTCOME_ABORTED) for order in (0, 3)]
    forgotten = record_pb2.ForgottenBelow(coordinator="c1", epoch=int(T1.split(".")[1]), below=5)
    records = [record_pb2.ParticipantRecord(branch_finished=end) for end in ends]
    records.append(record_pb2.ParticipantRecord(forgotten_below=forgotten))
    machine.durable = [one.SerializeToString() for one in records]
    machine.boot()
    assert not machine.core._m.branches


OWNERS = """participant logged identity fresh
start 1
sync
connect 1
prepare T1 order=1 operations=debit
answer
sync
schema S1
abort T1
answer
sync
answer
sync
watermark below=5
sync"""


def test_recovery_tells_the_owner_of_each_record() -> None:
    driver = ParticipantDriver()
    for line in OWNERS.splitlines():
        driver.run(Command(line))
    machine = driver.machine
    owners = Machinery(ResourceKind.LOGGED, keeps_identity=True).core.recover(
        machine.durable, machine.instant(), Opened("log-pay", len(machine.durable))
    )
    assert owners == ["", "", T1, T1, "", ""]
    machine.boot()
    assert machine.core.incarnation_seen == 1
    assert machine.core.coordinators.epoch("c1") == 7 and machine.core.coordinators.epoch("c2") == 0


def test_rows_of_unfinished_branches_are_told() -> None:
    for state in (State.PREPARED, State.PARKED, State.ACTIVE, State.ABORTING):
        machine = reach(state)
        machine.boot()
        assert machine.core.recovered_rows() == [(T1, [b"row"])], state
    for state in (State.COMMITTED, State.ABORTED, State.FORCED_COMMIT, State.PREPARING):
        machine = reach(state)
        machine.boot()
        assert machine.core.recovered_rows() == [], state


def test_what_the_resource_must_keep_is_told() -> None:
    machine = reach(State.PREPARED, ResourceKind.EXTERNAL)
    machine.boot()
    assert machine.core.resource_branches() == [(T1, "gid")]
    machine = reach(State.COMMITTED, ResourceKind.EXTERNAL)
    machine.boot()
    assert machine.core.resource_branches() == [(T1, "gid")], "the proof of the outcome can still be forgotten"


def test_what_is_in_doubt_is_told_with_its_peers() -> None:
    machine = reach(State.PREPARED)
    peers = machine.core._m.branches[T1].peers
    machine.boot()
    assert machine.core.in_doubt() == [(T1, peers)]
    machine = reach(State.COMMITTED)
    assert machine.core.in_doubt() == []


LIVE = {
    State.UNSEEN: [],
    State.EXPIRED: [],
    State.ENLISTING: [],
    State.WAITING: [],
    State.EXECUTING: [],
    State.ACTIVE: ["branch_active"],
    State.PREPARING: [],
    State.ONE_PHASE: [],
    State.PREPARED: ["branch_prepared"],
    State.COMMITTING: ["branch_prepared"],
    State.ABORTING: ["branch_prepared"],
    State.COMMITTED: ["branch_finished"],
    State.ABORTED: [],
    State.READ_ONLY: [],
    State.FORCED_COMMIT: ["branch_finished"],
    State.FORCED_ABORT: ["branch_finished"],
    State.PARKED: ["branch_prepared", "branch_parked"],
}


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_live_records(state: State) -> None:
    machine = reach(state)
    records = machine.core.live_records(T1)
    assert [record.WhichOneof("kind") for record in records] == LIVE[state]
    branch = machine.core._m.branches.get(T1)
    assert bool(records) == (branch is not None and branch.logged)


def test_live_records_say_what_a_queued_record_says() -> None:
    """Between an operator's `forget` and the durable record nothing else is left to be written again."""
    remembered = "COMMITTED why='forced by ann at 1970-01-01 00:16:40 UTC: disk lost' by_hand"
    for state, outcome in ((State.FORCED_COMMIT, remembered), (State.FORCED_ABORT, "ABORTED")):
        driver = ParticipantDriver()
        driver.machine = reach(state)
        driver.run(Command("force T1 forget"))
        (told,) = driver.run(Command("live T1"))
        assert told == f"record branch_finished T1 order=1 {outcome}"


def test_owners_with_live_records_are_counted() -> None:
    assert reach(State.UNSEEN).core.live_owners() == 1, "identity and watermark"
    assert reach(State.PREPARED).core.live_owners() == 2
    assert reach(State.ABORTED).core.live_owners() == 1


def test_replayed_call_takes_its_place_behind_the_others() -> None:
    """The cleaner writes a branch's records again, oldest first, behind some that stay: the order of undo is that of the copies."""
    driver = ParticipantDriver()
    for line in ("participant atomic", "call a T1 debit", "enlisted T1 order=1", "sync", "call b T1 debit", "sync"):
        driver.run(Command(line))
    machine = driver.machine
    copies = [record.SerializeToString() for record in machine.core.live_records(T1)]
    machine.durable = [machine.durable[1], *copies]
    driver.run(Command("crash"))
    (undo,) = [append.apply for append in machine.appends]
    assert [work.undo[0] for work in undo.works] == [b"undo a", b"undo b"]


def test_nothing_is_served_before_what_was_unprepared_is_undone() -> None:
    machine = reach(State.ACTIVE)
    machine.boot()
    machine.step(Start(2))
    assert machine.effects == []
    machine.sync()
    assert [type(effect).__name__ for effect in machine.effects] == ["Started"]


def test_local_work_that_does_not_run_cannot_be_done() -> None:
    with pytest.raises(LocalProtocolError):
        reach(State.PREPARED).step(LocalDone("nobody"))


def test_branch_says_what_it_is() -> None:
    assert repr(reach(State.PREPARED).core._m.branches[T1]) == f"<{T1} PREPARED>"


def test_call_after_its_branch_was_dropped_is_new() -> None:
    driver = ParticipantDriver()
    driver.run(Command("participant atomic"))
    assert driver.run(Command("call a T1 debit")) == ["say    enlists T1"]
    assert driver.run(Command("enlisted T1 refused=NOT_ACTIVE")) == ["answer a refused NOT_ACTIVE"]
    assert driver.run(Command("call b T1 debit")) == ["say    enlists T1"]


@pytest.mark.parametrize("kind", ResourceKind)
@pytest.mark.parametrize(
    "outcome, state",
    [(common_pb2.OUTCOME_COMMITTED, State.FORCED_COMMIT), (common_pb2.OUTCOME_ABORTED, State.FORCED_ABORT)],
)
def test_an_order_that_was_written_offline_is_carried_out_at_the_next_start(
    kind: ResourceKind, outcome: common_pb2.Outcome.ValueType, state: State
) -> None:
    driver = ParticipantDriver()
    for line in f"participant {kind.value}\nprepare T1 order=1 operations=debit\nanswer\nsync\ncrash".splitlines():
        driver.run(Command(line))
    machine = driver.machine
    order = record_pb2.ForceOrdered(transaction_id=T1, outcome=outcome, who="ann", why="told by phone")
    machine.durable.append(record_pb2.ParticipantRecord(force_ordered=order).SerializeToString())
    for _ in range(2):  # and once more: it is carried out once
        machine.boot()
        machine.drain()
        assert machine.core.states() == [(T1, state)]
    finished = record_pb2.ParticipantRecord.FromString(machine.durable[-1]).branch_finished
    assert (finished.forced, finished.who, finished.why) == (True, "ann", "told by phone")
