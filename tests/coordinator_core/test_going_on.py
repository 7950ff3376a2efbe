"""Going on (rules 13 to 20), each rule as the interleaving that it is there for; and what a commit costs."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.v1 import admin_pb2, common_pb2, participant_pb2


def test_commit_is_repeated_until_acknowledged_and_at_once_when_the_participant_is_back() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    driver.acknowledge("a", 1)
    driver.sent()
    driver.wait(3.0)
    assert set(driver.sent()) == {"b.COMMIT"}
    driver.lose("b")
    driver.connect("b", 9, incarnation=2)
    driver.sync()
    assert driver.sent() == ["b.COMMIT"]
    driver.acknowledge("b", 1)
    driver.sync()
    assert driver.kinds()[-1] == "ended" and not driver.book.live


def test_the_watermark_waits_for_ended() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    driver.acknowledge("a", 1)
    driver.acknowledge("b", 1)
    driver.wait(1.5)
    assert {effect.watermark.below for effect in driver.take(effects.SendWatermark)} == {1}, "Ended is not durable"
    driver.sync()
    driver.wait(1.5)
    told = {effect.participant: effect.watermark.below for effect in driver.take(effects.SendWatermark)}
    assert told == {"a": 2, "b": 2}


def test_a_hello_that_is_complete_is_answered_with_the_last_watermark() -> None:
    driver = Driver(connect=False)
    driver.connect("a", 1, complete=False)
    assert driver.take(effects.SendWatermark) == []
    driver.step(events.ReportsReceived("a", 1, [], True))
    assert [effect.watermark for effect in driver.take(effects.SendWatermark)] == [participant_pb2.Watermark()]
    driver.wait(1.5)
    sent = [effect.watermark for effect in driver.take(effects.SendWatermark)]
    assert sent == [participant_pb2.Watermark(epoch=1, below=1)]
    driver.lose("a")
    driver.connect("a", 2)
    assert [(effect.stream, effect.watermark) for effect in driver.take(effects.SendWatermark)] == [(2, sent[0])]


def test_a_dead_participant_pins_only_its_own_watermark() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    driver.acknowledge("a", 1)
    driver.lose("b")
    for number in (2, 3):
        driver.run(number, "ac")
        for name in "ac":
            driver.vote(name, number)
        driver.sync()
        for name in "ac":
            driver.acknowledge(name, number)
        driver.sync()
    driver.wait(0.6)
    driver.sync()
    driver.wait(1.5)
    told = {effect.participant: effect.watermark.below for effect in driver.take(effects.SendWatermark)}
    assert told["a"] == told["c"] + 1 == 4 and "b" not in told


def test_commit_for_a_branch_never_seen_is_a_hazard_and_stays_until_it_is_forgotten() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    driver.acknowledge("a", 1)
    driver.acknowledge("b", 1, "HAZARD")
    driver.sync()
    again = Driver(records=driver.log)
    done = participant_pb2.ACKNOWLEDGEMENT_KIND_DONE
    again.say(
        "a", participant_pb2.Acknowledgement(transaction_id=driver.id(1), kind=done)
    )  # its acknowledgement was not written down: it is asked once more
    for each in (driver, again):
        each.get(driver.id(1))
        assert each.got() == ["0 HAZARD"]
    request = admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(1), who="ann", why="repaired")
    again.step(events.Administer("t", request))
    again.sync()
    assert driver.id(1) not in Driver(records=again.log).book.live


def test_complete_waits_for_all_acknowledgements_and_a_deadline_then_says_pending() -> None:
    driver = Driver()
    driver.run(1, "ab", wait=common_pb2.WAIT_COMPLETE, timeout_ms=1000)
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    driver.acknowledge("a", 1)
    assert driver.outcomes() == []
    driver.wait(1.2)
    (answer,) = driver.answers()
    assert answer.outcome == common_pb2.OUTCOME_COMMITTED and answer.pending


def test_answers_are_kept_until_the_client_has_them() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1, "NO")
    driver.out.clear()
    driver.step(events.SessionLost(driver.session))
    driver.step(events.SessionOpened(driver.session))
    assert driver.outcomes() == ["1 ABORTED REFUSED"]
    driver.step(events.AnswersSeen(driver.session, 2))
    driver.step(events.SessionOpened(driver.session))
    assert driver.outcomes() == []


def test_a_client_that_stays_away_loses_what_it_had_not_asked_to_commit() -> None:
    driver = Driver()
    driver.begin(1, timeout_ms=60_000)
    driver.enlist("a", 1)
    driver.run(2, "ab", timeout_ms=60_000)
    driver.step(events.SessionLost(driver.session))
    driver.wait(11.0)
    assert driver.id(1) not in driver.book.live and driver.id(2) in driver.book.live


def test_a_number_is_not_used_twice_even_when_nobody_asked_for_its_answer() -> None:
    driver = Driver()
    driver.begin(1, timeout_ms=1000)
    driver.wait(2.0)
    assert driver.book.sessions[driver.session].live == {}, "an aborted transaction leaves nothing in its session"
    driver.begin(1, timeout_ms=1000)
    assert driver.id(1) not in driver.book.live
    driver.commit(1)
    assert driver.outcomes() == ["1 ABORTED TIMEOUT"] * 3, "it is told at once, and to each repeat"


def test_only_new_transactions_are_shed() -> None:
    driver = Driver(CoreSettings(open_transactions_max=1))
    driver.run(1, "ab")
    driver.run(2, "ab")
    assert driver.outcomes() == ["2 ABORTED OVERLOADED"]
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED"]


def test_retention_drops_outcomes_only_behind_a_durable_horizon() -> None:
    driver = Driver(CoreSettings(retained_transactions_max=1))
    for number in (1, 2, 3):
        driver.run(number, "ab")
        driver.vote("a", number, "NO")
        driver.wait(0.01)
    driver.wait(1.5)
    assert len(driver.book.finished) == 3
    driver.sync()
    assert len(driver.book.finished) == 1
    driver.get(driver.id(1), "ab", WALL_MS)
    assert driver.got() == ["0 EXPIRED EXPIRED"], "never aborted"


def test_draining_refuses_only_new_work() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.step(events.Administer("t", admin_pb2.DrainRequest()))
    driver.run(2, "ab")
    assert driver.outcomes() == ["2 ABORTED DRAINING"]
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED"]


# ---- costs (DESIGN section 4)


@pytest.mark.parametrize("names, read_only", [("ab", ""), ("abc", ""), ("abc", "c"), ("abc", "bc"), ("ab", "ab")])
def test_the_price_of_a_commit(names: str, read_only: str) -> None:
    driver = Driver()
    driver.run(1, names)
    messages = len(driver.sent())
    for name in names:
        driver.vote(name, 1, "READ_ONLY" if name in read_only else "YES")
    driver.sync()
    messages += len(names) + 2 * len(driver.sent())
    for name in set(names) - set(read_only):
        driver.acknowledge(name, 1)
    driver.sync()
    assert messages == 4 * len(names) - 2 * len(read_only)
    assert driver.forced == (0 if names == read_only else 1)


@pytest.mark.parametrize("key, forced", [("", 0), ("k", 1)])
def test_the_price_of_one_participant(key: str, forced: int) -> None:
    driver = Driver()
    driver.run(1, "a", key=key)
    driver.sync()
    assert driver.sent() == ["a.prepares"]
    driver.vote("a", 1, "COMMITTED")
    driver.sync()
    assert driver.sent() == [] and driver.outcomes() == ["1 COMMITTED"] and driver.forced == forced
