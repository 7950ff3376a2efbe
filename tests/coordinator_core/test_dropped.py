"""What the retention drops, how much it keeps, and what is said of the rest."""

from __future__ import annotations

import pytest

from coordinator.core import events
from coordinator.core.dropped import SESSIONS_MAX, Dropped
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.ids import TransactionId
from troth.v1 import participant_pb2, record_pb2

FEW = CoreSettings(retained_transactions_max=1, resend_first_seconds=0.5)


def place(number: int, session: int = 1, epoch: int = 1, nonce: str = "0123abcd") -> TransactionId:
    """An id of one session."""
    return TransactionId("c1", epoch, nonce, session, number)


def full(settings: CoreSettings = FEW, count: int = 4) -> Driver:
    """So many commits of a and b, all but one of which are dropped again."""
    driver = Driver(settings)
    for number in range(1, count + 1):
        driver.complete(number, "ab")
    driver.wait(1.1)
    driver.sync()
    return driver


def cleaned(driver: Driver) -> list[bytes]:
    """Its log, from which the cleaner has taken what was dropped."""
    kept = ("epoch_started", "participant_bound", "horizon")
    return [body for body, kind in zip(driver.log, driver.kinds(), strict=True) if kind in kept]


# ---- an evicted commit is never told as aborted


@pytest.mark.parametrize("restarted", [False, True])
def test_another_first_attempt_does_not_make_an_abort_of_a_dropped_commit(restarted: bool) -> None:
    driver = full()
    name = driver.id(1)
    assert name not in driver.book.finished
    if restarted:
        driver = Driver(FEW, records=cleaned(driver), nonce="0123abce")
    driver.sent()
    driver.get(name, "ab", WALL_MS + 60_000)
    assert driver.got() == ["0 EXPIRED EXPIRED"] and driver.sent() == [], "who has forgotten it would say that it was rolled back"


def test_what_cannot_have_been_dropped_is_aborted_when_it_is_forgotten() -> None:
    driver = full()
    driver.run(9, "ab")
    restarted = Driver(FEW, records=driver.log, nonce="0123abce")
    restarted.get(driver.id(9), "ab", WALL_MS + 60_000)
    for participant in "ab":
        restarted.settle(participant, driver.id(9), "EXPIRED")
    assert restarted.got() == ["0 ABORTED COORDINATOR_RESTARTED"]


def test_a_log_of_an_earlier_release_does_not_say_what_it_dropped() -> None:
    horizon = record_pb2.Horizon(dropped_through_ms=WALL_MS - 1)
    driver = Driver(records=[record_pb2.CoordinatorRecord(at_ms=WALL_MS, horizon=horizon).SerializeToString()])
    driver.get("c1.0.0123abcd.1.9", "a", WALL_MS)
    assert driver.got() == ["0 EXPIRED EXPIRED"]


def test_a_dropped_commit_that_is_reported_again_stays_dropped() -> None:
    driver = full()
    state = participant_pb2.BRANCH_STATE_COMMITTED
    report = participant_pb2.BranchReport(transaction_id=driver.id(1), order=1, state=state)
    driver.step(events.ReportsReceived("a", 1, [report], True))
    assert driver.id(1) not in driver.book.finished and not driver.waiting


# ---- the index


def test_each_session_has_its_own_highest_number() -> None:
    dropped = Dropped()
    dropped.add([str(place(5)), str(place(3)), str(place(2, session=2))])
    assert dropped.covers(place(5)) and dropped.covers(place(1)) and not dropped.covers(place(6))
    assert not dropped.covers(place(3, session=2)) and not dropped.covers(place(5, nonce="0123abce"))


def test_it_is_bounded_and_says_too_much_rather_than_too_little() -> None:
    dropped = Dropped()
    for session in range(1, SESSIONS_MAX + 3):
        dropped.add([str(place(1, session=session))])
    assert len(dropped.record().sessions) == SESSIONS_MAX
    assert dropped.covers(place(99, session=2)) and not dropped.covers(place(2, session=3))


def test_records_say_what_is_new_and_together_all() -> None:
    dropped, again = Dropped(), Dropped()
    first = dropped.add([str(place(5))])
    second = dropped.add([str(place(7)), str(place(1, session=2))])
    assert (len(first.sessions), len(second.sessions)) == (1, 2)
    again.replay(second)
    again.replay(first)
    assert again.record() == dropped.record()


def test_everything_before_an_epoch_may_have_been_dropped() -> None:
    dropped, again = Dropped(), Dropped()
    dropped.count_all_before(3)
    again.replay(dropped.record())
    for one in (dropped, again):
        assert one.covers(place(1, session=10**6, epoch=2)) and not one.covers(place(1, session=0, epoch=3))


# ---- how much is kept


