"""Early votes where they meet limits, and strangers."""

from __future__ import annotations

from coordinator.core import effects
from coordinator.core import events as into
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import SECRET, Driver
from troth.seals import seal_key, sealed
from troth.v1 import client_pb2, participant_pb2


def ask(driver: Driver, name: str, number: int) -> list[str]:
    """A branch that was prepared early announces itself."""
    state = participant_pb2.BRANCH_STATE_PREPARED
    driver.say(name, participant_pb2.Inquiry(transaction_id=driver.id(number), state=state))
    return driver.sent()


def voted(driver: Driver, name: str, number: int, *, of: str = "", position: int = 0) -> client_pb2.AcknowledgedOperations:
    """What a service acknowledged in its last call."""
    vote = participant_pb2.EarlyVote(transaction_id=driver.id(number), incarnation=1, operation_count=1, position=position)
    key = seal_key(SECRET, of or name, f"log-{of or name}")
    return client_pb2.AcknowledgedOperations(participant=name, count=1, incarnation=1, vote=sealed(key, vote))


def commit(driver: Driver, number: int, *named: client_pb2.AcknowledgedOperations) -> None:
    """A commit that begins its transaction."""
    begin = client_pb2.BeginRequest(timeout_ms=5000)
    driver.step(into.Commit(driver.session, client_pb2.CommitRequest(number=number, acknowledged=named, begin=begin)))


def test_announced_twice_it_is_one_branch() -> None:
    driver = Driver()
    assert ask(driver, "a", 1) == ask(driver, "a", 1) == [], "answered when its client is heard"
    commit(driver, 1, voted(driver, "a", 1), voted(driver, "b", 1))
    driver.sync()
    assert [one for one in driver.sent() if "COMMIT" in one] == ["a.COMMIT", "b.COMMIT"]


def test_a_transaction_that_is_full_takes_none_and_its_commit_is_refused_for_the_same_reason() -> None:
    driver = Driver(CoreSettings(participants_max=1))
    driver.enlist("a", 1)
    assert ask(driver, "b", 1) == ["b.ABORT"]
    commit(driver, 1, voted(driver, "a", 1), voted(driver, "b", 1))
    assert driver.outcomes() == ["1 ABORTED TOO_MANY_PARTICIPANTS"]


def test_a_vote_of_whom_nobody_knows_is_none() -> None:
    driver = Driver()
    commit(driver, 1, voted(driver, "a", 1), voted(driver, "zz", 1, of="a"))
    assert driver.outcomes() == ["1 ABORTED OPERATION_COUNT"]


def test_a_vote_tells_how_far_the_log_is() -> None:
    driver = Driver()
    commit(driver, 1, voted(driver, "a", 1, position=9), voted(driver, "b", 1))
    assert driver.book.participants["a"].heard == 9


def test_so_many_are_remembered_as_told_abort_and_no_more() -> None:
    driver = Driver(CoreSettings(reports_max=1))
    driver.step(into.AnswersSeen(driver.session, 9))
    for number in (1, 2):
        assert ask(driver, "a", number) == ["a.ABORT"]
    assert driver.book.participants["a"].told_abort == {driver.id(1)}
    assert driver.take(effects.Answered) == []
