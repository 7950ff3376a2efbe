"""Deciding, not knowing, and keys (rules 1 to 12), each rule as the interleaving that it is there for."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.v1 import admin_pb2, common_pb2, participant_pb2

# ---- deciding (rules 1 to 4)


def test_no_commit_is_spoken_before_its_record_is_durable() -> None:
    driver = Driver()
    driver.run(1, "ab")
    assert driver.sent() == ["a.prepares", "b.prepares"]
    driver.vote("a", 1)
    driver.vote("b", 1)
    assert driver.sent() == [] and driver.outcomes() == []
    driver.sync()
    assert driver.sent() == ["a.COMMIT", "b.COMMIT"] and driver.outcomes() == ["1 COMMITTED"]


def test_a_no_aborts_everybody_else_and_names_its_participant() -> None:
    driver = Driver()
    driver.run(1, "abc")
    driver.vote("a", 1)
    driver.sent()
    driver.vote("b", 1, "NO")
    assert driver.sent() == ["a.ABORT", "c.ABORT"]
    (answer,) = driver.answers()
    assert (answer.cause.participant, answer.cause.code, answer.cause.reason) == ("b", "NO_FUNDS", "REFUSED")
    assert driver.forced == 0 and driver.kinds() == ["epoch_started"] * 2 + ["participant_bound"] * 3


def test_the_timer_loses_against_a_decision_that_is_not_durable_yet() -> None:
    driver = Driver()
    driver.run(1, "ab", timeout_ms=1000)
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.wait(5.0)
    assert driver.outcomes() == []
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED"]


def test_the_timer_wins_against_a_vote_that_comes_after_it() -> None:
    driver = Driver()
    driver.run(1, "ab", timeout_ms=1000)
    driver.vote("a", 1)
    driver.wait(1.2)
    assert driver.outcomes() == ["1 ABORTED TIMEOUT"]
    driver.sent()
    driver.vote("b", 1)
    assert driver.sent() == ["b.ABORT"], "a YES for a transaction that is over is answered like a question"


def test_handing_over_gives_the_decision_away() -> None:
    driver = Driver()
    driver.run(1, "a", timeout_ms=1000)
    driver.abort(1)
    assert driver.outcomes() == []
    driver.sent()
    driver.wait(3.0)
    assert set(driver.sent()) == {"a.settles"}, "the timer asks; it does not decide"
    driver.vote("a", 1, "COMMITTED")
    assert set(driver.outcomes()) >= {"1 COMMITTED"} or driver.book.finished[driver.id(1)].outcome == 1


def test_enlisting_closes_when_the_commit_begins() -> None:
    driver = Driver()
    driver.begin(1)
    driver.enlist("a", 1)
    driver.enlist("b", 1)
    driver.commit(1, a=1, b=1)
    driver.out.clear()
    driver.enlist("c", 1)
    (refused,) = driver.take(effects.Send)
    assert refused.message.refusal.reason == "ENLIST_CLOSED"


def test_a_second_incarnation_aborts_an_unprepared_branch() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.lose("a")
    driver.connect("a", 9, incarnation=2)
    driver.sync()
    assert driver.outcomes() == ["1 ABORTED PARTICIPANT_RESTARTED"]


def test_a_prepared_branch_is_inherited_by_the_next_incarnation() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("b", 1)
    driver.lose("a")
    report = participant_pb2.BranchReport(transaction_id=driver.id(1), state=participant_pb2.BRANCH_STATE_PREPARED)
    driver.connect("a", 9, incarnation=2, reports=[report])
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED"], "PREPARED in a Hello counts as the YES that was lost"


def test_a_call_that_the_coordinator_does_not_know_of_aborts() -> None:
    driver = Driver()
    driver.begin(1)
    driver.enlist("a", 1)
    driver.commit(1, a=1, b=1)
    assert driver.outcomes() == ["1 ABORTED OPERATION_COUNT"]


# ---- not knowing (rules 6 to 9)


def test_absence_means_abort_to_a_prepared_participant() -> None:
    driver = Driver()
    old = "c1.1.0123abcd.7.1"
    driver.say("a", participant_pb2.Inquiry(transaction_id=old, state=participant_pb2.BRANCH_STATE_PREPARED))
    assert driver.sent() == ["a.ABORT"]


def test_a_live_transaction_is_not_absent() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.sent()
    driver.say("a", participant_pb2.Inquiry(transaction_id=driver.id(1), state=participant_pb2.BRANCH_STATE_PREPARED))
    assert driver.sent() == []


@pytest.mark.parametrize("foreign", ["c2.1.0123abcd.1.1", "c1.9.0123abcd.1.1", "c1.1.ffffffff.1.1"])
def test_nothing_is_presumed_of_another_coordinators_transactions(foreign: str) -> None:
    driver = Driver()
    driver.say("a", participant_pb2.Inquiry(transaction_id=foreign, state=participant_pb2.BRANCH_STATE_PREPARED))
    assert driver.sent() == [] and list(driver.book.participants["a"].stranded) == [foreign]


def test_a_client_gets_no_abort_from_absence() -> None:
    driver = Driver()
    driver.get("c1.1.0123abcd.99.1")
    assert driver.got() == ["0 IN_DOUBT UNKNOWN_TRANSACTION"]


def test_an_unknown_transaction_is_settled_at_the_participants_that_the_client_names() -> None:
    first = Driver()
    first.run(1, "ab")
    driver = Driver(records=first.log)
    driver.get(first.id(1), "ab", WALL_MS)
    assert driver.sent() == ["a.settles", "b.settles"] and driver.got() == []
    driver.settle("a", first.id(1), "ROLLED_BACK")
    assert driver.got() == []
    driver.settle("b", first.id(1), "ROLLED_BACK")
    assert driver.got() == ["0 ABORTED COORDINATOR_RESTARTED"]


def test_a_settlement_finds_the_one_phase_commit_that_was_never_answered() -> None:
    first = Driver()
    first.run(1, "a")
    driver = Driver(records=first.log)
    driver.get(first.id(1), "a", WALL_MS)
    driver.settle("a", first.id(1), "COMMITTED")
    assert driver.got() == ["0 COMMITTED"]
    driver.sync()
    assert driver.kinds()[-1] == "ended", "the log knows of it before the participant may forget"


def test_an_older_log_under_the_same_name_is_refused_until_an_operator_replaces_it() -> None:
    driver = Driver()
    driver.connect("a", 9, log_id="another")
    (rejected,) = driver.take(effects.Rejected)
    assert rejected.cause.reason == "FOREIGN_LOG"
    driver.lose("a")
    request = admin_pb2.ReplaceParticipantRequest(participant="a", log_id="another", who="ann", why="the disk burnt")
    driver.step(events.Administer("t", request))
    assert driver.take(effects.Administered) == [], "the operator is answered when it is durable"
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    assert not answer.response.HasField("refusal")
    driver.connect("a", 10, log_id="another")
    assert driver.take(effects.Welcomed)


def test_an_earlier_incarnation_is_fenced() -> None:
    driver = Driver()
    driver.connect("a", 9, incarnation=3)
    driver.out.clear()
    driver.connect("a", 10, incarnation=2)
    (rejected,) = driver.take(effects.Rejected)
    assert rejected.cause.reason == "STALE_INCARNATION" and rejected.stream == 10


def test_frames_of_a_superseded_stream_are_dropped() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.connect("a", 9)
    yes = participant_pb2.Vote(transaction_id=driver.id(1), kind=participant_pb2.VOTE_KIND_YES)
    driver.step(events.FromParticipant("a", 1, yes))
    assert driver.txn(1).missing == 2


# ---- keys (rules 10 to 12)


def test_a_retry_joins_what_runs_and_is_told_the_committed_outcome_afterwards() -> None:
    driver = Driver()
    driver.run(1, "ab", key="k")
    driver.run(2, "ab", key="k")
    assert driver.sent() == ["a.prepares", "b.prepares"]
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED", "2 COMMITTED"]
    driver.run(3, "ab", key="k")
    (answer,) = driver.answers()
    assert (answer.number, answer.transaction_id, answer.replayed) == (3, driver.id(1), True)


def test_the_same_key_with_another_body_is_refused() -> None:
    driver = Driver()
    driver.run(1, "ab", key="k")
    driver.run(2, "ac", key="k")
    assert driver.outcomes() == ["2 ABORTED KEY_REUSED"]


def test_a_key_is_free_again_after_an_abort() -> None:
    driver = Driver()
    driver.run(1, "ab", key="k")
    driver.vote("a", 1, "NO")
    driver.sent()
    driver.run(2, "ab", key="k")
    assert driver.sent() == ["a.prepares", "b.prepares"]


def test_a_key_survives_a_restart_with_its_outcome() -> None:
    first = Driver()
    first.run(1, "ab", key="k")
    first.vote("a", 1)
    first.vote("b", 1)
    first.sync()
    driver = Driver(records=first.log)
    driver.run(1, "ab", key="k")
    (answer,) = driver.answers()
    assert answer.transaction_id == first.id(1) and answer.outcome == common_pb2.OUTCOME_COMMITTED
    assert not answer.results_available, "results are not logged"


def test_a_keyed_retry_after_a_crash_asks_the_participant_before_it_runs_again() -> None:
    first = Driver()
    first.run(1, "a", key="k")
    first.sync()
    driver = Driver(records=first.log)
    driver.out.clear()
    driver.run(1, "a", key="k")
    assert driver.sent() == []
    driver.wait(2.0)
    driver.sent()
    driver.settle("a", first.id(1), "ROLLED_BACK")
    driver.sync()
    assert driver.sent() == ["a.prepares"], "rolled back for certain: it runs again"


def test_an_interactive_begin_takes_the_key_from_an_undecided_holder() -> None:
    driver = Driver()
    driver.begin(1, key="k")
    driver.begin(2, key="k")
    first, second = driver.take(effects.Begun)
    assert not first.response.HasField("holder") and not second.response.HasField("holder")
    assert driver.id(1) not in driver.book.live and driver.id(2) in driver.book.live


def test_an_old_first_attempt_is_expired_and_a_future_one_is_skewed() -> None:
    driver = Driver()
    driver.run(1, "ab", key="k", first_attempt_ms=WALL_MS - 4_000_000)
    driver.run(2, "ab", key="k", first_attempt_ms=WALL_MS + 400_000)
    assert driver.outcomes() == ["1 ABORTED EXPIRED", "2 ABORTED CLOCK_SKEW"]
