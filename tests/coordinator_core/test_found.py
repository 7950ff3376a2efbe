"""Interleavings that the simulator, the model or a reader found, kept for ever."""

from __future__ import annotations

from coordinator.core import effects, events
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.v1 import participant_pb2


def test_commit_twice_and_abort_after_commit_are_told_the_outcome() -> None:
    driver = Driver()
    driver.begin(1)
    driver.enlist("a", 1)
    driver.enlist("b", 1)
    driver.commit(1, a=1, b=1)
    driver.commit(1, a=1, b=1)
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    driver.abort(1)
    assert driver.outcomes() == ["1 COMMITTED", "1 COMMITTED"]


def test_ids_of_which_one_is_a_prefix_of_another_are_different_transactions() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.run(11, "ab")
    driver.vote("a", 1, "NO")
    assert driver.outcomes() == ["1 ABORTED REFUSED"]
    assert list(driver.book.live) == [driver.id(11)]


def test_orders_of_two_epochs_do_not_meet() -> None:
    # Found by the simulator (seed 11298): the end of a recovered branch freed a branch of the new epoch with the same order, the
    # watermark passed it, and its repeated COMMIT was answered EXPIRED.
    first = Driver()
    first.run(1, "ab")
    first.vote("a", 1)
    first.vote("b", 1)
    first.sync()
    driver = Driver(records=first.log)
    driver.run(1, "ab")
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    for name in "ab":
        done = participant_pb2.ACKNOWLEDGEMENT_KIND_DONE
        driver.say(name, participant_pb2.Acknowledgement(transaction_id=first.id(1), kind=done))
    driver.sync()
    assert [participant.watermark() for participant in driver.book.participants.values()] == [1, 1, 1]


def test_a_yes_for_a_transaction_that_is_being_settled_is_answered_with_abort() -> None:
    # Found by the simulator (seed 11880): a participant that had been stopped took an old Prepare and voted on its new stream.
    first = Driver()
    first.run(1, "ab")
    driver = Driver(records=first.log)
    driver.get(first.id(1), "ab", WALL_MS)
    driver.sent()
    driver.say("a", participant_pb2.Vote(transaction_id=first.id(1), kind=participant_pb2.VOTE_KIND_YES))
    assert driver.sent() == ["a.ABORT"] and driver.got() == []


def test_a_one_phase_commit_that_ran_on_is_reported_after_hello() -> None:
    driver = Driver()
    driver.run(1, "a")
    driver.lose("a")
    driver.connect("a", 9)
    assert driver.sent() == ["a.prepares", "a.settles"]
    report = participant_pb2.BranchReport(transaction_id=driver.id(1), state=participant_pb2.BRANCH_STATE_COMMITTED)
    driver.step(events.ReportsReceived("a", 9, [report], False))
    assert driver.outcomes() == ["1 COMMITTED"]


def test_a_one_phase_commit_that_still_runs_pins_the_watermark_of_the_next_life() -> None:
    # Found by the TLA+ model (running_not_reported): nothing pinned it, the participant forgot it, and a young question was
    # answered EXPIRED although it had committed.
    first = Driver()
    first.run(1, "a")
    driver = Driver(records=first.log, connect=False)
    running = participant_pb2.BranchReport(transaction_id=first.id(1), order=1, state=participant_pb2.BRANCH_STATE_ACTIVE)
    driver.connect("a", 1, reports=[running])
    assert driver.sent() == ["a.settles"]
    assert [effect.watermark for effect in driver.take(effects.SendWatermark)] == [participant_pb2.Watermark()]
    driver.wait(3.0)
    assert driver.take(effects.SendWatermark) == [] and set(driver.sent()) == {"a.settles"}
    driver.settle("a", first.id(1), "COMMITTED")
    driver.wait(1.5)
    assert driver.take(effects.SendWatermark) == [], "Ended is not durable"
    driver.sync()
    driver.wait(1.5)
    assert [effect.watermark.epoch for effect in driver.take(effects.SendWatermark)] == [2]
    driver.get(first.id(1))
    assert driver.got() == ["0 COMMITTED"]


def test_what_one_participant_says_because_of_its_hello_concludes_nothing_for_the_others() -> None:
    # The model's finding 4: b enlisted too late, a committed in one phase; b's rollback is right for b alone.
    first = Driver()
    first.run(1, "a")
    driver = Driver(records=first.log)
    driver.lose("b")
    orphan = participant_pb2.BranchReport(transaction_id=first.id(1), order=1, state=participant_pb2.BRANCH_STATE_ACTIVE)
    driver.connect("b", 9, reports=[orphan])
    driver.settle("b", first.id(1), "ROLLED_BACK")
    driver.get(first.id(1), "a", WALL_MS)
    assert driver.got() == []
    driver.settle("a", first.id(1), "COMMITTED")
    assert driver.got() == ["0 COMMITTED"]


def test_an_enlist_that_rides_with_hello_is_answered_at_once() -> None:
    driver = Driver()
    driver.begin(1)
    driver.connect("a", 9, complete=False)
    driver.enlist("a", 1)
    assert "a.enlisted" in driver.sent()
