"""A log has a name that another one had, and something of the one before is still under way, or comes up once more."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from coordinator.core.model import State
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.test_proving import ask
from tests.coordinator_core.test_replaced import (
    KEY,
    LAST,
    LATER,
    PREPARED,
    answer,
    come,
    early,
    first,
    handed_over,
    of_an_earlier_life,
    question,
    replace,
)
from troth.v1 import admin_pb2, common_pb2, participant_pb2

HAZARD = common_pb2.OUTCOME_HAZARD
FORCED_COMMIT = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT
COMMITTED = participant_pb2.BRANCH_STATE_COMMITTED


def forget(driver: Driver, name: str) -> None:
    assert not ask(driver, admin_pb2.ForgetTransactionRequest(transaction_id=name, who="ann", why="seen")).HasField("refusal")


# ---- the order is given while the log before still speaks


@pytest.mark.parametrize("complete", [False, True])
def test_the_log_before_speaks_no_more_when_it_was_still_listing(complete: bool) -> None:
    """It would be asked in the new one's place, and be handed work as nobody's log."""
    driver = Driver()
    driver.lose("a")
    driver.connect("a", 19, incarnation=2, complete=False)
    request = admin_pb2.ReplaceParticipantRequest(participant="a", who="ann", why="its disk died", log_id="another")
    assert not ask(driver, request).HasField("refusal")
    (told,) = driver.take(effects.Rejected)
    assert told.cause.reason == "FOREIGN_LOG" and told.cause.retryable
    driver.step(events.ReportsReceived("a", 19, [], complete))
    participant = driver.book.participants["a"]
    assert not participant.ready and participant.recalling


def test_a_commit_is_not_handed_to_a_log_that_did_not_do_the_work() -> None:
    """Though it has had as many starts."""
    driver = Driver()
    driver.begin(1)
    driver.enlist("a", 1)
    replace(driver)
    come(driver)
    driver.commit(1, a=1)
    assert driver.outcomes() == ["1 ABORTED PARTICIPANT_RESTARTED"] and driver.sent() == ["a.ABORT"]


def test_a_key_that_was_being_opened_is_free_again() -> None:
    """Nothing was handed over: that is known, and no HAZARD."""
    driver = Driver()
    driver.run(1, "a", key=KEY)
    held, driver.waiting = driver.waiting, []
    replace(driver)
    come(driver)
    driver.waiting = held
    driver.sync()
    assert driver.outcomes() == ["1 ABORTED PARTICIPANT_RESTARTED"] and not driver.book.keys


def test_what_a_log_prepared_that_is_gone_is_not_committed() -> None:
    """The others' votes come when it is known that this one's branch is not there any more."""
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    replace(driver)
    driver.vote("b", 1)
    driver.sync()
    assert driver.outcomes() == ["1 ABORTED PARTICIPANT_AWAY"] and "b.ABORT" in driver.sent()


@pytest.mark.parametrize("kind", ["NO", "READ_ONLY", "YES"])
def test_another_log_votes_on_nothing_that_was_handed_over_before(kind: str) -> None:
    """Also before its Hello is complete."""
    driver = handed_over()
    name = first(driver)
    replace(driver)
    driver.connect("a", 20, log_id="another", complete=False)
    driver.vote("a", 1, kind)
    driver.sync()
    assert driver.outcomes() == []
    driver.step(events.ReportsReceived("a", 20, [], True))
    answer(driver, name, "ROLLED_BACK")
    assert driver.book.live[name].outcome == HAZARD


# ---- what was recorded, and comes up once more


def hazard_of_a_copy() -> tuple[Driver, str]:
    driver = Driver()
    driver.begin(1)
    driver.enlist("a", 1)
    driver.commit(1, a=1)
    name = driver.id(1)
    replace(driver, log_id="log-a")
    come(driver, "a", early(name), log_id="log-a")
    answer(driver, name, "PREPARED")
    driver.out.clear()
    return driver, name


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_copy_that_asks_on_the_same_stream_is_told_nothing(forgotten: bool) -> None:
    driver, name = hazard_of_a_copy()
    for turn in range(2):
        driver.say("a", participant_pb2.Inquiry(transaction_id=name, state=PREPARED, order=turn))
        assert driver.sent() == [] and name in driver.book.participants["a"].stranded
        if forgotten and not turn:
            forget(driver, name)
            driver.out.clear()


@pytest.mark.parametrize("state", [COMMITTED, participant_pb2.BRANCH_STATE_ACTIVE])
def test_what_a_log_has_committed_is_not_told_abort(state: participant_pb2.BranchState.ValueType) -> None:
    """An empty log had the name, and then the first one is found again."""
    driver = handed_over()
    name = first(driver)
    replace(driver)
    come(driver)
    answer(driver, name, "ROLLED_BACK")
    replace(driver, log_id="log-a")
    come(driver, "a", participant_pb2.BranchReport(transaction_id=name, order=1, state=state), stream=30, log_id="log-a")
    assert driver.sent() == [] and driver.book.live[name].outcome == HAZARD


# ---- what is in doubt, and ended by hand


def prepared_early() -> tuple[Driver, str]:
    driver = Driver()
    driver.begin(1)
    name = driver.id(1)
    driver = Driver(records=driver.log, nonce=LATER)
    replace(driver, log_id="log-a")
    return driver, name


def ended_by_hand(name: str, *, is_early: bool = True) -> participant_pb2.BranchReport:
    state = participant_pb2.BRANCH_STATE_FORCED_COMMIT
    return participant_pb2.BranchReport(transaction_id=name, state=state, early=is_early)


def assert_unknown(driver: Driver, name: str) -> None:
    explained = ask(driver, admin_pb2.ExplainRequest(transaction_id=name))
    assert explained.summary.outcome == HAZARD and "not known here" in explained.explanation


def test_a_stranded_branch_that_people_commit_contradicts_nothing() -> None:
    """It may have been handed over, and committed: so it is no MIXED, here and after a restart, which hears it once more."""
    driver, name = prepared_early()
    come(driver, "a", early(name), log_id="log-a")
    explained = ask(driver, admin_pb2.ExplainRequest(transaction_id=name))
    assert "the one before may have decided it alone" in explained.explanation
    commit = admin_pb2.RESOLVE_ACTION_COMMIT
    order = admin_pb2.ResolveRequest(transaction_id=name, participant="a", action=commit, who="ann", why="it was paid")
    assert not ask(driver, order).HasField("refusal")
    driver.say("a", participant_pb2.Acknowledgement(transaction_id=name, kind=FORCED_COMMIT))
    driver.sync()
    assert_unknown(driver, name)
    later = Driver(records=driver.log, nonce=LAST, connect=False)
    come(later, "a", ended_by_hand(name), log_id="log-a")
    assert later.sent() == []
    assert_unknown(later, name)


@pytest.mark.parametrize("is_early", [False, True])
def test_what_people_have_committed_in_a_copy_before_it_came_contradicts_nothing(is_early: bool) -> None:
    """A decision of several would be in the log: of such a branch it is known that there was none."""
    driver, name = prepared_early()
    come(driver, "a", ended_by_hand(name, is_early=is_early), log_id="log-a")
    if is_early:
        assert driver.sent() == []
        assert_unknown(driver, name)
        forget(driver, name)
        come(driver, "a", ended_by_hand(name), log_id="log-a", stream=30)
        assert driver.sent() == ["a.forces"] and name not in driver.book.live
    else:
        assert driver.sent() == ["a.ABORT"]
        driver.say("a", participant_pb2.Acknowledgement(transaction_id=name, kind=FORCED_COMMIT))
        driver.sync()
        assert driver.book.live[name].outcome == common_pb2.OUTCOME_MIXED


# ---- what is only asked about


def test_the_timer_does_not_drop_what_is_being_written_down() -> None:
    driver, name = of_an_earlier_life(log_id="log-a")
    driver.step(events.Get("t", question(name, "a")))
    driver.wait(59)
    driver.say("a", participant_pb2.Acknowledgement(transaction_id=name, kind=FORCED_COMMIT))
    driver.wait(100)
    assert driver.book.live[name].state is State.SETTLING
    driver.sync()
    assert driver.book.live[name].state is State.HEURISTIC


@pytest.mark.parametrize("answered", [False, True])
def test_who_watches_a_question_is_told_when_it_is_over(answered: bool) -> None:
    driver, name = of_an_earlier_life()
    driver.step(events.Get("t", question(name, "a")))
    driver.step(events.Watch("w", name))
    driver.out.clear()
    if answered:
        answer(driver, name, "ROLLED_BACK")
    else:
        driver.wait(130)
    assert [told.response.outcome for told in driver.take(effects.Watched) if told.last] == [common_pb2.OUTCOME_IN_DOUBT]
    assert not driver.book.watchers and name not in driver.book.live


def test_a_hazard_without_a_key_says_nothing_of_one() -> None:
    driver = Driver()
    driver.run(1, "a")
    replace(driver)
    come(driver)
    answer(driver, driver.id(1), "ROLLED_BACK")
    (forced, *_) = ask(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(1))).if_forced
    assert forced.startswith("forget") and "key" not in forced
