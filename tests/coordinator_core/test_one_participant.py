"""One participant: what is handed over, what is settled, and what comes when it is late."""

from __future__ import annotations

import pytest

from coordinator.core import events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.v1 import participant_pb2

OLD = "c1.0.0123abcd.1.9"


def settling(key: str = "") -> Driver:
    """Transaction 1 of a was handed over; the stream was lost and is back."""
    driver = Driver()
    driver.run(1, "a", key=key)
    driver.sync()
    driver.lose("a")
    driver.connect("a", 9)
    driver.sent()
    return driver


def asked(names: str = "ab", settings: CoreSettings | None = None, first_attempt_ms: int = WALL_MS) -> Driver:
    """A client asks about OLD at these participants."""
    driver = Driver(settings)
    driver.get(OLD, names, first_attempt_ms)
    driver.sent()
    return driver


# ---- handing over


def test_nothing_is_handed_over_to_who_is_away() -> None:
    driver = Driver()
    driver.begin(1)
    driver.enlist("a", 1)
    driver.lose("a")
    driver.commit(1, a=1)
    assert driver.outcomes() == ["1 ABORTED PARTICIPANT_AWAY"] and driver.sent() == ["a.enlisted"]


def test_who_goes_while_the_key_is_written_is_handed_nothing() -> None:
    driver = Driver()
    driver.run(1, "a", key="k")
    driver.lose("a")
    driver.sync()
    assert driver.outcomes() == ["1 ABORTED PARTICIPANT_AWAY"]
    assert driver.kinds()[-2:] == ["key_opened", "key_closed"] and not driver.book.keys


def test_a_no_to_a_one_phase_commit_aborts_and_is_not_answered() -> None:
    driver = Driver()
    driver.run(1, "a")
    driver.sent()
    driver.vote("a", 1, "NO")
    assert driver.outcomes() == ["1 ABORTED REFUSED"] and driver.sent() == []


# ---- settling


@pytest.mark.parametrize(
    "kind, outcome",
    [("COMMITTED", ["1 COMMITTED"]), ("NO", ["1 ABORTED COORDINATOR_RESTARTED"]), ("READ_ONLY", []), ("YES", [])],
)
def test_a_vote_that_comes_when_it_is_being_settled(kind: str, outcome: list[str]) -> None:
    driver = settling()
    driver.vote("a", 1, kind)
    assert driver.outcomes() == outcome
    assert driver.sent() == (["a.ABORT"] if kind == "YES" else [])


def test_what_is_said_twice_counts_once() -> None:
    driver = asked()
    for _ in range(2):
        driver.settle("a", OLD, "ROLLED_BACK")
        driver.say("a", participant_pb2.Vote(transaction_id=OLD, kind=participant_pb2.VOTE_KIND_COMMITTED))
        done = participant_pb2.ACKNOWLEDGEMENT_KIND_DONE
        driver.say("a", participant_pb2.Acknowledgement(transaction_id=OLD, kind=done))
    assert driver.got() == [] and driver.book.live[OLD].missing == 1


def test_an_abort_of_the_settlement_is_acknowledged_or_contradicted() -> None:
    driver = asked()
    driver.settle("a", OLD, "PREPARED")
    assert driver.sent() == ["a.ABORT"]
    hazard = participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD
    driver.say("a", participant_pb2.Acknowledgement(transaction_id=OLD, kind=hazard))
    driver.sync()
    assert driver.got() == ["0 HAZARD"]


def test_what_is_forgotten_is_rolled_back_while_the_log_would_know_of_a_commit() -> None:
    driver = asked("a")
    driver.settle("a", OLD, "EXPIRED")
    assert driver.got() == ["0 ABORTED COORDINATOR_RESTARTED"]


def test_what_is_forgotten_is_expired_when_the_log_has_forgotten_too() -> None:
    driver = asked("a", CoreSettings(retention_seconds=1.0))
    driver.wait(1.5)
    driver.settle("a", OLD, "EXPIRED")
    assert driver.got() == ["0 EXPIRED EXPIRED"]
    assert driver.book.finished[OLD].outcome, "kept for the retention"


def test_a_key_whose_outcome_is_expired_is_free() -> None:
    first = settling(key="k")
    driver = Driver(CoreSettings(retention_seconds=1.0), records=first.log)
    driver.wait(1.5)
    driver.settle("a", first.id(1), "EXPIRED")
    assert not driver.book.keys


def test_a_commit_that_hello_reports_settles_it() -> None:
    driver = settling()
    driver.lose("a")
    report = participant_pb2.BranchReport(transaction_id=driver.id(1), state=participant_pb2.BRANCH_STATE_COMMITTED)
    driver.connect("a", 10, reports=[report])
    assert driver.outcomes() == ["1 COMMITTED"]


def test_nobody_is_asked_for_ever_when_nobody_waits() -> None:
    driver = asked("a")
    driver.lose("a")
    driver.wait(120.0)
    assert driver.got() == ["0 IN_DOUBT IN_DOUBT"] and OLD not in driver.book.live
    driver.connect("a", 9)
    driver.settle("a", OLD, "COMMITTED")
    assert OLD not in driver.book.live and not driver.waiting, "a late answer finds no transaction"


def test_a_retry_whose_client_is_gone_does_not_run_when_the_settlement_is_over() -> None:
    driver = settling(key="k")
    driver.run(2, "a", key="k")
    driver.step(events.SessionLost(driver.session))
    driver.wait(11.0)
    assert driver.session not in driver.book.sessions and not driver.book.joiners
    driver.sent()
    driver.settle("a", driver.id(1), "ROLLED_BACK")
    driver.sync()
    assert driver.sent() == [] and not driver.book.live


# ---- results over the limit


@pytest.mark.parametrize("kind", ["YES", "READ_ONLY"])
def test_too_many_results_abort_what_is_undecided(kind: str) -> None:
    driver = Driver(CoreSettings(payload_bytes_max=10))
    driver.run(1, "ab")
    driver.vote("a", 1, kind, results=b"x" * 11)
    assert driver.outcomes() == ["1 ABORTED PAYLOAD_TOO_LARGE"]


def test_a_commit_stands_without_its_results_when_they_are_too_many() -> None:
    driver = Driver(CoreSettings(payload_bytes_max=10))
    driver.run(1, "a")
    driver.vote("a", 1, "COMMITTED", results=b"x" * 11)
    (answer,) = driver.answers()
    assert answer.outcome == 1 and not answer.results_available and not answer.results
