"""What participants say of their invariants is listed: bounded, and until they say otherwise."""

from __future__ import annotations

from coordinator.core.invariants import DETAIL_CHARACTERS_MAX, INVARIANTS_MAX
from tests.coordinator_core.driver import WALL_MS, Driver
from tests.coordinator_core.test_operators import administer
from troth.v1 import admin_pb2
from troth.v1 import participant_pb2 as pb


def listed(driver: Driver) -> list[admin_pb2.InvariantSummary]:
    """What operators read of participant a."""
    rows = administer(driver, admin_pb2.ListParticipantsRequest()).participants
    return next(list(one.invariants) for one in rows if one.participant == "a")


def report(name: str, state: int, *, since_ms: int = WALL_MS - 2_000, detail: str = "") -> pb.InvariantReport:
    """What the participant says."""
    return pb.InvariantReport(name=name, state=state, since_ms=since_ms, detail=detail)  # type: ignore[arg-type]  # states that are none


def test_what_was_said_last_is_listed_and_stays_while_the_participant_is_away() -> None:
    driver = Driver()
    assert listed(driver) == []
    driver.say("a", report("b", pb.INVARIANT_STATE_VIOLATED, detail="alice has -5"))
    driver.say("a", report("a", pb.INVARIANT_STATE_UNCHECKED))
    rows = listed(driver)
    assert [(one.name, one.state, one.detail) for one in rows] == [("a", "UNCHECKED", ""), ("b", "VIOLATED", "alice has -5")]
    assert rows[0].for_seconds >= 2.0
    driver.say("a", report("a", pb.INVARIANT_STATE_HOLDS))
    driver.lose("a")
    assert [one.state for one in listed(driver)] == ["HOLDS", "VIOLATED"]
    driver.connect("a", 9)
    assert listed(driver) == [], "its Hello begins anew"


def test_another_process_of_the_service_looks_after_it() -> None:
    driver = Driver()
    for state in (pb.INVARIANT_STATE_VIOLATED, pb.INVARIANT_STATE_ELSEWHERE, pb.INVARIANT_STATE_ELSEWHERE):
        driver.say("a", report("a", state))
    assert listed(driver) == []


def test_what_is_kept_is_bounded_and_what_means_nothing_is_passed_over() -> None:
    driver = Driver()
    for name, state in (("", 1), ("No", 1), ("x" * 64, 1), ("none", 0), ("new", 99)):
        driver.say("a", report(name, state))
    assert listed(driver) == []
    for number in range(INVARIANTS_MAX + 5):
        driver.say("a", report(f"i{number}", pb.INVARIANT_STATE_HOLDS, since_ms=0, detail="x" * 5000))
    rows = listed(driver)
    assert len(rows) == INVARIANTS_MAX and {(len(one.detail), one.for_seconds) for one in rows} == {(DETAIL_CHARACTERS_MAX, 0.0)}
    driver.say("a", report(rows[0].name, pb.INVARIANT_STATE_VIOLATED, since_ms=2**62))
    assert listed(driver)[0].state == "VIOLATED" and listed(driver)[0].for_seconds == 0.0, "a clock that is ahead"
