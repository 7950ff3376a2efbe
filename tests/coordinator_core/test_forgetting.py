"""Forgetting a participant: only what nobody needs, durably, and without orders that come twice."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.ids import TransactionId
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2


def forget(driver: Driver, name: str, why: str = "renamed") -> str:
    """Why it was refused; empty when it was forgotten."""
    driver.step(events.Administer("ticket", admin_pb2.ForgetParticipantRequest(participant=name, who="ada", why=why)))
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    return str(answer.response.refusal.reason)


def test_what_is_forgotten_is_forgotten_also_after_a_restart() -> None:
    driver = Driver()
    driver.lose("c")
    assert forget(driver, "c") == ""
    assert sorted(driver.book.participants) == ["a", "b"]
    assert sorted(Driver(records=driver.log, connect=False).book.participants) == ["a", "b"]
    assert len(driver.core.live_records("participant/c")) == 1, "what it has done cannot be asked of it"
    driver.wait(driver.book.settings.retention_seconds + driver.book.settings.skew_seconds + 100)
    driver.sync()
    assert list(driver.core.live_records("participant/c")) == [], "and now the cleaner may drop what the log says of it"
    driver.connect("c", 9)
    driver.sync()
    assert "c" in driver.book.participants


@pytest.mark.parametrize(
    "name, why, reason", [("d", "x", "UNKNOWN_PARTICIPANT"), ("a", "x", "NOT_ACTIVE"), ("a", " ", "INVALID_ARGUMENT")]
)
def test_who_is_not_forgotten(name: str, why: str, reason: str) -> None:
    assert forget(Driver(), name, why) == reason


def test_who_has_an_open_branch_is_not_forgotten() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.lose("b")
    assert forget(driver, "b") == "NOT_ACTIVE"


def test_who_has_heard_what_the_log_does_not_say_is_not_forgotten() -> None:
    driver = Driver()
    said = participant_pb2.Hello(participant="d", log_id="log-d", incarnation=1)
    said.heard.add(coordinator="c1", log_id=driver.core.log_id, epoch=driver.core.epoch + 1, nonce="feedfeed")
    driver.step(events.HelloReceived("d", 9, said))
    assert forget(driver, "d") == "NOT_ACTIVE"


def test_orders_go_on_where_they_were() -> None:
    """Its log may remember a watermark of this life: an order below it would be answered as forgotten."""
    driver = Driver()
    driver.complete(1, "ab")
    driver.lose("a")
    assert forget(driver, "a") == ""
    driver.connect("a", 9)
    driver.sync()
    driver.out.clear()
    driver.run(2, "ab")
    orders = {effect.participant: effect.message.order for effect in driver.take(effects.Send)}
    assert orders == {"a": 2, "b": 2}


def test_a_slot_is_forgotten_by_itself() -> None:
    driver = Driver()
    for number, name in ((8, "pay/0"), (9, "pay/1")):
        driver.connect(name, number)
    driver.sync()
    driver.lose("pay/0")
    assert forget(driver, "pay/0") == ""
    assert [slot.name for slot in driver.book.slots["pay"]] == ["pay/1"]


def test_who_is_forgotten_while_its_binding_is_written_is_forgotten() -> None:
    driver = Driver()
    driver.step(events.HelloReceived("d", 9, participant_pb2.Hello(participant="d", log_id="log-d", incarnation=1)))
    driver.lose("d")
    assert forget(driver, "d") == "" and "d" not in driver.book.participants
    assert "d" not in Driver(records=driver.log, connect=False).book.participants
    driver.connect("d", 10)
    driver.sync()
    assert driver.book.participants["d"].ready


def test_with_its_last_slot_a_service_is_forgotten() -> None:
    driver = Driver()
    driver.connect("pay/0", 9)
    driver.sync()
    driver.lose("pay/0")
    assert forget(driver, "pay/0") == ""
    for life in (driver, Driver(records=driver.log)):
        life.run(1, ["pay", "a"])  # type: ignore[arg-type]  # any sequence of names
        assert life.outcomes() == ["1 ABORTED UNKNOWN_PARTICIPANT"]


def question(name: str) -> client_pb2.GetRequest:
    return client_pb2.GetRequest(transaction_id=name, participants=["pay"], first_attempt_ms=WALL_MS)


@pytest.mark.parametrize("cleaned", [False, True])
def test_what_a_slot_may_have_committed_is_not_told_aborted_when_it_was_forgotten(cleaned: bool) -> None:
    """A commit in one phase has no record at the coordinator: whoever has it is asked, if he is known."""
    first = Driver()
    for number, name in ((8, "pay/0"), (9, "pay/1")):
        first.connect(name, number)
    first.sync()
    name = first.id(1)
    driver = Driver(records=first.log, nonce="0123abcf", connect=False)
    driver.connect("pay/1", 9)
    driver.sync()
    assert forget(driver, "pay/0") == ""
    records = [one.SerializeToString() for one in driver.core.live_records("participant/pay/0")] if cleaned else []
    for number, life in enumerate((driver, Driver(records=driver.log + records, nonce="0123abd0", connect=False)), 9):
        life.connect("pay/1", number + 5)
        life.sync()
        life.step(events.Get("t", question(name)))
        (told,) = life.take(effects.Got)
        assert told.answer.outcome == common_pb2.OUTCOME_IN_DOUBT and "pay/0" in told.answer.cause.message
    life.connect("pay/0", 20)
    life.sync()
    life.out.clear()
    life.step(events.Get("t", question(name)))
    assert sorted(life.sent()) == ["pay/0.settles", "pay/1.settles"], "it is back, and is asked"


@pytest.mark.parametrize("again", [False, True])
def test_another_log_of_a_name_that_was_forgotten_proves_nothing(again: bool) -> None:
    """Nor is it the one that was forgotten, however often the name is; and a restart knows that, also behind the cleaner."""
    driver = Driver()
    for number, name in ((8, "pay/0"), (9, "pay/1")):
        driver.connect(name, number)
    driver.sync()
    name = driver.id(1)
    driver = Driver(records=driver.log, nonce="0123abcf", connect=False)
    assert forget(driver, "pay/0") == ""
    driver.connect("pay/0", 20, log_id="another")
    if again:
        driver.lose("pay/0")
        assert forget(driver, "pay/0") == ""
        driver.connect("pay/0", 21)
    cleaned = [one.SerializeToString() for one in driver.core.live_records("participant/pay/0")]
    assert len(cleaned) == 2
    restarted = Driver(records=[*driver.log[:1], *cleaned, *driver.log[1:], *cleaned], nonce="0123abd0", connect=False)
    restarted.connect("pay/0", 22, log_id="" if again else "another")
    for life in (driver, restarted):
        life.connect("pay/1", 23)
        life.out.clear()
        life.step(events.Get("t", question(name)))
        (told,) = life.take(effects.Got)
        assert told.answer.outcome == common_pb2.OUTCOME_IN_DOUBT and "pay/0" in told.answer.cause.message
        epoch, order = life.book.participants["pay/0"].before
        assert (epoch, order) > (TransactionId.parse(name).epoch, 0), "what it does not have proves no abort to others"


def test_a_name_that_is_only_mentioned_again_is_still_waited_for() -> None:
    """A transaction that is contradicted names all that were in it (`finishing.reopen`), be they forgotten or not."""
    driver = Driver()
    driver.lose("b")
    assert forget(driver, "b") == ""
    driver.book.participant("b")
    for life in (driver, Driver(records=driver.log, connect=False)):
        assert [gone.participant_bound.log_id for gone in life.book.gone.values()] == ["log-b"]
    assert forget(driver, "b") == ""
    assert [gone.participant_bound.log_id for gone in driver.book.gone.values()] == ["log-b"]
    driver.connect("b", 9)
    assert not driver.book.gone


def test_a_log_that_had_taken_a_name_over_cannot_say_all_when_it_was_forgotten() -> None:
    driver = Driver()
    driver.lose("b")
    order = admin_pb2.ReplaceParticipantRequest(participant="b", log_id="another", who="ada", why="lost")
    driver.step(events.Administer("ticket", order))
    driver.sync()
    driver.take(effects.Administered)
    driver.connect("b", 9, log_id="another")
    driver.lose("b")
    assert forget(driver, "b") == ""
    assert [gone.participant_bound.log_id for gone in driver.book.gone.values()] == [""]


def test_names_of_who_was_forgotten_are_bounded() -> None:
    driver = Driver(CoreSettings(known_participants_max=3))
    driver.lose("c")
    driver.lose("b")
    driver.lose("a")
    assert [forget(driver, name) for name in "abc"] == ["", "", ""]
    driver.connect("d", 9)
    driver.sync()
    driver.lose("d")
    assert forget(driver, "d") == "OVERLOADED"
