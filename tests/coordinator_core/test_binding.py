"""A name belongs to one process of one log, durably, before it is welcomed; and an interrupted Hello was never said."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from tests.coordinator_core.driver import EARLIER, WALL_MS, Driver
from troth.errors import RemoteProtocolError
from troth.v1 import admin_pb2, participant_pb2, record_pb2


def hello(driver: Driver, stream: int, incarnation: int = 1, nonce: str = "aaaaaaaa", log_id: str = "log-d") -> list[str]:
    """What d is told at once."""
    said = participant_pb2.Hello(participant="d", log_id=log_id, incarnation=incarnation, nonce=nonce)
    driver.step(events.HelloReceived("d", stream, said))
    return heard(driver)


def heard(driver: Driver) -> list[str]:
    """`welcome`, or why a stream was ended."""
    found = [effect for effect in driver.out if isinstance(effect, effects.Welcomed | effects.Rejected)]
    driver.out.clear()
    return ["welcome" if isinstance(effect, effects.Welcomed) else effect.cause.reason for effect in found]


def complete(driver: Driver, stream: int, *reports: participant_pb2.BranchReport) -> None:
    driver.step(events.ReportsReceived("d", stream, list(reports), True))


def test_a_second_hello_within_the_same_sync_waits_as_well() -> None:
    driver = Driver()
    assert hello(driver, 9) == []
    assert hello(driver, 10) == ["SUPERSEDED_STREAM"]
    driver.sync()
    assert heard(driver) == ["welcome"]
    assert hello(driver, 11) == ["SUPERSEDED_STREAM", "welcome"], "now it is durable"


def test_nothing_is_said_to_and_nothing_heard_from_who_is_not_welcomed() -> None:
    driver = Driver()
    hello(driver, 9)
    complete(driver, 9)
    driver.run(1, "ad")
    assert driver.outcomes() == ["1 ABORTED PARTICIPANT_AWAY"] and not driver.take(effects.SendWatermark)
    listed = participant_pb2.BranchReport(transaction_id=driver.id(7), state=participant_pb2.BRANCH_STATE_PREPARED)
    with pytest.raises(RemoteProtocolError, match="before it was welcomed"):
        driver.step(events.ReportsReceived("d", 9, [listed], False))
    for message in (participant_pb2.Enlist, participant_pb2.Vote, participant_pb2.Inquiry):
        with pytest.raises(RemoteProtocolError, match="before it was welcomed"):
            driver.step(events.FromParticipant("d", 9, message(transaction_id=driver.id(1))))
    driver.sync()
    kinds = [type(effect) for effect in driver.out if isinstance(effect, effects.Welcomed | effects.SendWatermark)]
    assert kinds == [effects.Welcomed, effects.SendWatermark], "its Hello was complete already"
    driver.run(2, "ad")
    assert driver.sent() == ["a.prepares", "d.prepares"]


def test_another_process_of_the_same_incarnation_is_refused() -> None:
    driver = Driver()
    hello(driver, 9)
    driver.sync()
    assert heard(driver) == ["welcome"]
    assert hello(driver, 10, nonce="bbbbbbbb") == ["STALE_INCARNATION"]
    assert hello(driver, 11) == ["SUPERSEDED_STREAM", "welcome"], "itself may come back"
    again = Driver(records=driver.log, nonce="0123abce")
    assert hello(again, 9, nonce="bbbbbbbb") == ["STALE_INCARNATION"]
    assert hello(again, 10) == ["welcome"]


def test_software_that_draws_nothing_is_taken_at_its_incarnation() -> None:
    driver = Driver()
    hello(driver, 9, nonce="")
    driver.sync()
    heard(driver)
    assert hello(driver, 10, nonce="") == ["SUPERSEDED_STREAM", "welcome"]


def test_a_name_that_was_replaced_meanwhile_is_not_bound_by_an_older_record() -> None:
    driver = Driver()
    hello(driver, 9)
    driver.lose("d")
    replace(driver, "log-d")
    assert hello(driver, 10) == [], "the log says that nobody is bound: it has to be written again"
    driver.sync()
    assert heard(driver) == ["welcome"]


def asks(driver: Driver, stream: int, incarnation: int, *starts: str, log_id: str = "log-d") -> list[str]:
    """What d is told when it only asks."""
    said = participant_pb2.Hello(participant="d", log_id=log_id, incarnation=incarnation, starts=starts, asks=True)
    driver.step(events.HelloReceived("d", stream, said))
    found = driver.take(effects.Rejected) + driver.take(effects.MayBegin)
    assert [one.stream for one in found] == [stream]
    return [one.cause.reason if isinstance(one, effects.Rejected) else "may begin" for one in found]


def test_who_only_asks_binds_nothing_and_takes_nobodys_place() -> None:
    driver = Driver()
    assert asks(driver, 9, 1) == ["may begin"]
    assert not driver.waiting and "d" not in driver.book.participants, "nothing is known of whoever asked"
    hello(driver, 10)
    driver.sync()
    heard(driver)
    complete(driver, 10)
    assert asks(driver, 11, 2, "1/aaaaaaaa") == ["may begin"]
    driver.step(events.ReportsReceived("d", 11, [], True))
    assert not driver.waiting and driver.book.participants["d"].stream == 10 and driver.book.participants["d"].ready


def test_who_only_asks_on_a_log_that_was_put_back_is_told_so_at_its_first_start() -> None:
    driver = Driver()
    hello(driver, 9, incarnation=5)
    driver.sync()
    heard(driver)
    driver.lose("d")
    assert asks(driver, 10, 3, "1/cccccccc", "2/bbbbbbbb") == ["LOG_WENT_BACK"]
    assert listed(driver).refused_log_id == "log-d" and "put back" in listed(driver).loss
    assert asks(driver, 11, 9, log_id="another") == ["FOREIGN_LOG"]
    assert asks(driver, 12, 6, "5/aaaaaaaa") == ["may begin"]


def replace(driver: Driver, log_id: str) -> Any:
    request = admin_pb2.ReplaceParticipantRequest(participant="d", log_id=log_id, who="ann", why="new disk")
    driver.step(events.Administer("t", request))
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    return answer.response


def listed(driver: Driver) -> admin_pb2.ParticipantSummary:
    driver.step(events.Administer("t", admin_pb2.ListParticipantsRequest()))
    (answer,) = driver.take(effects.Administered)
    row: admin_pb2.ParticipantSummary = next(one for one in answer.response.participants if one.participant == "d")
    return row


def test_an_operator_names_the_log_that_takes_a_name_over_and_no_other_does() -> None:
    driver = Driver()
    hello(driver, 9)
    driver.sync()
    driver.lose("d")
    hello(driver, 10, log_id="log-new")
    assert listed(driver).refused_log_id == "log-new", "the operator reads there what he has to name"
    assert "Refused last under this name: log-new" in replace(driver, "").refusal.message
    assert listed(driver).log_id == "log-d", "what is refused changes nothing"
    assert not replace(driver, "log-new").HasField("refusal")
    live = [record.SerializeToString() for record in driver.core.live_records("participant/d")]
    for records in (driver.log, [*driver.log[:2], *live]):  # as it was written, and as the cleaner writes it
        again = Driver(records=records, nonce="0123abce")
        assert listed(again).awaited_log_id == "log-new"
        for number, other in enumerate(("log-d", "log-third"), 9):
            assert hello(again, number, log_id=other) == ["FOREIGN_LOG"]
            assert listed(again).refused_log_id == other and not again.waiting
        hello(again, 11, log_id="log-new")
        again.sync()
        assert heard(again) == ["welcome"]
        row = listed(again)
        assert (row.log_id, row.awaited_log_id, row.refused_log_id) == ("log-new", "", "")


def test_earlier_software_let_any_log_take_a_name_over() -> None:
    freed = record_pb2.ParticipantBound(participant="d", who="ann", why="new disk")
    driver = Driver(records=[EARLIER, record_pb2.CoordinatorRecord(participant_bound=freed).SerializeToString()])
    hello(driver, 9, log_id="whichever")
    driver.sync()
    assert heard(driver) == ["welcome"]


@pytest.mark.parametrize("lost", [True, False])
def test_what_an_interrupted_hello_listed_is_no_vote_of_today(lost: bool) -> None:
    driver = Driver()
    hello(driver, 9)
    driver.sync()
    complete(driver, 9)
    driver.run(1, "ad", first_attempt_ms=WALL_MS)
    hello(driver, 10)
    old = participant_pb2.BranchReport(transaction_id=driver.id(1), order=1, state=participant_pb2.BRANCH_STATE_PREPARED)
    driver.step(events.ReportsReceived("d", 10, [old], False))
    if lost:
        driver.lose("d")
    hello(driver, 11, incarnation=2)
    driver.sync()
    complete(driver, 11)
    assert driver.outcomes() == ["1 ABORTED PARTICIPANT_RESTARTED"]
    assert "decided" not in driver.kinds()
