"""Votes that the protocol does not have there: the participant is told the rule, and nobody is told "aborted" who cannot know."""

from __future__ import annotations

import pytest

from coordinator.core import effects
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.errors import RemoteProtocolError
from troth.v1 import participant_pb2

COMMITTED = participant_pb2.VOTE_KIND_COMMITTED


def cast(driver: Driver, name: str, number: int, kind: int) -> list[str]:
    """A vote of any kind; returns the reasons of the Goodbyes that followed."""
    driver.say(name, participant_pb2.Vote(transaction_id=driver.id(number), kind=kind))  # type: ignore[arg-type]  # of any version
    return [effect.cause.reason for effect in driver.take(effects.Rejected)]


@pytest.mark.parametrize("kind, outcome", [(COMMITTED, "MIXED"), (99, "HAZARD")])
def test_what_is_no_vote_on_prepare_is_recorded(kind: int, outcome: str) -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("b", 1)
    driver.sent()
    assert cast(driver, "a", 1, kind) == ["PROTOCOL_ERROR"]
    assert driver.sent() == ["b.ABORT"] and driver.outcomes() == [], "nothing is told before the record is durable"
    driver.wait(60.0)
    driver.sync()
    assert driver.outcomes() == [f"1 {outcome}"]
    assert driver.kinds()[-1] == "heuristic"
    again = Driver(records=driver.log, nonce="0123abce")
    again.get(driver.id(1))
    assert again.got() == [f"0 {outcome}"]


def test_a_key_stays_with_it_until_an_operator_has_looked() -> None:
    driver = Driver()
    driver.run(1, "ab", key="k", first_attempt_ms=WALL_MS)
    cast(driver, "b", 1, COMMITTED)
    driver.sync()
    assert driver.outcomes() == ["1 MIXED"]
    live = driver.core.live_records(driver.id(1))
    assert [record.WhichOneof("kind") for record in live] == ["key_opened", "heuristic"]
    again = Driver(records=driver.log, nonce="0123abce")
    again.run(1, "ac", key="k", first_attempt_ms=WALL_MS)
    assert again.outcomes() == ["1 ABORTED KEY_REUSED"], "another body; and the same would be told MIXED"
    again.run(2, "ab", key="k", first_attempt_ms=WALL_MS)
    assert again.outcomes() == ["2 MIXED"]


@pytest.mark.parametrize("kind", [participant_pb2.VOTE_KIND_YES, 99])
def test_what_does_not_answer_a_one_phase_commit_is_settled(kind: int) -> None:
    driver = Driver()
    driver.run(1, "a")
    driver.sent()
    assert cast(driver, "a", 1, kind) == ["PROTOCOL_ERROR"]
    assert driver.outcomes() == []
    driver.connect("a", 9)
    assert driver.sent() == ["a.settles"]
    driver.settle("a", driver.id(1), "PREPARED")
    driver.acknowledge("a", 1)
    assert driver.outcomes() == ["1 ABORTED COORDINATOR_RESTARTED"], "its YES is rolled back, and that is known"


def test_committed_against_an_abort_is_recorded() -> None:
    driver = Driver()
    driver.run(1, "ab", timeout_ms=1000)
    driver.wait(2.0)
    assert driver.outcomes() == ["1 ABORTED TIMEOUT"]
    driver.vote("a", 1, "COMMITTED")
    driver.sync()
    driver.get(driver.id(1))
    assert driver.got() == ["0 MIXED"]


@pytest.mark.parametrize("first", ["YES", "READ_ONLY"])
@pytest.mark.parametrize("kind, outcome", [(COMMITTED, "MIXED"), (99, "HAZARD")])
def test_what_is_no_vote_is_recorded_behind_a_vote_as_well(first: str, kind: int, outcome: str) -> None:
    """Who commits by himself behind his YES stands against an ABORT of which nobody would have told."""
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1, first)
    assert cast(driver, "a", 1, kind) == ["PROTOCOL_ERROR"] and driver.outcomes() == []
    driver.vote("b", 1, "NO")
    driver.sync()
    assert driver.outcomes() == [f"1 {outcome}"] and driver.kinds()[-1] == "heuristic"


@pytest.mark.parametrize("first, then", [("YES", "NO"), ("YES", "READ_ONLY"), ("READ_ONLY", "YES"), ("READ_ONLY", "NO")])
def test_a_vote_that_takes_another_back_aborts_what_is_not_decided(first: str, then: str) -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1, first)
    driver.vote("a", 1, first)
    assert not driver.take(effects.Rejected), "a repeat is none"
    assert cast(driver, "a", 1, participant_pb2.VoteKind.Value(f"VOTE_KIND_{then}")) == ["PROTOCOL_ERROR"]
    assert driver.outcomes() == ["1 ABORTED PROTOCOL_ERROR"]


def test_committed_of_what_is_committed_is_a_repeat() -> None:
    driver = Driver()
    driver.run(1, "a")
    driver.vote("a", 1, "COMMITTED")
    driver.sync()
    driver.vote("a", 1, "COMMITTED")
    assert not driver.waiting and not driver.book.live


def test_committed_of_what_was_refused_or_never_began_is_told_to_be_wrong() -> None:
    driver = Driver()
    driver.run(1, "az")
    assert driver.outcomes() == ["1 ABORTED UNKNOWN_PARTICIPANT"]
    for number in (1, 9):
        with pytest.raises(RemoteProtocolError, match="not its to commit"):
            driver.vote("a", number, "COMMITTED")
    again = Driver(records=driver.log, nonce="0123abce")
    again.say("a", participant_pb2.Vote(transaction_id=driver.id(3), kind=COMMITTED))
    assert not again.waiting and not again.book.live, "what was committed in an earlier life Hello lists, and no vote"


def test_committed_of_what_the_retention_has_dropped_is_a_repeat() -> None:
    driver = Driver(CoreSettings(retained_transactions_max=0))
    driver.run(1, "a")
    driver.vote("a", 1, "COMMITTED")
    driver.sync()
    driver.wait(1.1)
    driver.sync()
    assert driver.id(1) not in driver.book.finished
    driver.vote("a", 1, "COMMITTED")
    assert not driver.book.live
