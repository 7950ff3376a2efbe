"""Operators who force outcomes, as the simulator found them at work: what they tear apart is heard, recorded and told."""

from __future__ import annotations

from coordinator.core import effects, events
from coordinator.core.model import State
from tests.coordinator_core.driver import Driver
from troth.v1 import admin_pb2, participant_pb2

FORCED = participant_pb2.BRANCH_STATE_FORCED_COMMIT
DETAIL = "forced by ann at 7 ms since the epoch: told by phone"


def contradicted() -> Driver:
    """Transaction 1 of a, b and c was aborted; an operator had committed a's branch."""
    driver = Driver()
    driver.run(1, "abc")
    driver.vote("a", 1)
    driver.vote("b", 1, "NO")
    driver.acknowledge("a", 1, "FORCED_COMMIT")
    driver.sync()
    assert driver.txn(1).state is State.HEURISTIC
    driver.out.clear()
    return driver


def reports(driver: Driver) -> list[str]:
    return [f"{one.participant} {one.why}" for one in driver.txn(1).heuristic]


def test_a_second_branch_that_was_forced_is_recorded_too() -> None:
    # Seed 569: the report of a second one was taken for a repeat, so that nobody learnt of it, and nobody forgot it there.
    driver = contradicted()
    driver.say(
        "c",
        participant_pb2.Acknowledgement(
            transaction_id=driver.id(1), kind=participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT, detail=DETAIL
        ),
    )
    driver.sync()
    assert reports(driver)[1:] == [f"c {DETAIL}"]
    assert driver.kinds().count("heuristic") == 2


def test_a_forced_branch_that_hello_lists_is_asked_when_another_has_contradicted_before() -> None:
    driver = contradicted()
    report = participant_pb2.BranchReport(transaction_id=driver.id(1), order=1, state=FORCED, detail=DETAIL)
    driver.connect("c", 9, reports=[report])
    assert driver.sent() == ["c.ABORT"]
    driver.acknowledge("c", 1, "DONE")
    driver.sync()
    assert len(reports(driver)) == 1, "as decided: nothing to record"


def test_whoever_is_still_in_doubt_is_told_the_decision_although_others_contradict_it() -> None:
    # Seed 2437: silence, and the branch held its locks until an operator forgot the transaction.
    driver = contradicted()
    driver.say("c", participant_pb2.Inquiry(transaction_id=driver.id(1), order=1, state=participant_pb2.BRANCH_STATE_PREPARED))
    assert driver.sent() == ["c.ABORT"]


def test_a_branch_that_was_forced_before_the_decision_is_no_violation() -> None:
    # Seed 715: an order was written offline, and the participant came back in time.
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.acknowledge("a", 1, "FORCED_ABORT")
    driver.vote("b", 1)
    driver.acknowledge("a", 1, "FORCED_ABORT")
    driver.sync()
    driver.acknowledge("b", 1)
    driver.acknowledge("a", 1, "FORCED_ABORT")
    driver.sync()
    assert driver.txn(1).state is State.HEURISTIC


def test_a_transaction_that_is_open_again_is_listed_once() -> None:
    # Seed 333: it was listed as MIXED, and as ABORTED below.
    driver = contradicted()
    driver.step(events.Administer("t", admin_pb2.ListTransactionsRequest(finished=True)))
    (told,) = driver.take(effects.Administered)
    assert [one.state for one in told.response.transactions] == ["HEURISTIC"]


def test_a_transaction_and_its_session_may_end_in_the_same_tick() -> None:
    # Seed 7049: the client's session ended, which aborted the transaction, whose own timer was due in the same tick: the
    # coordinator took that for a session's, and stopped.
    driver = Driver()
    seconds = driver.core._book.settings.session_linger_seconds
    driver.step(events.SessionLost(driver.session))
    driver.begin(1, timeout_ms=int(seconds * 1000))
    driver.now += seconds + 1
    driver.core.tick(driver.instant())
    assert driver.core.open_transactions() == 0


def test_a_second_branch_that_contradicts_while_the_first_is_written_down_is_recorded_too() -> None:
    # Seed 6139: the second one was taken for a participant that had no branch, and its stream ended.
    driver = Driver()
    driver.run(1, "abc")
    driver.vote("a", 1, "NO")
    driver.sync()
    for name in "bc":
        driver.acknowledge(name, 1, "FORCED_COMMIT")
    driver.acknowledge("a", 1, "DONE")
    driver.sync()
    assert [one.participant for one in driver.txn(1).heuristic] == ["b", "c"]
    assert not any(one.commit_decided for one in driver.txn(1).heuristic)


def test_a_commit_that_is_contradicted_twice_at_once_stays_a_commit() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    for name in "ab":
        driver.acknowledge(name, 1, "FORCED_ABORT")
    driver.sync()
    assert [(one.participant, one.commit_decided) for one in driver.txn(1).heuristic] == [("a", True), ("b", True)]
