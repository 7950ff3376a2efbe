"""What many hostile messages leave behind in the coordinator's memory: each table is counted against its documented limit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from coordinator.core import effects, events
from coordinator.core.checks import OPERATION_BYTES
from coordinator.core.keys import TICKETS_MAX
from coordinator.core.settings import CoreSettings
from coordinator.core.steps import CODE_CHARACTERS_MAX, TEXT_CHARACTERS_MAX
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.errors import ProtocolError
from troth.v1 import client_pb2, common_pb2, participant_pb2

FLOOD = 3_000
LIMITS = CoreSettings(
    open_transactions_max=200, retained_transactions_max=300, keys_max=100, unseen_answers_max=150, reports_max=250,
    late_heuristics_max=40, known_participants_max=60, payload_bytes_max=1_000, open_bytes_max=50_000,
    unseen_bytes_max=60_000, reports_bytes_max=90_000, operation_names_bytes_max=20_000,
)  # fmt: skip
EARLIER = "c1.0.0123abcd.1"
"""A session of an earlier epoch: whatever it numbered may have been begun."""
HOSTILE = "c1.1.0123abcd.2"


@pytest.fixture
def driver() -> Driver:
    driver = Driver(LIMITS)
    driver.connect("h", 8)
    driver.step(events.SessionOpened(HOSTILE))
    driver.sync()
    return driver


def flood(driver: Driver, make: Callable[[int], Any], count: int = FLOOD) -> None:
    """Step `count` events that a peer makes up."""
    for number in range(1, count + 1):
        with suppress(ProtocolError):
            driver.step(make(number))
        if number % 500 == 0:
            driver.sync()
            driver.out.clear()
    driver.sync()
    driver.out.clear()


def check_bounds(driver: Driver) -> None:
    """Every table of the book against its limit, and an honest transaction commits."""
    driver.wait(120.0)
    driver.sync()
    driver.wait(5.0)
    driver.sync()
    book = driver.book
    assert len(book.live) <= LIMITS.open_transactions_max + LIMITS.late_heuristics_max
    assert book.late_heuristics <= LIMITS.late_heuristics_max
    assert len(book.finished) <= LIMITS.retained_transactions_max
    assert len(book.keys) <= LIMITS.keys_max
    assert len(book.participants) <= LIMITS.known_participants_max
    assert len(book.timers) <= len(book.live) + len(book.sessions) + 1
    assert not book.again
    assert book.unseen_bytes == sum(one.ByteSize() for session in book.sessions.values() for one in session.answers.values())
    assert book.unseen_bytes <= LIMITS.unseen_bytes_max + 3_000 * len(book.sessions)
    assert sum(one.report_bytes for one in book.participants.values()) <= LIMITS.reports_bytes_max
    names = [name for one in book.participants.values() for name in one.operations]
    assert sum(map(len, names)) <= LIMITS.operation_names_bytes_max
    assert 0 <= book.open_bytes <= LIMITS.open_bytes_max
    assert book.open_bytes == sum(txn.held_bytes for txn in book.live.values())
    for session in book.sessions.values():
        assert len(session.answers) + len(session.live) <= LIMITS.unseen_answers_max + 1
    for participant in book.participants.values():
        assert len(participant.reports) <= LIMITS.reports_max
        assert len(participant.unended) + len(participant.recovered) <= len(book.live)
    for txn in book.live.values():
        assert len(txn.tickets) <= TICKETS_MAX
    driver.out.clear()
    driver.run(10**6, "ab")
    for name in "ab":
        driver.vote(name, 10**6)
    driver.sync()
    assert driver.outcomes() == ["1000000 COMMITTED"]


def said(message: Any) -> events.FromParticipant:
    return events.FromParticipant("h", 8, message)


HAZARD, FORCED = participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD, participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT

FLOODS: dict[str, Callable[[int], Any]] = {
    "hazards of transactions that never were": lambda n: said(
        participant_pb2.Acknowledgement(transaction_id=f"{EARLIER}.{n}", kind=HAZARD if n % 2 else FORCED, detail="x" * 9000)
    ),
    "commits that never were": lambda n: events.ReportsReceived(
        "h", 8, [participant_pb2.BranchReport(transaction_id=f"{EARLIER}.{n}", state=3, results=b"x" * 2000)], True
    ),
    "commits of sessions to come": lambda n: events.ReportsReceived(
        "h", 8, [participant_pb2.BranchReport(transaction_id=f"c1.1.0123abcd.{n}.1", state=3)], True
    ),
    "a list without an end": lambda n: events.ReportsReceived(
        "i", 9, [participant_pb2.BranchReport(transaction_id=f"{EARLIER}.{n}", state=2)], False
    ),
    "operations": lambda n: events.HelloReceived(
        f"p{n}", 100 + n, participant_pb2.Hello(log_id="x", incarnation=1, operations=[f"{n}" * 50] * 3)
    ),
    "refusals that nobody acknowledges": lambda n: events.Run(HOSTILE, run_of(n, "n" * 1000)),
    "names": lambda n: events.HelloReceived(f"p{n}", 100 + n, participant_pb2.Hello(log_id="x", incarnation=1)),
    "incarnations": lambda n: events.HelloReceived("h", 100 + n, participant_pb2.Hello(log_id="log-h", incarnation=1 + n)),
    "begins": lambda n: events.Begin(HOSTILE, client_pb2.BeginRequest(number=n, timeout_ms=1000)),
    "keys": lambda n: events.Run(HOSTILE, run_of(n, "h", key=f"key{n}", first_attempt_ms=WALL_MS)),
    "runs that are refused": lambda n: events.Run(HOSTILE, run_of(n, "nobody")),
    "runs that stay": lambda n: events.Run(HOSTILE, run_of(n, "ha")),
    "aborts of what never began": lambda n: events.Abort(HOSTILE, client_pb2.AbortRequest(number=n)),
    "commits of what never began": lambda n: events.Commit(HOSTILE, client_pb2.CommitRequest(number=n)),
    "questions": lambda n: events.Get(n, question(f"{EARLIER}.{n}")),
    "one question": lambda n: events.Get(n, question(f"{EARLIER}.1")),
    "questions of the future": lambda n: events.Get(n, question(f"{EARLIER}.{n}", first_attempt_ms=2**62)),
    "questions of sessions to come": lambda n: events.Get(n, question(f"c1.1.0123abcd.{n + 2}.1")),
}


def run_of(number: int, names: str, **fields: Any) -> client_pb2.RunRequest:
    operations = [common_pb2.Operation(name="work", arguments=b"x" * 500)]
    branches = [client_pb2.BranchRequest(participant=name, operations=operations) for name in names]
    return client_pb2.RunRequest(number=number, branches=branches, timeout_ms=1000, **fields)


def question(transaction_id: str, first_attempt_ms: int = WALL_MS) -> client_pb2.GetRequest:
    return client_pb2.GetRequest(transaction_id=transaction_id, participants=["h"], first_attempt_ms=first_attempt_ms)


@pytest.mark.parametrize("what", FLOODS)
def test_floods_are_bounded(driver: Driver, what: str) -> None:
    flood(driver, FLOODS[what])
    check_bounds(driver)


def test_an_endless_list_ends_the_stream(driver: Driver) -> None:
    driver.step(events.HelloReceived("i", 9, participant_pb2.Hello(log_id="i", incarnation=1)))
    driver.sync()
    driver.out.clear()
    flood(driver, FLOODS["a list without an end"], LIMITS.reports_max)
    driver.step(FLOODS["a list without an end"](0))
    (rejected,) = driver.take(effects.Rejected)
    assert rejected.cause.reason == "OVERLOADED"
    assert (driver.book.participants["i"].stream, len(driver.book.participants["i"].reports)) == (0, 0)


def test_what_a_list_brings_is_bounded_in_bytes(driver: Driver) -> None:
    """Results are left out first; the branches themselves end the stream, and leave nothing behind."""
    driver.connect("i", 9, complete=False)
    driver.run(1, "ha")
    driver.lose("h")
    driver.connect("h", 10, complete=False)
    heavy = {"state": participant_pb2.BRANCH_STATE_PREPARED, "results": b"x" * 990, "detail": "d" * 990}
    listed = [participant_pb2.BranchReport(transaction_id=f"{EARLIER}.{number}", **heavy) for number in range(240)]
    driver.step(events.ReportsReceived("i", 9, listed[:100], False))
    person = driver.book.participants["i"]
    assert LIMITS.reports_bytes_max // 2 < person.report_bytes < LIMITS.reports_bytes_max
    assert [len(report.results) for report in person.reports.values()] == [990] * 20 + [0] * 80
    driver.step(events.ReportsReceived("h", 10, [participant_pb2.BranchReport(transaction_id=driver.id(1), **heavy)], True))
    driver.vote("a", 1)
    driver.sync()
    (answer,) = driver.answers()
    assert (answer.outcome, answer.results_available) == (common_pb2.OUTCOME_COMMITTED, False)
    driver.step(events.ReportsReceived("i", 9, listed[100:], False))
    (rejected,) = driver.take(effects.Rejected)
    assert (rejected.stream, rejected.cause.reason) == (9, "OVERLOADED")
    assert (person.stream, person.report_bytes, len(person.reports)) == (0, 0, 0)


def test_who_does_not_acknowledge_answers_stops_itself_and_nobody_else(driver: Driver) -> None:
    for number in range(1, 200):
        driver.step(events.Run(HOSTILE, run_of(number, "n" * 3000)))
    book, hostile = driver.book, driver.book.sessions[HOSTILE]
    assert hostile.unseen_bytes * len(book.sessions) > LIMITS.unseen_bytes_max // 2
    assert book.unseen_bytes <= LIMITS.unseen_bytes_max + 1_000
    driver.out.clear()
    driver.step(events.Run(HOSTILE, run_of(1_000, "a")))
    assert [one.cause.reason for one in driver.answers()] == ["OVERLOADED"]
    driver.complete(1, "ab")
    assert "1 COMMITTED" in driver.outcomes()
    driver.step(events.AnswersSeen(HOSTILE, 10**9))
    assert (hostile.unseen_bytes, book.unseen_bytes) == (0, sum(one.unseen_bytes for one in book.sessions.values()))


def test_what_is_kept_of_a_refusal_is_cut(driver: Driver) -> None:
    cause = common_pb2.Cause(reason="R" * 10**5, code="C" * 10**5, message="M" * 10**6, participant="somebody else")
    driver.run(1, "ha")
    driver.say("h", participant_pb2.Vote(transaction_id=driver.id(1), kind=participant_pb2.VOTE_KIND_NO, cause=cause))
    (answer,) = driver.answers()
    assert len(answer.cause.message) == TEXT_CHARACTERS_MAX
    assert len(answer.cause.code) == len(answer.cause.reason) == CODE_CHARACTERS_MAX
    assert answer.cause.participant == "h"
    driver.begin(2)
    strangers = [client_pb2.AcknowledgedOperations(participant=f"stranger{n}", count=1) for n in range(10_000)]
    driver.step(events.Commit(driver.session, client_pb2.CommitRequest(number=2, acknowledged=strangers)))
    (answer,) = driver.answers()
    assert (answer.outcome, answer.cause.reason) == (common_pb2.OUTCOME_ABORTED, "OPERATION_COUNT")
    assert answer.ByteSize() < 3000


def test_results_over_the_limit_abort_what_is_not_committed(driver: Driver) -> None:
    for number, kind in enumerate(("YES", "READ_ONLY"), 1):
        driver.run(number, "ha")
        driver.sent()
        driver.vote("h", number, kind, results=b"x" * 1001)
        assert driver.outcomes() == [f"{number} ABORTED PAYLOAD_TOO_LARGE"]
        assert set(driver.sent()) == {"h.ABORT", "a.ABORT"}


def test_arguments_are_bounded_in_bytes_over_all_that_is_open(driver: Driver) -> None:
    for number in range(1, 60):
        driver.step(events.Run(driver.session, run_of(number, "ha")))
    answers = driver.answers()
    assert {answer.cause.reason for answer in answers} == {"OVERLOADED"}
    assert len(answers) == 59 - len(driver.book.live)
    assert driver.book.open_bytes <= LIMITS.open_bytes_max < driver.book.open_bytes + 2 * (500 + len("work") + OPERATION_BYTES)
    driver.wait(120.0)
    assert driver.book.open_bytes == 0


@pytest.mark.parametrize("kind", ["YES", "READ_ONLY"])
def test_votes_that_are_held_back_are_bounded_in_bytes(driver: Driver, kind: str) -> None:
    for number in range(1, 101):
        driver.run(number, "ha")
        driver.vote("h", number, kind, results=b"x" * 1000)
    assert driver.book.open_bytes <= LIMITS.open_bytes_max
    answers = driver.answers()
    assert answers and {(one.outcome, one.cause.reason, one.cause.retryable) for one in answers} == {
        (common_pb2.OUTCOME_ABORTED, "OVERLOADED", True)
    }
    assert "h.ABORT" in driver.sent() or kind == "READ_ONLY"
    driver.vote("a", 1)
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED"]


def test_results_over_the_limit_do_not_undo_a_commit(driver: Driver) -> None:
    driver.run(1, "h")
    driver.vote("h", 1, "COMMITTED", results=b"x" * 1001)
    (answer,) = driver.answers()
    assert (answer.outcome, answer.results_available, len(answer.results)) == (common_pb2.OUTCOME_COMMITTED, False, 0)


def test_results_that_nobody_acknowledges_are_kept_as_far_as_there_is_room(driver: Driver, monkeypatch: Any) -> None:
    monkeypatch.setattr(driver.book, "settings", replace(LIMITS, unseen_bytes_max=1500))
    for number in (1, 2):
        driver.run(number, "h")
        driver.vote("h", number, "COMMITTED", results=b"x" * 1000)
    assert [len(answer.results) for answer in driver.answers()] == [1, 1]
    driver.step(events.SessionOpened(driver.session))
    kept = driver.answers()
    assert [(len(answer.results), answer.results_available) for answer in kept] == [(1, True), (0, False)]
    driver.step(events.AnswersSeen(driver.session, 3))
    assert driver.book.unseen_bytes == 0


def test_a_question_of_the_future_does_not_move_the_horizon(driver: Driver) -> None:
    driver.get(f"{EARLIER}.1", "h", first_attempt_ms=2**62)
    assert driver.got() == ["0 IN_DOUBT CLOCK_SKEW"]
    driver.get(f"{EARLIER}.1", "abch" * 100, first_attempt_ms=WALL_MS)
    assert driver.got() == ["0 IN_DOUBT TOO_MANY_PARTICIPANTS"]


def test_a_number_of_a_session_to_come_cannot_be_used_up(driver: Driver) -> None:
    to_come = "c1.1.0123abcd.3"
    driver.get(f"{to_come}.1", "h", first_attempt_ms=WALL_MS)
    assert driver.got() == ["0 IN_DOUBT UNKNOWN_TRANSACTION"]
    committed = participant_pb2.BranchReport(transaction_id=f"{to_come}.1", state=participant_pb2.BRANCH_STATE_COMMITTED)
    flood(driver, lambda n: events.ReportsReceived("h", 8, [committed], False), 1)
    hazard = participant_pb2.Acknowledgement(transaction_id=f"{to_come}.1", kind=HAZARD)
    flood(driver, lambda n: said(hazard), 1)
    driver.step(events.SessionOpened(to_come))
    driver.step(events.Run(to_come, run_of(1, "a")))
    driver.say("a", participant_pb2.Vote(transaction_id=f"{to_come}.1", kind=participant_pb2.VOTE_KIND_COMMITTED))
    assert driver.outcomes() == ["1 COMMITTED"]


def test_who_had_no_branch_cannot_contradict(driver: Driver) -> None:
    driver.complete(1, "ab")
    driver.acknowledge("h", 1, "HAZARD")
    with pytest.raises(ProtocolError, match="had no branch"):
        driver.acknowledge("h", 1, "FORCED_ABORT")
    driver.sync()
    driver.out.clear()
    driver.get(driver.id(1))
    assert driver.got() == ["0 COMMITTED"]


@pytest.mark.parametrize("cleaned", [False, True])
def test_a_late_contradiction_survives_a_restart_with_its_key(driver: Driver, cleaned: bool) -> None:
    driver.run(1, "ab", key="key")
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    for name in "ab":
        driver.acknowledge(name, 1)
    driver.sync()
    driver.acknowledge("b", 1, "FORCED_ABORT")
    driver.sync()
    log = driver.log
    if cleaned:
        log = [record.SerializeToString() for record in driver.core.live_records(driver.id(1))]
    after = Driver(LIMITS, records=log)
    assert [report.participant for report in after.book.live[driver.id(1)].heuristic] == ["b"]
    after.get(driver.id(1))
    assert after.got() == ["0 MIXED"]
    assert after.book.keys["key"].transaction_id == driver.id(1)


def test_participants_of_a_committed_transaction_survive_cleaning(driver: Driver) -> None:
    driver.run(1, "ab", key="key")
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    for name in "ab":
        driver.acknowledge(name, 1)
    driver.sync()
    after = Driver(LIMITS, records=[record.SerializeToString() for record in driver.core.live_records(driver.id(1))])
    assert after.book.finished[driver.id(1)].participants == ("a", "b")
    assert after.book.keys["key"].transaction_id == driver.id(1)


def test_one_bad_report_does_not_hide_the_good_ones(driver: Driver) -> None:
    driver.run(1, "ha")
    driver.lose("h")
    reports = [
        participant_pb2.BranchReport(transaction_id="no id", state=participant_pb2.BRANCH_STATE_PREPARED),
        participant_pb2.BranchReport(transaction_id=driver.id(1), state=participant_pb2.BRANCH_STATE_PREPARED),
    ]
    driver.vote("a", 1)
    driver.connect("h", 10, reports=reports)
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED"]
    assert driver.book.counters.reports_refused == 1
