"""Ends by hand where no decision is known, at the edges: another log, a full book, who was away, who could not tell before."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.test_contradictions import BECAUSE
from tests.coordinator_core.test_foreign import ABORT, dropped, end, explained, forget, lives, lost_key, say, stranded, told
from tests.coordinator_core.test_participants_say import FOREIGN, report
from tests.coordinator_core.test_proving import LOST, ask, back, peers, prepared, put_back
from tests.coordinator_core.test_recalling import let_in
from troth.v1 import admin_pb2, participant_pb2


def forced(driver: Driver) -> list[Any]:
    """The orders of operators that were sent."""
    return [one.message for one in driver.take(effects.Send) if one.field == "forces"]


# ---- who lists it is not in doubt


def test_a_keyed_commit_by_hand_is_not_listed_as_in_doubt_when_its_decision_is_lost() -> None:
    driver, name = lost_key()
    say(driver, "a", "FORCED_COMMIT", name)
    driver.sync()
    for again in (driver, Driver(records=driver.log, nonce="0123abcf", connect=False)):
        again.connect("a", 23, reports=[report(name, "FORCED_COMMIT", order=1)])
        assert again.book.participants["a"].stranded == {} and not again.waiting
        assert "Still in doubt" not in explained(again, name).explanation


# ---- of our own, and perhaps dropped


def test_a_rollback_by_hand_of_a_log_that_took_a_name_over_may_be_of_a_dropped_commit() -> None:
    driver = dropped()
    name = driver.id(1)
    let_in(driver, "a")
    driver.connect("a", 41, log_id="log-b", reports=[report(name, "PREPARED", order=1)])
    assert name in driver.book.participants["a"].stranded, "the log before may have acknowledged it"
    end(driver, "a", "FORCED_ABORT", name)
    assert told(driver, name) == "HAZARD"


def test_nor_is_it_news_where_abort_was_told() -> None:
    driver = dropped()
    name = driver.id(1)
    let_in(driver, "a")
    later = driver.book.participants["a"].before[1]
    driver.connect("a", 41, log_id="log-b", reports=[report(name, "FORCED_ABORT", order=later)])
    say(driver, "a", "FORCED_ABORT", name)
    assert driver.book.live == {}, "its order is of the present log: no commit of it was dropped before it had acknowledged"


def test_who_was_away_when_it_was_forgotten_forgets_it_also_where_it_is_told_abort() -> None:
    driver = dropped()
    name = driver.id(1)
    say(driver, "a", "FORCED_COMMIT", name)
    driver.sync()
    driver.lose("a")
    forget(driver, name)
    driver.out.clear()
    driver.connect("a", 31, reports=[report(name, "FORCED_COMMIT", order=1)])
    say(driver, "a", "FORCED_COMMIT", name)
    assert [one.kind for one in forced(driver)] == [participant_pb2.FORCE_KIND_FORGET] and name not in driver.book.live


def test_what_is_dropped_of_another_coordinator_is_no_number_of_ours() -> None:
    driver = Driver(CoreSettings(retention_seconds=60.0, skew_seconds=10.0))
    later = "c2.9.0123abcd.1.9"
    driver.connect("a", 11, reports=[report(later, "PREPARED", order=4)])
    end(driver, "a", "FORCED_COMMIT", later)
    forget(driver, later)
    before = driver.book.dropped.record()
    driver.wait(200.0)
    driver.sync()
    assert later not in driver.book.finished and driver.book.dropped.record() == before


# ---- who could not tell, and who was known


@pytest.mark.parametrize("life", range(4))
def test_who_could_not_tell_is_known_once_people_have_ended_it(life: int) -> None:
    first = stranded()
    end(first, "a", "FORCED_COMMIT")
    say(first, "b", "HAZARD")
    first.sync()
    assert told(first) == "HAZARD"
    end(first, "b", "FORCED_ABORT")
    say(first, "b", "HAZARD")
    first.sync()
    driver = lives(first)[life]
    assert told(driver) == "MIXED" and "b ended ABORTED" in explained(driver).explanation


def test_what_is_known_of_a_branch_stays_known_when_an_order_comes_too_late_for_it() -> None:
    driver = stranded()
    end(driver, "a", "FORCED_COMMIT")
    forget(driver, FOREIGN)
    end(driver, "b", "FORCED_ABORT")
    request = admin_pb2.ResolveRequest(transaction_id=FOREIGN, action=ABORT, participant="a", **BECAUSE)
    assert not ask(driver, request).HasField("refusal")
    say(driver, "a", "HAZARD")
    driver.sync()
    assert told(driver) == "MIXED" and "a ended COMMITTED" in explained(driver).explanation


def test_that_branches_have_parted_is_said_also_beside_one_that_cannot_tell() -> None:
    driver = stranded()
    end(driver, "a", "FORCED_COMMIT")
    end(driver, "b", "FORCED_ABORT")
    say(driver, "c", "HAZARD")
    driver.sync()
    assert told(driver) == "HAZARD"
    answer = explained(driver)
    assert answer.explanation.startswith("It did not end in one way: ") and "Nothing that is known" not in answer.explanation
    driver.lose("c")
    (away,) = [words for words in explained(driver).if_forced if words.startswith("c is not connected")]
    assert "told the decision" not in away, "nobody here knows it"


# ---- a book that is full


def test_what_is_said_again_when_there_is_no_room_is_refused_to_nobody_else() -> None:
    driver = put_back()
    back(driver, "b", 21)
    back(driver, "a", 22, prepared(peers("ab")))
    say(driver, "b", "FORCED_COMMIT", LOST)
    driver.core.use(CoreSettings(late_heuristics_max=1))
    back(driver, "c", 23, report(FOREIGN, "FORCED_COMMIT", order=4))
    driver.sync()
    say(driver, "a", "FORCED_COMMIT", LOST)
    driver.wait(2.0)
    assert list(driver.book.live) == [FOREIGN] and not driver.book.again
    assert driver.core.counters.reports_refused == 2, "both say it again with their next Hello"
    forget(driver, FOREIGN)
    driver.connect("a", 31, reports=[report(LOST, "FORCED_COMMIT", order=4)])
    driver.sync()
    assert told(driver, LOST) == "HAZARD"


def test_what_waited_and_breaks_a_rule_ends_the_stream_that_it_came_by() -> None:
    driver = Driver(serve=False)
    for stream, name in enumerate("ab", 1):
        hello = participant_pb2.Hello(participant=name, log_id=f"log-{name}", incarnation=1)
        driver.step(events.HelloReceived(name, stream, hello))
        done = participant_pb2.Acknowledgement(transaction_id=FOREIGN, kind=participant_pb2.ACKNOWLEDGEMENT_KIND_DONE)
        driver.step(events.FromParticipant(name, stream, done))
    driver.sync_batch()
    assert [(one.stream, one.cause.retryable) for one in driver.take(effects.Rejected)] == [(1, True), (2, True)]
    assert not driver.book.again


# ---- what operators read


def test_what_is_over_and_was_never_decided_is_not_called_in_doubt() -> None:
    driver = stranded(names="ab")
    end(driver, "a", "FORCED_COMMIT")
    forget(driver, FOREIGN)
    refusal = ask(driver, admin_pb2.ResolveRequest(transaction_id=FOREIGN, action=ABORT, **BECAUSE)).refusal
    assert refusal.message.startswith(f"{FOREIGN} is over: HAZARD (")