def test_a_key_at_the_head_does_not_keep_what_finished_after_it() -> None:
    driver = Driver(FEW)
    driver.run(1, "ab", key="k")
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    for name in "ab":
        driver.acknowledge(name, 1)
    for number in range(2, 6):
        driver.complete(number, "ab")
    driver.wait(1.1)
    driver.sync()
    assert list(driver.book.finished) == [driver.id(1), driver.id(5)]
    assert list(driver.book.keys) == ["k"]


def test_an_abort_under_a_key_is_kept_for_nobody() -> None:
    driver = Driver(FEW)
    for number in range(1, 6):
        driver.run(number, "ab", key=f"k{number}")
        driver.vote("a", number, "NO")
    driver.wait(1.1)
    driver.sync()
    assert list(driver.book.finished) == [driver.id(5)] and not driver.book.keys


def test_a_key_is_kept_until_its_first_attempt_is_out_of_time() -> None:
    """The durable clock may be behind the clients' clocks; a key that is dropped by its end alone would run again."""
    driver = Driver(CoreSettings(retention_seconds=100.0, skew_seconds=10.0, resend_first_seconds=0.5))
    driver.wall_ahead_ms = 3_600_000
    first_ms = driver.instant().wall_ms
    driver.run(1, "ab", key="k", first_attempt_ms=first_ms)
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    for name in "ab":
        driver.acknowledge(name, 1)
    driver.outcomes()
    for _ in range(60):
        driver.wait(100.0)
        driver.sync()
        driver.run(2 + len(driver.kinds()), "ab", key="k", first_attempt_ms=first_ms)
        (answer,) = driver.answers()
        assert answer.replayed or answer.cause.reason == "EXPIRED", answer
    assert not driver.book.keys


def test_a_client_whose_clock_is_ahead_does_not_move_the_horizon_ahead() -> None:
    driver = Driver(FEW)
    for number in range(1, 4):
        driver.run(number, "ab", first_attempt_ms=WALL_MS + 200_000)
        driver.vote("a", number, "NO")
    driver.wait(1.1)
    driver.sync()
    assert driver.book.dropped_through_ms <= driver.book.clock_ms


# ---- lists that are longer than may be listed


def reports(*numbers: int, state: participant_pb2.BranchState.ValueType) -> list[participant_pb2.BranchReport]:
    return [
        participant_pb2.BranchReport(transaction_id=f"c1.0.0123abcd.1.{number}", order=number, state=state) for number in numbers
    ]


def test_any_number_of_one_phase_commits_may_be_listed() -> None:
    driver = Driver(CoreSettings(reports_max=2))
    listed = reports(1, 2, 3, 4, state=participant_pb2.BRANCH_STATE_COMMITTED)
    listed += reports(5, 6, state=participant_pb2.BRANCH_STATE_PREPARED)
    driver.connect("a", 9, reports=listed)
    assert driver.book.participants["a"].ready and driver.sent() == ["a.ABORT", "a.ABORT"]
    assert len(driver.book.finished) == 4
    driver.connect("a", 10, reports=reports(1, 2, 3, state=participant_pb2.BRANCH_STATE_PREPARED))
    assert not driver.book.participants["a"].ready


def test_a_one_phase_commit_in_a_list_that_is_not_complete_answers_its_client() -> None:
    driver = Driver()
    driver.run(1, "a")
    driver.run(2, "ab")
    driver.lose("a")
    state = participant_pb2.BRANCH_STATE_COMMITTED
    listed = [participant_pb2.BranchReport(transaction_id=driver.id(number), order=number, state=state) for number in (1, 2)]
    driver.connect("a", 9, reports=listed, complete=False)
    assert driver.outcomes() == ["1 COMMITTED"]
    assert list(driver.book.participants["a"].reports) == [driver.id(2)], "what is not its to commit is looked at with the rest"



@pytest.mark.parametrize(("names", "state"), [("ab", "PREPARED"), ("a", "COMMITTED")])
def test_a_report_without_its_results_counts_and_the_answer_says_so(names: str, state: str) -> None:
    driver = Driver()
    driver.run(1, names)
    driver.lose("a")
    report = participant_pb2.BranchReport(
        transaction_id=driver.id(1), order=1, state=participant_pb2.BranchState.Value(f"BRANCH_STATE_{state}"), results_lost=True
    )
    driver.connect("a", 9, reports=[report])
    for name in names[1:]:
        driver.vote(name, 1)
    driver.sync()
    (answer,) = driver.answers()
    assert answer.outcome == 1 and not answer.results_available


def test_a_commit_of_an_earlier_life_may_come_without_its_results() -> None:
    driver = Driver()
    listed = reports(1, state=participant_pb2.BRANCH_STATE_COMMITTED)
    listed[0].results_lost = True
    driver.connect("a", 9, reports=listed)
    assert len(driver.book.finished) == 1
