"""A log that took a participant's name over is asked which commits of the one before it has; what it lacks is listed by its id."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.core import effects, events
from coordinator.core.model import State
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.test_proving import ask, questions, row
from troth.v1 import admin_pb2, common_pb2, participant_pb2, record_pb2

LATER = "0123abcf"
PREPARED = participant_pb2.BRANCH_STATE_PREPARED


def let_in(driver: Driver, name: str = "b", *reports: participant_pb2.BranchReport, log_id: str = "log-b") -> None:
    """An operator lets a log take the name over, and it comes."""
    if driver.book.participants[name].stream:
        driver.lose(name)
    request = admin_pb2.ReplaceParticipantRequest(participant=name, who="ann", why="restored", log_id=log_id)
    assert not ask(driver, request).HasField("refusal")
    driver.out.clear()
    driver.connect(name, 20, log_id=log_id, reports=reports)
    driver.sync()


def asked(driver: Driver) -> dict[str, int]:
    """What b is asked about, with the orders."""
    return {
        effect.message.transaction_id: effect.message.order
        for effect in driver.take(effects.Send)
        if effect.field == "settles" and effect.participant == "b"
    }


def says(driver: Driver, transaction_id: str, kind: str) -> None:
    driver.settle("b", transaction_id, kind)
    driver.sync()


def watermarks(driver: Driver) -> list[int]:
    return [one.watermark.below for one in driver.take(effects.SendWatermark) if one.participant == "b" and one.watermark.epoch]


def listed(driver: Driver) -> list[str]:
    found = row(driver, "b")
    assert found.lacking_total == len(found.lacking)
    return [*found.lacking]


def test_the_commits_that_a_restored_log_lacks_are_listed_by_their_ids() -> None:
    driver = Driver()
    for number in (1, 2, 3):
        driver.complete(number, "ab")
    driver.run(4, "b")
    driver.vote("b", 4, "COMMITTED")
    driver.run(5, "ab")
    driver.vote("a", 5, "NO")
    driver.complete(6, "ac")
    driver.sync()
    let_in(driver)
    assert asked(driver) == {driver.id(1): 1, driver.id(2): 2, driver.id(3): 3, driver.id(4): 4}
    says(driver, driver.id(1), "EXPIRED")
    says(driver, driver.id(2), "COMMITTED")
    assert listed(driver) == [] and row(driver, "b").recalling and row(driver, "b").to_recall == 2
    says(driver, driver.id(3), "ROLLED_BACK")
    says(driver, driver.id(4), "ROLLED_BACK")
    assert listed(driver) == [driver.id(3), driver.id(4)] and not row(driver, "b").recalling
    for number in (3, 4):
        driver.get(driver.id(number))
        assert driver.got() == ["0 MIXED"]
        explained = ask(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(number))).explanation
        assert "b ended ABORTED: its log took the name over" in explained
    again = Driver(records=driver.log, nonce=LATER, connect=False)
    assert listed(again) == [driver.id(3), driver.id(4)], "durably"
    request = admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(3), who="ann", why="done again by hand")
    assert not ask(driver, request).HasField("refusal")
    assert listed(driver) == [driver.id(4)]
    driver.say("b", participant_pb2.Acknowledgement(transaction_id=driver.id(3), kind=participant_pb2.ACKNOWLEDGEMENT_KIND_DONE))
    assert listed(driver) == [driver.id(4)], "its answer to that is as it should be"


def test_whoever_has_it_has_it_though_people_have_committed_it_there() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    driver.sync()
    let_in(driver)
    kind = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT
    driver.say("b", participant_pb2.Acknowledgement(transaction_id=driver.id(1), kind=kind, detail="forced by ann"))
    driver.sync()
    assert listed(driver) == [] and not row(driver, "b").recalling and driver.book.live == {}


def test_no_watermark_is_told_before_all_is_asked() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    driver.wait(2.0)
    assert watermarks(driver) == [2]
    driver.complete(2, "ab")
    let_in(driver)
    driver.wait(3.0)
    assert watermarks(driver) == [], "it would make of each answer EXPIRED"
    assert asked(driver) == {driver.id(1): 1, driver.id(2): 2}, "and again, until it answers"
    says(driver, driver.id(1), "EXPIRED")
    says(driver, driver.id(2), "COMMITTED")
    driver.wait(2.0)
    assert watermarks(driver) == [3]


def test_no_watermark_is_told_before_it_is_durable_that_all_is_asked() -> None:
    """A restart would ask once more, and hear EXPIRED of what is not there."""
    driver = Driver()
    driver.complete(1, "ab")
    let_in(driver)
    driver.settle("b", driver.id(1), "ROLLED_BACK")
    assert not driver.book.participants["b"].recalling
    driver.wait(3.0)
    assert watermarks(driver) == []
    driver.sync()
    driver.wait(2.0)
    assert watermarks(driver) == [2] and listed(driver) == [driver.id(1)]


def test_it_may_be_forgotten_before_that_is_durable() -> None:
    driver = Driver()
    driver.lose("b")
    ask(driver, admin_pb2.ReplaceParticipantRequest(participant="b", who="ann", why="restored", log_id="log-b"))
    driver.connect("b", 20)
    assert driver.waiting, "there is nothing to ask, and that is being written down"
    driver.lose("b")
    assert not ask(driver, admin_pb2.ForgetParticipantRequest(participant="b", who="ann", why="gone")).HasField("refusal")
    assert "b" not in driver.book.participants


def test_who_has_only_read_is_not_asked() -> None:
    driver = Driver()
    driver.run(1, "abc")
    driver.vote("a", 1)
    driver.vote("b", 1, "READ_ONLY")
    driver.vote("c", 1)
    driver.sync()
    driver.acknowledge("a", 1)
    driver.acknowledge("c", 1)
    driver.run(2, "b")
    driver.vote("b", 2, "READ_ONLY")
    driver.sync()
    let_in(driver)
    assert asked(driver) == {} and not row(driver, "b").recalling
    again = Driver(records=driver.log, nonce=LATER, connect=False)
    let_in(again)
    assert asked(again) == {}


def test_that_it_is_being_asked_survives_a_restart_of_either_side() -> None:
    driver = Driver()
    for number in (1, 2):
        driver.complete(number, "ab")
    let_in(driver)
    says(driver, driver.id(1), "ROLLED_BACK")
    driver.lose("b")
    driver.wait(2.0)
    assert row(driver, "b").recalling and not row(driver, "b").to_recall
    driver.out.clear()
    driver.connect("b", 21)
    assert asked(driver) == {driver.id(2): 2}, "what is recorded is passed over"
    again = Driver(records=driver.log, nonce=LATER, connect=False)
    again.connect("b", 22)
    assert asked(again) == {driver.id(2): 2}
    says(again, driver.id(2), "COMMITTED")
    third = Driver(records=again.log, nonce="0123abd0", connect=False)
    third.connect("b", 23)
    assert asked(third) == {} and listed(third) == [driver.id(1)]


def test_what_the_cleaner_writes_says_enough() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    driver.run(2, "b")
    driver.vote("b", 2, "COMMITTED")
    driver.sync()
    cleaned = [record.SerializeToString() for owner in dict.fromkeys(driver.owners) for record in driver.core.live_records(owner)]
    again = Driver(records=[*cleaned], nonce=LATER, connect=False)
    again.connect("b", 9)
    let_in(again)
    assert asked(again) == {driver.id(1): 1, driver.id(2): 2}


def test_what_began_since_is_not_asked_about() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    let_in(driver)
    says(driver, driver.id(1), "COMMITTED")
    driver.complete(2, "ab")
    driver.lose("b")
    driver.out.clear()
    driver.connect("b", 21, log_id="log-b")
    assert asked(driver) == {}


def test_a_commit_that_others_have_not_acknowledged_yet_is_asked_about_too() -> None:
    driver = Driver()
    driver.run(1, "abc")
    for name in "abc":
        driver.vote(name, 1)
    driver.sync()
    driver.acknowledge("b", 1)
    driver.acknowledge("c", 1)
    driver.wait(3.0)  # it is narrowed
    driver.sync()
    again = Driver(records=driver.log, nonce=LATER, connect=False)
    for one in (driver, again):
        let_in(one)
        assert asked(one) == {driver.id(1): 1}
        says(one, driver.id(1), "ROLLED_BACK")
        assert listed(one) == [driver.id(1)] and one.book.live[driver.id(1)].state is State.COMMITTING
        if one is again:
            one.connect("a", 30)
        one.say("a", participant_pb2.Acknowledgement(transaction_id=driver.id(1), kind=participant_pb2.ACKNOWLEDGEMENT_KIND_DONE))
        one.sync()
        assert one.book.live[driver.id(1)].state is State.HEURISTIC


def test_of_one_that_ended_otherwise_elsewhere_it_is_asked_as_well_also_when_that_is_forgotten() -> None:
    driver = Driver()
    for number in (1, 2):
        driver.run(number, "abc")
        for name in "abc":
            driver.vote(name, number)
        driver.sync()
        driver.acknowledge("a", number, "FORCED_ABORT")
        driver.acknowledge("b", number)
        driver.acknowledge("c", number)
        driver.sync()
    ask(driver, admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(2), who="ann", why="repaid"))
    let_in(driver)
    assert asked(driver) == {driver.id(1): 1, driver.id(2): 2}
    for number in (1, 2):
        says(driver, driver.id(number), "ROLLED_BACK")
    assert listed(driver) == [driver.id(1), driver.id(2)]
    let_in(driver, "a", log_id="log-a")
    assert questions(driver) == [], "of it that is known"


def test_one_that_is_in_doubt_is_told_and_asked_again() -> None:
    driver = Driver()
    driver.run(1, "ab")
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    driver.acknowledge("b", 1)
    report = participant_pb2.BranchReport(transaction_id=driver.id(1), order=1, state=PREPARED)
    let_in(driver, "b", report)
    assert asked(driver) == {driver.id(1): 1}
    says(driver, driver.id(1), "PREPARED")
    assert driver.sent() == ["b.COMMIT"], "a has not acknowledged yet, so nobody else tells it"
    driver.acknowledge("b", 1)
    driver.sync()
    assert not row(driver, "b").recalling and listed(driver) == []


def test_a_branch_that_an_operator_had_ended_in_the_copy_is_known_by_that() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    let_in(driver)
    driver.acknowledge("b", 1, "FORCED_ABORT")
    driver.sync()
    assert not row(driver, "b").recalling
    assert driver.book.live[driver.id(1)].outcome == common_pb2.OUTCOME_MIXED


def test_it_is_asked_in_batches_and_only_while_there_is_room_to_record_the_answers() -> None:
    driver = Driver(CoreSettings(resend_first_seconds=0.5, late_heuristics_max=3))
    for number in range(1, 7):
        driver.complete(number, "ab")
    let_in(driver)
    assert [*asked(driver)] == [driver.id(number) for number in (1, 2, 3)]
    for number in (1, 2, 3):
        says(driver, driver.id(number), "ROLLED_BACK")
    assert asked(driver) == {} and row(driver, "b").to_recall == 3
    driver.wait(2.0)
    assert asked(driver) == {} and row(driver, "b").recalling
    ask(driver, admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(1), who="ann", why="repaid"))
    driver.wait(2.0)
    assert [*asked(driver)] == [driver.id(4)], "an operator has made room for one more"


def test_what_the_retention_drops_meanwhile_is_passed_over() -> None:
    driver = Driver(CoreSettings(late_heuristics_max=1, retained_transactions_max=1))
    for number in (1, 2, 3):
        driver.complete(number, "ab")
    let_in(driver)
    driver.wait(1.5)  # the first two are dropped
    driver.sync()
    says(driver, driver.id(1), "ROLLED_BACK")
    assert listed(driver) == [] and asked(driver) == {driver.id(1): 1, driver.id(3): 3}


# ---- what is not retained


def dropped(driver: Driver) -> None:
    """The retention drops all that is over."""
    driver.wait(driver.book.settings.retention_seconds + 2.0)
    driver.sync()
    assert not driver.book.finished
    driver.out.clear()


def test_a_commit_behind_the_retention_is_not_presumed_aborted_of_a_log_that_was_put_back() -> None:
    driver = Driver(replace(CoreSettings(), retention_seconds=10.0))
    driver.complete(1, "ab")
    dropped(driver)
    peers = participant_pb2.Peers(participants="ab", incarnations=[1, 1], orders=[1, 1]).SerializeToString()
    report = participant_pb2.BranchReport(transaction_id=driver.id(1), order=1, state=PREPARED, peers=peers)
    let_in(driver, "b", report)
    assert driver.sent() == ["a.settles"], "whoever has it may prove it"
    driver.settle("a", driver.id(1), "EXPIRED")
    driver.say("b", participant_pb2.Inquiry(transaction_id=driver.id(1), order=1))
    assert driver.sent() == [] and row(driver, "b").stranded == [driver.id(1)], "it stays in doubt, and is listed"


def test_nor_when_the_cleaner_has_taken_half_of_its_records() -> None:
    """Then a restart knows the outcome, and not the participants: it is not that of somebody else."""
    driver = Driver(replace(CoreSettings(), retention_seconds=10.0))
    driver.complete(1, "ab")
    dropped(driver)
    half = [body for body, kind in zip(driver.log, driver.kinds(), strict=True) if kind != "decided"]
    again = Driver(records=half, nonce=LATER, connect=False)
    assert again.book.finished[driver.id(1)].outcome == common_pb2.OUTCOME_COMMITTED
    again.connect("b", 9)
    let_in(again, "b", participant_pb2.BranchReport(transaction_id=driver.id(1), order=1, state=PREPARED))
    assert again.sent() == [] and row(again, "b").stranded == [driver.id(1)]


@pytest.mark.parametrize("kind", ["another log", "after"])
def test_whoever_has_lost_nothing_is_presumed_aborted_as_ever(kind: str) -> None:
    driver = Driver(replace(CoreSettings(), retention_seconds=10.0))
    let_in(driver)
    driver.run(1, "ab", timeout_ms=100)
    driver.vote("b", 1)
    driver.complete(2, "ab")
    driver.wait(1.0)
    dropped(driver)
    report = participant_pb2.BranchReport(transaction_id=driver.id(1), order=1, state=PREPARED)
    if kind == "after":
        driver.lose("b")
        driver.connect("b", 30, reports=[report])
    else:
        driver.lose("a")
        driver.connect("a", 30, reports=[report])
    assert [one for one in driver.sent() if one.endswith("ABORT")] == ["b.ABORT" if kind == "after" else "a.ABORT"]


def test_a_log_that_was_put_back_proves_nothing_of_what_was_before_it() -> None:
    driver = Driver(replace(CoreSettings(), retention_seconds=10.0))
    driver.complete(1, "ab")
    dropped(driver)
    let_in(driver, "a", log_id="log-a")
    peers = participant_pb2.Peers(participants="ab", incarnations=[1, 1], orders=[1, 1]).SerializeToString()
    report = participant_pb2.BranchReport(transaction_id=driver.id(1), order=1, state=PREPARED, peers=peers)
    let_in(driver, "b", report)
    answer = participant_pb2.Settlement(
        transaction_id=driver.id(1), kind=participant_pb2.SETTLEMENT_KIND_ROLLED_BACK, proves_abort=True
    )
    driver.say("a", answer)  # of an incarnation of the same number
    driver.sync()
    assert row(driver, "b").stranded == [driver.id(1)] and driver.book.live[driver.id(1)].state is State.PROVING


def test_of_a_log_of_before_that_kept_no_orders_nothing_is_asked() -> None:
    name, outcome = "c1.0.0123abcd.1.1", common_pb2.OUTCOME_COMMITTED
    old = [
        record_pb2.CoordinatorRecord(decided=record_pb2.Decided(transaction_id=name, participants="ab")),
        record_pb2.CoordinatorRecord(ended=record_pb2.Ended(transaction_id=name, outcome=outcome)),
    ]
    driver = Driver(records=[*Driver().log, *(one.SerializeToString() for one in old)], nonce=LATER, connect=False)
    driver.connect("b", 9)
    let_in(driver)
    assert asked(driver) == {} and not row(driver, "b").recalling


def test_frames_of_nobody_in_particular_change_nothing() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    let_in(driver)
    unknown: Any = participant_pb2.Settlement(transaction_id=driver.id(9), kind=participant_pb2.SETTLEMENT_KIND_ROLLED_BACK)
    driver.say("b", unknown)
    driver.step(events.FromParticipant("b", 77, unknown))
    assert row(driver, "b").to_recall == 1
