"""What only the log could tell that had a participant's name before: nothing but COMMITTED is taken from the present one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.core import effects, events
from coordinator.core.model import BranchStep, State
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from tests.coordinator_core.test_proving import ask
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2

LATER, LAST = "0123abcf", "0123abd0"
PREPARED = participant_pb2.BRANCH_STATE_PREPARED
KEY = "k"


def replace(driver: Driver, name: str = "a", *, log_id: str = "another") -> None:
    """An operator lets a log have the name."""
    if driver.book.participants[name].stream:
        driver.lose(name)
    request = admin_pb2.ReplaceParticipantRequest(participant=name, who="ann", why="its disk died", log_id=log_id)
    assert not ask(driver, request).HasField("refusal")


def come(
    driver: Driver, name: str = "a", *reports: participant_pb2.BranchReport, stream: int = 20, log_id: str = "another"
) -> None:  # fmt: skip
    driver.out.clear()
    driver.connect(name, stream, log_id=log_id, reports=reports)
    driver.sync()


def answer(driver: Driver, transaction_id: str, kind: str, name: str = "a") -> None:
    driver.settle(name, transaction_id, kind)
    driver.sync()


def handed_over() -> Driver:
    driver = Driver()
    driver.run(1, "a", key=KEY)
    driver.sync()
    driver.step(events.AnswersSeen(driver.session, 0))
    return driver


def settling() -> Driver:
    driver = handed_over()
    driver.wait(5.1)
    assert driver.outcomes() == ["1 IN_DOUBT IN_DOUBT"] and driver.txn(1).state is State.SETTLING
    return driver


def recovered() -> Driver:
    """A restart has found the open key."""
    return Driver(records=handed_over().log, nonce=LATER)


BEFORE: list[Callable[[], Driver]] = [handed_over, settling, recovered]
NO_COMMIT = ["ROLLED_BACK", "EXPIRED", "PREPARED"]


def first(driver: Driver) -> str:
    (name,) = [name for name, txn in driver.book.live.items() if txn.claim is not None]
    return str(name)


@pytest.mark.parametrize("log_id", ["another", "log-a"])
@pytest.mark.parametrize("kind", NO_COMMIT)
@pytest.mark.parametrize("made", BEFORE, ids=lambda made: made.__name__)
def test_what_was_handed_over_is_a_hazard_when_another_log_does_not_have_it(
    made: Callable[[], Driver], kind: str, log_id: str
) -> None:
    """Also when it is the same log by its id: an older copy has it too."""
    driver = made()
    name = first(driver)
    replace(driver, log_id=log_id)
    come(driver, log_id=log_id)
    assert "a.settles" in driver.sent()
    driver.settle("a", name, kind)
    assert driver.sent() == [], "whoever may have decided is told no ABORT"
    driver.sync()
    txn = driver.book.live[name]
    (report,) = txn.heuristic
    assert (txn.state, txn.outcome) == (State.HEURISTIC, common_pb2.OUTCOME_HAZARD)
    assert not report.commit_decided and "another log" in report.why
    driver.run(2, "a", key=KEY)
    driver.get(name)
    assert [outcome.split()[1] for outcome in driver.outcomes() if outcome.startswith("2 ")] == ["HAZARD"]
    assert driver.got() == ["0 HAZARD"]


@pytest.mark.parametrize("made", BEFORE, ids=lambda made: made.__name__)
def test_what_another_log_has_is_committed(made: Callable[[], Driver]) -> None:
    driver = made()
    name = first(driver)
    replace(driver)
    come(driver)
    answer(driver, name, "COMMITTED")
    driver.get(name)
    assert driver.got() == ["0 COMMITTED"] and name not in driver.book.live


@pytest.mark.parametrize("restarts", [False, True])
def test_the_key_is_held_until_an_operator_has_forgotten_it(restarts: bool) -> None:
    """He has seen to what was done by then. How it ended is told for the retention."""
    driver = handed_over()
    name = first(driver)
    replace(driver)
    come(driver)
    answer(driver, name, "ROLLED_BACK")
    if restarts:
        driver = Driver(records=driver.log, nonce=LATER, connect=False)
        driver.step(events.SessionOpened(driver.session))
        come(driver, stream=30)
    driver.run(2, "a", key=KEY)
    (told,) = [one for one in driver.answers() if one.number == 2]
    assert told.outcome == common_pb2.OUTCOME_HAZARD
    explained = ask(driver, admin_pb2.ExplainRequest(transaction_id=name))
    assert "Nobody can tell how it ended" in explained.explanation and "its key is free" in explained.if_forced[0]
    forget = admin_pb2.ForgetTransactionRequest(transaction_id=name, who="ann", why="it was not there")
    assert not ask(driver, forget).HasField("refusal")
    for life in (driver, Driver(records=driver.log, nonce=LAST)):
        life.out.clear()
        life.get(name)
        assert life.got() == ["0 HAZARD"]
        life.step(events.SessionOpened(life.session))
        if life is not driver:
            come(life, stream=40)
        life.run(3, "a", key=KEY)
        life.sync()
        assert life.sent() == ["a.prepares"]


def test_the_cleaner_keeps_the_key_with_it() -> None:
    driver = handed_over()
    name = first(driver)
    replace(driver)
    come(driver)
    answer(driver, name, "ROLLED_BACK")
    assert [record.WhichOneof("kind") for record in driver.core.live_records(name)] == ["key_opened", "heuristic"]


def test_behind_the_retention_it_is_expired() -> None:
    settings = CoreSettings(retention_seconds=60)
    driver = Driver(settings)
    driver.run(1, "a", key=KEY)
    driver.sync()
    name = first(driver)
    replace(driver)
    driver.wait(61)
    come(driver)
    answer(driver, name, "ROLLED_BACK")
    driver.get(name)
    assert driver.got() == ["0 EXPIRED EXPIRED"] and KEY not in driver.book.keys


def test_what_began_since_is_settled_as_ever() -> None:
    driver = Driver()
    replace(driver)
    come(driver)
    driver.run(1, "a")
    driver.lose("a")
    come(driver, stream=21)
    answer(driver, driver.id(1), "ROLLED_BACK")
    assert driver.outcomes() == ["1 ABORTED COORDINATOR_RESTARTED"]


def test_what_was_heard_before_the_name_was_given_away_stays() -> None:
    """Both the commit that was told, and the abort."""
    driver = Driver()
    for number, kind in ((1, "COMMITTED"), (2, "NO")):
        driver.run(number, "a")
        driver.vote("a", number, kind)
        driver.sync()
    replace(driver)
    come(driver)
    driver.out.clear()
    for number in (1, 2):
        driver.get(driver.id(number))
    assert driver.got() == ["0 COMMITTED", "0 ABORTED REFUSED"]


# ---- a question alone


def question(name: str, *participants: str) -> client_pb2.GetRequest:
    return client_pb2.GetRequest(transaction_id=name, participants=participants, first_attempt_ms=WALL_MS)


def of_an_earlier_life(*, before: str = "a", log_id: str = "another") -> tuple[Driver, str]:
    """A restart knows nothing of what was handed over without a key; then a log has a name that another one had."""
    driver = Driver()
    driver.run(1, "a")
    name = driver.id(1)
    driver = Driver(records=driver.log, nonce=LATER)
    replace(driver, before, log_id=log_id)
    come(driver, before, log_id=log_id)
    driver.out.clear()
    return driver, name


@pytest.mark.parametrize("log_id", ["another", "log-a"])
@pytest.mark.parametrize("kind", NO_COMMIT)
def test_a_question_about_what_the_log_before_may_have_committed_is_in_doubt(kind: str, log_id: str) -> None:
    driver, name = of_an_earlier_life(log_id=log_id)
    for _ in range(2):
        driver.step(events.Get("t", question(name, "a")))
        assert driver.sent() == ["a.settles"]
        answer(driver, name, kind)
        (told,) = driver.take(effects.Got)
        assert told.answer.outcome == common_pb2.OUTCOME_IN_DOUBT and "another one has the name since" in told.answer.cause.message
        assert name not in driver.book.live and not driver.waiting and driver.kinds()[-1] != "heuristic"


def test_and_so_it_is_after_a_restart_and_behind_the_cleaner() -> None:
    driver, name = of_an_earlier_life()
    cleaned = [one.SerializeToString() for one in driver.core.live_records("participant/a")]
    driver = Driver(records=[*driver.log, *cleaned], nonce=LAST, connect=False)
    come(driver)
    driver.step(events.Get("t", question(name, "a")))
    answer(driver, name, "ROLLED_BACK")
    assert driver.got() == ["0 IN_DOUBT IN_DOUBT"]


def test_a_question_is_answered_committed_by_whoever_has_it() -> None:
    driver, name = of_an_earlier_life()
    driver.step(events.Get("t", question(name, "a", "b")))
    answer(driver, name, "ROLLED_BACK")
    assert driver.book.live[name].branches["a"].step is BranchStep.GONE
    assert driver.got() == []
    explained = ask(driver, admin_pb2.ExplainRequest(transaction_id=name))
    assert any("another log since" in branch.explanation for branch in explained.branches)
    answer(driver, name, "COMMITTED", "b")
    assert driver.got() == ["0 COMMITTED"]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_one_that_cannot_tell_leaves_all_in_doubt(order: str) -> None:
    driver, name = of_an_earlier_life()
    driver.step(events.Get("t", question(name, "a", "b")))
    for one in order:
        answer(driver, name, "ROLLED_BACK", one)
    assert driver.got() == ["0 IN_DOUBT IN_DOUBT"]


def test_who_was_never_replaced_still_proves_an_abort() -> None:
    driver, name = of_an_earlier_life(before="b")
    driver.step(events.Get("t", question(name, "a")))
    answer(driver, name, "ROLLED_BACK")
    assert driver.got() == ["0 ABORTED COORDINATOR_RESTARTED"]


def test_of_this_life_a_question_is_answered_from_knowledge() -> None:
    """Whatever was handed over is open or retained: this was refused, or never began."""
    driver = Driver()
    driver.run(1, "a")
    driver.lose("a")
    come(driver, stream=9, log_id="log-a")
    answer(driver, driver.id(1), "ROLLED_BACK")
    del driver.book.finished[driver.id(1)]
    driver.book.other_finished.clear()
    driver.step(events.AnswersSeen(driver.session, 2))
    replace(driver)
    come(driver)
    driver.step(events.Get("t", question(driver.id(1), "a")))
    answer(driver, driver.id(1), "ROLLED_BACK")
    assert driver.got() == ["0 ABORTED COORDINATOR_RESTARTED"]


@pytest.mark.parametrize(("kind", "outcome"), [("FORCED_ABORT", "IN_DOUBT"), ("FORCED_COMMIT", "HAZARD"), ("HAZARD", "HAZARD")])
def test_what_people_have_ended_in_a_copy_contradicts_nothing_that_is_known(kind: str, outcome: str) -> None:
    """ABORT is not presumed of it, so a commit by hand is no MIXED."""
    driver, name = of_an_earlier_life(log_id="log-a")
    driver.step(events.Get("t", question(name, "a")))
    value = participant_pb2.AcknowledgementKind.Value(f"ACKNOWLEDGEMENT_KIND_{kind}")
    driver.say("a", participant_pb2.Acknowledgement(transaction_id=name, kind=value))
    driver.sync()
    assert driver.got()[0].split()[1] == outcome


@pytest.mark.parametrize("kind", ["YES", "NO"])
def test_a_vote_of_another_log_says_no_more_than_its_answer(kind: str) -> None:
    driver, name = of_an_earlier_life()
    driver.step(events.Get("t", question(name, "a")))
    driver.out.clear()
    driver.say("a", participant_pb2.Vote(transaction_id=name, kind=participant_pb2.VoteKind.Value(f"VOTE_KIND_{kind}")))
    assert driver.sent() == []
    if kind == "YES":
        answer(driver, name, "PREPARED")
    assert driver.got() == ["0 IN_DOUBT IN_DOUBT"]


# ---- prepared early, in an older copy


def early(name: str, *, order: int = 0, is_early: bool = True) -> participant_pb2.BranchReport:
    return participant_pb2.BranchReport(transaction_id=name, order=order, state=PREPARED, early=is_early)


@pytest.mark.parametrize("is_early", [False, True])
def test_what_was_prepared_early_may_have_been_handed_over_since(is_early: bool) -> None:
    """A decision of several would be in the log."""
    driver = Driver()
    driver.begin(1)
    name = driver.id(1)
    driver = Driver(records=driver.log, nonce=LATER)
    replace(driver, log_id="log-a")
    come(driver, "a", early(name, is_early=is_early), log_id="log-a")
    assert driver.sent() == ([] if is_early else ["a.ABORT"])
    driver.say("a", participant_pb2.Inquiry(transaction_id=name, state=PREPARED))
    assert driver.sent() == ([] if is_early else ["a.ABORT"])
    assert (name in driver.book.participants["a"].stranded) is is_early
    restored = Driver(records=driver.log, nonce=LAST, connect=False)
    restored.connect("b", 9, reports=[early(name)])
    assert restored.sent() == ["b.ABORT"], "who has its log knows that nobody has handed it over"


@pytest.mark.parametrize("forgotten", [False, True])
def test_what_was_handed_over_is_not_rolled_back_in_a_copy(forgotten: bool) -> None:
    driver = Driver()
    driver.begin(1)
    driver.enlist("a", 1)
    driver.commit(1, a=1)
    assert driver.txn(1).state is State.HANDED_OVER
    name = driver.id(1)
    replace(driver, log_id="log-a")
    come(driver, "a", early(name), log_id="log-a")
    answer(driver, name, "PREPARED")
    assert driver.book.live[name].outcome == common_pb2.OUTCOME_HAZARD
    if forgotten:
        driver.step(events.Administer("x", admin_pb2.ForgetTransactionRequest(transaction_id=name, who="ann", why="seen")))
        driver.sync()
    driver.lose("a")
    come(driver, "a", early(name), stream=30, log_id="log-a")
    assert driver.sent() == []
    driver.say("a", participant_pb2.Inquiry(transaction_id=name, state=PREPARED))
    assert driver.sent() == []


def test_what_this_life_knows_was_never_handed_over_is_rolled_back() -> None:
    driver = Driver()
    driver.begin(1)
    driver.enlist("a", 1)
    driver.abort(1)
    name = driver.id(1)
    replace(driver, log_id="log-a")
    come(driver, "a", early(name), log_id="log-a")
    assert driver.sent() == ["a.ABORT"]
