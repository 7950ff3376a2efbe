"""What clients say that is unusual: sessions that are gone, numbers and keys, questions that cannot be answered."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events, finishing
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.v1 import client_pb2, common_pb2, participant_pb2

OLD = "c1.0.0123abcd.1.9"


def unary(driver: Driver) -> str:
    """The session of unary calls."""
    return driver.core.unary_session


def committed(driver: Driver, number: int, **fields: object) -> None:
    """One transaction from beginning to end."""
    driver.run(number, "ab", **fields)
    for name in "ab":
        driver.vote(name, number, results=b"1234")
    driver.sync()
    for name in "ab":
        driver.acknowledge(name, number)
    driver.sync()


# ---- sessions


def test_a_session_that_is_gone_is_not_heard() -> None:
    driver = Driver()
    gone = "c1.1.0123abcd.77"
    driver.step(events.SessionLost(gone))
    driver.step(events.AnswersSeen(gone, 5))
    driver.step(events.Run(gone, driver.request(1, "ab")))
    driver.step(events.Begin(gone, client_pb2.BeginRequest(number=1, timeout_ms=1000)))
    driver.step(events.Commit(gone, client_pb2.CommitRequest(number=1)))
    assert driver.out == [] and not driver.book.live


def test_answers_far_below_are_dropped_at_one_go() -> None:
    driver = Driver()
    for number in (1, 2):
        driver.run(number, "ab")
        driver.vote("a", number, "NO")
    driver.step(events.AnswersSeen(driver.session, 1_000_000_000))
    assert not driver.book.sessions[driver.session].answers


def test_answers_of_unary_calls_are_not_kept() -> None:
    driver = Driver()
    driver.step(events.SessionOpened(unary(driver)))
    driver.step(events.Run(unary(driver), driver.request(0, "ab")))
    driver.step(events.Run(unary(driver), driver.request(1, "ab", timeout_ms=1000)))
    driver.wait(1.5)
    assert driver.outcomes() == ["0 ABORTED INVALID_ARGUMENT", "1 ABORTED TIMEOUT"]
    assert not driver.book.sessions[unary(driver)].answers
    driver.step(events.Commit(unary(driver), client_pb2.CommitRequest(number=1)))
    assert driver.outcomes() == ["1 ABORTED TIMEOUT"], "the outcome is retained all the same"


def test_what_a_lost_client_runs_is_answered_to_nobody() -> None:
    driver = Driver()
    driver.run(1, "ab", timeout_ms=60_000)
    driver.run(2, "ab")
    driver.vote("a", 2, "NO")
    driver.step(events.SessionLost(driver.session))
    driver.wait(11.0)
    driver.out.clear()
    driver.vote("a", 1, "NO")
    assert driver.outcomes() == []


def test_a_client_that_acknowledges_nothing_is_refused() -> None:
    driver = Driver(CoreSettings(unseen_answers_max=1))
    driver.run(1, "ab")
    driver.run(2, "ab")
    driver.begin(3)
    driver.commit(4)
    assert driver.outcomes() == ["2 ABORTED OVERLOADED", "4 IN_DOUBT OVERLOADED"]
    (begun,) = driver.take(effects.Begun)
    assert begun.response.refusal.reason == "OVERLOADED" and not begun.response.transaction_id


def test_results_are_kept_for_clients_only_as_far_as_there_is_room() -> None:
    driver = Driver(CoreSettings(unseen_bytes_max=80))
    committed(driver, 1)
    committed(driver, 2)
    assert [len(answer.results) for answer in driver.answers()] == [2, 2], "told once in full"
    driver.step(events.SessionOpened(driver.session))
    assert [len(answer.results) for answer in driver.answers()] == [2, 0], "the outcome is owed for ever, its results are not"


def test_results_are_kept_for_retries_only_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "RESULT_BYTES_MAX", 10)
    driver = Driver()
    committed(driver, 1, key="k")
    committed(driver, 2, key="m")
    driver.answers()
    driver.run(3, "ab", key="k")
    driver.run(4, "ab", key="m")
    assert [answer.results_available for answer in driver.answers()] == [True, False]


# ---- requests


@pytest.mark.parametrize("number", [0, 10**19])
def test_a_number_out_of_range_is_refused(number: int) -> None:
    driver = Driver()
    driver.step(events.Run(driver.session, client_pb2.RunRequest(number=number, timeout_ms=1000)))
    (answer,) = driver.answers()
    assert answer.cause.reason == "INVALID_ARGUMENT" and "number" in answer.cause.message


def test_a_participant_is_asked_only_for_what_it_offers() -> None:
    driver = Driver()
    driver.book.participants["a"].operations = frozenset({"debit"})
    driver.run(1, "ab")
    request = client_pb2.RunRequest(number=2, timeout_ms=1000)
    request.branches.add(participant="a")
    driver.step(events.Run(driver.session, request))
    assert driver.outcomes() == ["1 ABORTED UNKNOWN_OPERATION", "2 ABORTED INVALID_ARGUMENT"]


def test_a_branch_has_only_so_many_operations() -> None:
    driver = Driver(CoreSettings(operations_max=1))
    request = client_pb2.RunRequest(number=1, timeout_ms=1000)
    request.branches.add(participant="a", operations=[common_pb2.Operation(name="work")] * 2)
    driver.step(events.Run(driver.session, request))
    assert driver.outcomes() == ["1 ABORTED TOO_MANY_OPERATIONS"]


def test_a_request_needs_its_participants_connected() -> None:
    driver = Driver()
    driver.lose("b")
    driver.run(1, "ab")
    assert driver.outcomes() == ["1 ABORTED PARTICIPANT_AWAY"]


@pytest.mark.parametrize("held", [True, False])
def test_read_locks_are_held_when_the_client_asks_for_it(held: bool) -> None:
    driver = Driver()
    driver.run(1, "ab", hold_read_locks=held)
    assert [effect.message.hold_read_locks for effect in driver.take(effects.Send)] == [held] * 2


def test_events_of_one_turn_share_a_reading_of_the_clocks() -> None:
    driver = Driver()
    now = driver.instant()
    for number in (1, 2):
        driver.core.step(events.Run(driver.session, driver.request(number, "ab")), now)
    assert driver.core.open_transactions() == 2 and driver.book.now is now


@pytest.mark.parametrize("length, travels", [(55, True), (2000, False)])
def test_a_trace_travels_unless_it_is_too_long(length: int, travels: bool) -> None:
    driver = Driver()
    driver.run(1, "ab", trace=common_pb2.TraceContext(traceparent="x" * length))
    assert [effect.message.HasField("trace") for effect in driver.take(effects.Send)] == [travels] * 2


@pytest.mark.parametrize("traceparent", ["00-1-2-01", ""])
def test_a_trace_is_written_down_with_the_decision_and_in_the_votes_and_is_known_after_a_crash(traceparent: str) -> None:
    driver = Driver()
    driver.run(1, "ab", trace=common_pb2.TraceContext(traceparent=traceparent) if traceparent else None)
    peers = [participant_pb2.Peers.FromString(sent.message.peers) for sent in driver.take(effects.Send)]
    assert [one.traceparent for one in peers] == [traceparent] * 2
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    transaction_id = driver.id(1)
    trace = Driver(records=driver.log, nonce="0badf00d", connect=False).book.live[transaction_id].trace
    assert (trace.traceparent if trace is not None else "") == traceparent


def test_only_so_many_keys_are_kept() -> None:
    driver = Driver(CoreSettings(keys_max=1))
    driver.run(1, "ab", key="k")
    driver.run(2, "ab", key="m")
    assert driver.outcomes() == ["2 ABORTED OVERLOADED"] and driver.core.counters.as_dict()["overloaded"] == 1


def test_a_commit_without_any_work_is_committed() -> None:
    driver = Driver()
    driver.begin(1)
    driver.commit(1)
    assert driver.outcomes() == ["1 COMMITTED"] and not driver.waiting
    assert "COMMITTED" not in repr(driver.book.live)


# ---- keys


def test_a_begin_is_told_the_outcome_of_a_decided_holder() -> None:
    driver = Driver()
    driver.begin(1, key="k")
    driver.enlist("a", 1)
    driver.enlist("b", 1)
    driver.commit(1, a=1, b=1)
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    driver.begin(2, key="k")
    holder = driver.take(effects.Begun)[-1].response.holder
    assert (holder.transaction_id, holder.outcome, holder.number) == (driver.id(1), common_pb2.OUTCOME_COMMITTED, 2)
    assert repr(driver.txn(1)) == f"<{driver.id(1)} COMMITTING>"


def test_a_run_that_joined_cannot_end_the_holder() -> None:
    driver = Driver()
    driver.run(1, "ab", key="k")
    driver.run(2, "ab", key="k")
    driver.abort(2)
    assert driver.outcomes() == [] and driver.txn(1).state.name == "PREPARING"


def test_a_key_that_somebody_else_holds_by_now_is_not_freed_by_eviction() -> None:
    driver = Driver(CoreSettings(retention_seconds=10.0, skew_seconds=1.0))
    driver.run(1, "ab", key="k")
    driver.vote("a", 1, "NO")
    driver.run(2, "ab", key="k", timeout_ms=60_000)
    driver.wait(13.0)
    driver.sync()
    assert driver.id(1) not in driver.book.finished and driver.book.keys["k"].transaction_id == driver.id(2)


def test_what_is_over_is_dropped_in_several_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "EVICT_MAX", 1)
    driver = Driver(CoreSettings(retained_transactions_max=0))
    for number in (1, 2):
        committed(driver, number)
    driver.wait(1.1)
    driver.wait(1.1)
    assert len(driver.book.finished) == 2, "the horizon is on its way"
    driver.sync()
    assert not driver.book.finished and driver.kinds()[-2:] == ["horizon", "horizon"]


# ---- ending


def test_what_never_began_is_aborted_by_its_client_and_unknown_to_a_commit() -> None:
    driver = Driver()
    driver.commit(1)
    driver.abort(1)
    driver.begin(1)
    driver.abort(1)
    assert driver.outcomes() == ["1 IN_DOUBT UNKNOWN_TRANSACTION"] + ["1 ABORTED CLIENT_ABORT"] * 3
    assert not driver.book.live, "its number is used"


# ---- asking


@pytest.mark.parametrize(
    "transaction_id, names, ahead_ms, reason",
    [
        ("nonsense", "a", 0, "INVALID_TRANSACTION_ID"),
        ("c2.1.0123abcd.1.1", "a", 0, "UNKNOWN_TRANSACTION"),
        ("c1.9.0123abcd.1.1", "a", 0, "UNKNOWN_TRANSACTION"),
        ("c1.1.0123abcd.9.1", "a", 0, "UNKNOWN_TRANSACTION"),
        ("c1.1.0123abcd.1.9", "a", 0, "UNKNOWN_TRANSACTION"),
        ("c1.1.ffffffff.1.1", "a", 0, "UNKNOWN_TRANSACTION"),
        (OLD, "az", 0, "UNKNOWN_PARTICIPANT"),
        (OLD, "abc", 0, "TOO_MANY_PARTICIPANTS"),
        (OLD, "a", 400_000, "CLOCK_SKEW"),
    ],
)
def test_a_question_that_cannot_be_settled_is_in_doubt(transaction_id: str, names: str, ahead_ms: int, reason: str) -> None:
    driver = Driver(CoreSettings(participants_max=2))
    driver.get(transaction_id, names, WALL_MS + ahead_ms)
    assert driver.got() == [f"0 IN_DOUBT {reason}"] and driver.sent() == []


def test_questions_have_room_of_their_own() -> None:
    driver = Driver(CoreSettings(open_transactions_max=1, questions_max=1))
    driver.get(OLD, "a", WALL_MS)
    driver.get(OLD + "1", "a", WALL_MS)
    assert driver.got() == ["0 IN_DOUBT OVERLOADED"]
    driver.run(1, "ab")
    assert driver.txn(1).state.name == "PREPARING", "questions take no room from work"
    driver.settle("a", OLD, "ROLLED_BACK")
    driver.got()
    driver.get(OLD + "1", "a", WALL_MS)
    assert driver.got() == [], "nor work from questions"


def test_what_is_open_is_told_as_it_stands() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.get(driver.id(1))
    assert driver.got() == ["0 IN_DOUBT"]


# ---- whose affair it is


@pytest.mark.parametrize(
    ("who", "reason", "participant"),
    [("az", "UNKNOWN_PARTICIPANT", "z"), ("ac", "PARTICIPANT_AWAY", "c")],
)
def test_a_refusal_names_the_participant(who: str, reason: str, participant: str) -> None:
    driver = Driver()
    driver.lose("c") if "c" in who else None
    driver.run(1, who)
    (answer,) = driver.answers()
    assert (answer.cause.reason, answer.cause.participant) == (reason, participant)


def test_a_timeout_names_the_one_that_was_waited_for() -> None:
    driver = Driver()
    driver.run(1, "ab", timeout_ms=1000)
    driver.vote("a", 1)
    driver.run(2, "ab", timeout_ms=1000)
    driver.wait(1.5)
    assert {answer.number: answer.cause.participant for answer in driver.answers()} == {1: "b", 2: ""}


def test_an_interactive_commit_says_that_its_results_are_not_here() -> None:
    driver = Driver()
    driver.begin(1, key="k", first_attempt_ms=WALL_MS)
    driver.commit(1)
    (answer,) = driver.answers()
    assert answer.outcome == common_pb2.OUTCOME_COMMITTED and not answer.results_available
    driver.take(effects.Begun)
    driver.begin(2, key="k", first_attempt_ms=WALL_MS)
    (begun,) = driver.take(effects.Begun)
    assert begun.response.holder.replayed and not begun.response.holder.results_available


# ---- how many operations were acknowledged


@pytest.mark.parametrize(("counts", "told"), [([1, 2, 3], 6), ([0, 0], 0), ([2**32 - 1] * 3, 2**32 - 1)])
def test_acknowledged_operations_of_one_participant_are_added_up(counts: list[int], told: int) -> None:
    driver = Driver()
    driver.begin(1)
    driver.enlist("a", 1)
    driver.enlist("b", 1)
    driver.out.clear()
    request = client_pb2.CommitRequest(number=1)
    for count in counts:
        request.acknowledged.add(participant="a", count=count)
    driver.step(events.Commit(driver.session, request))
    prepares = {effect.participant: effect.message for effect in driver.take(effects.Send) if effect.field == "prepares"}
    assert {name: prepare.operation_count for name, prepare in prepares.items()} == {"a": told, "b": 0}
