"""What participants say that is unusual: names and lists that are refused, late news, branches of other transactions."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.errors import Reason, RemoteProtocolError
from troth.v1 import admin_pb2, common_pb2, participant_pb2

OLD = "c1.0.0123abcd.1.9"
FOREIGN = "c2.1.0123abcd.1.9"


def hello(driver: Driver, name: str, stream: int, log_id: str = "log-x", incarnation: int = 1) -> list[str]:
    """Why a Hello is refused."""
    message = participant_pb2.Hello(participant=name, log_id=log_id, incarnation=incarnation)
    driver.step(events.HelloReceived(name, stream, message))
    return [effect.cause.reason for effect in driver.take(effects.Rejected)]


def report(transaction_id: str, state: str, **fields: object) -> participant_pb2.BranchReport:
    value = participant_pb2.BranchState.Value(f"BRANCH_STATE_{state}")
    return participant_pb2.BranchReport(transaction_id=transaction_id, state=value, **fields)  # type: ignore[arg-type]  # by name


def acknowledgement(transaction_id: str, kind: str) -> participant_pb2.Acknowledgement:
    value = participant_pb2.AcknowledgementKind.Value(f"ACKNOWLEDGEMENT_KIND_{kind}")
    return participant_pb2.Acknowledgement(transaction_id=transaction_id, kind=value)


def refusals(driver: Driver) -> list[str]:
    """Why enlisting was refused, oldest first."""
    sent = [effect.message for effect in driver.take(effects.Send)]
    return [message.refusal.reason for message in sent if isinstance(message, participant_pb2.Enlisted)]


# ---- Hello


@pytest.mark.parametrize(
    "name, log_id, incarnation, reason",
    [("Pay Ments", "x", 1, "INVALID_NAME"), ("d", "", 1, "INVALID_ARGUMENT"), ("d", "x", 0, "INVALID_ARGUMENT")],
)
def test_a_hello_without_identity_is_refused(name: str, log_id: str, incarnation: int, reason: str) -> None:
    assert hello(Driver(), name, 9, log_id, incarnation) == [reason]


def test_only_so_many_names_are_remembered() -> None:
    driver = Driver(CoreSettings(known_participants_max=3))
    assert hello(driver, "d", 9) == ["OVERLOADED"]
    assert hello(driver, "a", 10, "log-a") == ["SUPERSEDED_STREAM"], "who is known may come back; its older stream ends"


def test_who_is_gone_before_its_binding_is_durable_is_not_welcomed() -> None:
    driver = Driver()
    hello(driver, "d", 9)
    driver.step(events.ParticipantLost("d", 9))
    driver.sync()
    assert driver.take(effects.Welcomed) == []


def test_the_end_of_a_superseded_stream_ends_nothing() -> None:
    driver = Driver()
    driver.connect("a", 9)
    driver.step(events.ParticipantLost("a", 1))
    assert driver.book.participants["a"].ready


def test_a_list_that_is_too_long_ends_the_stream() -> None:
    driver = Driver(CoreSettings(reports_max=1))
    driver.connect("a", 9, reports=[report(OLD, "PREPARED"), report(OLD + "1", "PREPARED")])
    assert [effect.cause.reason for effect in driver.take(effects.Rejected)] == ["SUPERSEDED_STREAM", "OVERLOADED"]
    assert not driver.book.participants["a"].stream


def test_a_report_that_cannot_be_true_does_not_hide_the_others() -> None:
    driver = Driver()
    unknown = participant_pb2.BranchReport(transaction_id=OLD, state=99)  # type: ignore[arg-type]  # of a later version
    driver.connect("a", 9, reports=[report(FOREIGN, "PREPARED"), report("nonsense", "PREPARED"), report(OLD + "1", "PREPARED")])
    driver.connect("b", 10, reports=[unknown])
    assert driver.sent() == ["a.ABORT"] and driver.core.counters.reports_refused == 2
    assert list(driver.book.participants["a"].stranded) == [FOREIGN], "another coordinator's: it stays in doubt, and is listed"


def test_who_has_answered_is_told_nothing_when_it_comes_back() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.sent()
    driver.connect("a", 9)
    assert driver.sent() == [], "its vote is known"
    driver.vote("b", 1)
    driver.sync()
    driver.acknowledge("a", 1)
    driver.acknowledge("a", 1)
    driver.sent()
    driver.connect("a", 10)
    assert driver.sent() == [], "its acknowledgement is known"


# ---- after Hello


def test_only_a_commit_that_ran_on_is_reported_after_hello() -> None:
    driver = Driver()
    with pytest.raises(RemoteProtocolError, match="after its Hello was complete"):
        driver.step(events.ReportsReceived("a", 1, [report(OLD, "PREPARED")], False))
    driver.step(events.ReportsReceived("a", 1, [report(OLD, "COMMITTED")], False))
    driver.step(events.ReportsReceived("a", 1, [report(OLD, "COMMITTED")], False))
    driver.sync()
    assert driver.kinds().count("ended") == 1, "a repeat is recorded once"


@pytest.mark.parametrize("transaction_id", [FOREIGN, "c1.1.0123abcd.1.7", "nonsense"])
def test_a_commit_that_was_not_its_to_commit_is_not_recorded(transaction_id: str) -> None:
    driver = Driver()
    with pytest.raises(RemoteProtocolError):
        driver.step(events.ReportsReceived("a", 1, [report(transaction_id, "COMMITTED")], False))
    driver.sync()
    assert "ended" not in driver.kinds()


def test_a_stranger_is_not_heard() -> None:
    driver = Driver()
    driver.step(events.ReportsReceived("d", 1, [report(OLD, "PREPARED")], True))
    driver.step(events.FromParticipant("d", 1, acknowledgement(OLD, "HAZARD")))
    assert driver.out == [] and not driver.book.live


@pytest.mark.parametrize("message", [participant_pb2.Vote, participant_pb2.Acknowledgement, participant_pb2.Settlement])
def test_what_a_later_version_may_say_is_not_taken_for_something_else(message: type) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown kind 99"):
        Driver().say("a", message(transaction_id=OLD, kind=99))


# ---- questions that Hello raised


def asked() -> Driver:
    """a listed OLD as unprepared, and was asked what became of it."""
    driver = Driver()
    driver.connect("a", 9, reports=[report(OLD, "ACTIVE", order=4)])
    assert driver.sent() == ["a.settles"]
    return driver


def test_a_branch_that_is_prepared_by_now_is_told_abort() -> None:
    driver = asked()
    driver.settle("a", OLD, "PREPARED")
    assert driver.sent() == ["a.ABORT"] and not driver.book.participants["a"].questions


def test_a_branch_that_is_rolled_back_is_dealt_with() -> None:
    driver = asked()
    driver.settle("a", OLD, "ROLLED_BACK")
    assert driver.sent() == [] and not driver.book.participants["a"].questions


def test_a_parked_branch_answers_with_an_acknowledgement() -> None:
    driver = asked()
    driver.say("a", acknowledgement(OLD, "HAZARD"))
    driver.sync()
    assert not driver.book.participants["a"].questions and driver.book.live[OLD].state.name == "HEURISTIC"


def test_an_answer_counts_for_a_client_that_asks_about_the_same_transaction() -> None:
    driver = asked()
    driver.get(OLD, "a", WALL_MS)
    driver.settle("a", OLD, "ROLLED_BACK")
    assert driver.got() == ["0 ABORTED COORDINATOR_RESTARTED"]


def test_a_commit_counts_although_the_client_did_not_name_the_participant() -> None:
    driver = asked()
    driver.get(OLD, "b", WALL_MS)
    driver.settle("a", OLD, "COMMITTED")
    assert driver.got() == ["0 COMMITTED"]


# ---- enlisting in what is over


def test_enlisting_in_what_is_not_live_is_refused_with_the_reason() -> None:
    driver = Driver()
    driver.begin(1, timeout_ms=1000)
    driver.wait(2.0)
    driver.run(2, "ab")
    driver.vote("a", 2, "READ_ONLY")
    driver.vote("b", 2, "READ_ONLY")
    driver.out.clear()
    driver.step(events.AnswersSeen(driver.session, 10))  # so number 9 will not begin
    for transaction_id in (driver.id(1), driver.id(2), driver.id(9), OLD, FOREIGN, "nonsense"):
        driver.say("a", participant_pb2.Enlist(transaction_id=transaction_id))
    known = ["TIMEOUT", "UNKNOWN_TRANSACTION", "UNKNOWN_TRANSACTION"]
    assert refusals(driver) == [*known, "COORDINATOR_RESTARTED", "UNKNOWN_TRANSACTION", "INVALID_TRANSACTION_ID"]


def test_a_transaction_has_only_so_many_participants() -> None:
    driver = Driver(CoreSettings(participants_max=1))
    driver.begin(1)
    driver.enlist("a", 1)
    driver.enlist("a", 1)
    driver.enlist("b", 1)
    assert refusals(driver) == ["", "", "TOO_MANY_PARTICIPANTS"]


# ---- contradictions of what is over


def committed() -> Driver:
    driver = Driver()
    driver.complete(1, "ab")
    return driver


@pytest.mark.parametrize("kind", ["DONE", "EXPIRED", "FORCED_COMMIT"])
def test_what_agrees_with_the_outcome_is_no_news(kind: str) -> None:
    driver = committed()
    driver.acknowledge("a", 1, kind)
    assert not driver.waiting and not driver.book.live


def test_a_branch_that_nobody_remembers_contradicts_nothing() -> None:
    driver = Driver()
    driver.say("a", acknowledgement(OLD, "EXPIRED"))
    assert not driver.waiting and not driver.book.live


def test_a_branch_that_is_not_there_cannot_contradict() -> None:
    driver = committed()
    with pytest.raises(RemoteProtocolError, match="had no branch"):
        driver.acknowledge("c", 1, "FORCED_ABORT")
    with pytest.raises(RemoteProtocolError, match="had no branch"):
        driver.say("a", acknowledgement(FOREIGN, "FORCED_COMMIT"))
    with pytest.raises(RemoteProtocolError, match="not a transaction id"):
        driver.say("a", acknowledgement("nonsense", "FORCED_COMMIT"))


def test_only_so_many_contradictions_are_kept() -> None:
    driver = Driver(CoreSettings(late_heuristics_max=1))
    driver.say("a", acknowledgement(OLD, "HAZARD"))
    with pytest.raises(RemoteProtocolError) as caught:
        driver.say("a", acknowledgement(OLD + "1", "HAZARD"))
    assert caught.value.reason is Reason.OVERLOADED


def test_what_an_operator_ordered_may_be_of_another_coordinator() -> None:
    driver = Driver()
    request = admin_pb2.ResolveRequest(
        transaction_id=FOREIGN, action=admin_pb2.RESOLVE_ACTION_COMMIT, participant="a", who="ann", why="its coordinator is gone"
    )
    driver.step(events.Administer("t", request))
    assert driver.sent() == ["a.forces"]
    driver.say("a", acknowledgement(FOREIGN, "FORCED_COMMIT"))
    driver.sync()
    driver.get(FOREIGN)
    assert driver.got() == ["0 HAZARD"], "nobody here knows what was decided of it"


def test_a_commit_that_somebody_asks_about_is_told_while_it_is_retained() -> None:
    driver = committed()
    driver.say("a", participant_pb2.Inquiry(transaction_id=driver.id(1), order=1, state=participant_pb2.BRANCH_STATE_PREPARED))
    assert driver.sent()[-1] == "a.COMMIT"
    assert driver.book.finished[driver.id(1)].outcome == common_pb2.OUTCOME_COMMITTED
