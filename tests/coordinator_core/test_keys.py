"""What is asked under a key is answered under the key, whoever asks, and whatever else is wrong with the request."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.keys import HASH_VERSION, body_hash, first_body_hash
from troth.v1 import admin_pb2, client_pb2, common_pb2, record_pb2

RARE = CoreSettings(resend_first_seconds=20.0)


def ask(driver: Driver, number: int, names: str = "ab", key: str = "k", body: bytes | None = None) -> None:
    """The client asks what became of a number that it asked for with a key."""
    request = client_pb2.GetRequest(
        transaction_id=driver.id(number), participants=names, first_attempt_ms=WALL_MS, key=key,
        body_hash=body_hash(driver.request(number, names).branches) if body is None else body,
    )  # fmt: skip
    driver.step(events.Get("ticket", request))


def told(driver: Driver) -> list[tuple[str, str]]:
    """What questions were answered: the outcome, and of which transaction."""
    answers = [effect.answer for effect in driver.take(effects.Got)]
    return [(common_pb2.Outcome.Name(one.outcome).removeprefix("OUTCOME_"), one.transaction_id) for one in answers]


def committed(settings: CoreSettings | None = None) -> Driver:
    """Transaction 1 has committed under the key k."""
    driver = Driver(settings)
    driver.run(1, "ab", key="k")
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED"]
    return driver


# ---- the question


def test_a_retry_that_joined_is_told_of_the_key_and_not_of_its_own_id() -> None:
    driver = committed()
    driver.run(2, "ab", key="k")
    restarted = Driver(records=driver.log, nonce="0123abce")
    request = client_pb2.GetRequest(transaction_id=driver.id(2), participants="ab", first_attempt_ms=WALL_MS, key="k")
    restarted.step(events.Get("ticket", request))
    assert told(restarted) == [("COMMITTED", driver.id(1))]
    for name in "ab":
        restarted.acknowledge(name, 1)
    restarted.sync()
    restarted.step(events.Get("ticket", request))
    assert told(restarted) == [("COMMITTED", driver.id(1))]


def test_a_holder_that_is_being_decided_is_in_doubt() -> None:
    driver = Driver()
    driver.run(1, "ab", key="k")
    driver.run(2, "ab", key="k")
    ask(driver, 2)
    assert told(driver) == [("IN_DOUBT", driver.id(1))]


def test_a_question_waits_for_the_settlement_of_the_holder() -> None:
    driver = Driver(RARE)
    driver.run(1, "a", key="k")
    driver.sync()
    driver.lose("a")
    driver.connect("a", 9)
    ask(driver, 2, "a")
    assert told(driver) == []
    driver.settle("a", driver.id(1), "COMMITTED")
    assert told(driver) == [("COMMITTED", driver.id(1))]


def test_what_is_settled_by_its_id_is_told_of_the_key_if_that_has_a_holder_by_then() -> None:
    old = "c1.0.0123abcd.1.9"
    driver = Driver(RARE)
    request = client_pb2.GetRequest(transaction_id=old, participants="c", first_attempt_ms=WALL_MS, key="k")
    driver.step(events.Get("ticket", request))
    driver.run(1, "ab", key="k")
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    driver.settle("c", old, "ROLLED_BACK")
    assert told(driver) == [("COMMITTED", driver.id(1))]


def test_without_a_holder_the_id_answers() -> None:
    old = "c1.0.0123abcd.1.9"
    driver = Driver()
    driver.step(events.Get("t", client_pb2.GetRequest(transaction_id=old, participants="a", first_attempt_ms=WALL_MS, key="k")))
    driver.settle("a", old, "ROLLED_BACK")
    assert told(driver) == [("ABORTED", old)]


def test_a_holder_with_another_body_is_not_told() -> None:
    driver = committed()
    driver.run(2, "ac", key="k")
    assert driver.outcomes() == ["2 ABORTED KEY_REUSED"]
    ask(driver, 2, "ac")
    assert told(driver) == [("ABORTED", driver.id(2))]
    ask(driver, 2, "ac", body=b"")
    assert told(driver) == [("COMMITTED", driver.id(1))]


def test_questions_past_the_limit_of_those_that_wait_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.core.keys.TICKETS_MAX", 1)
    driver = Driver(RARE)
    driver.run(1, "a", key="k")
    driver.sync()
    driver.lose("a")
    driver.connect("a", 9)
    ask(driver, 1, "a")
    ask(driver, 1, "a")
    assert told(driver) == [("IN_DOUBT", driver.id(1))]


# ---- the request, however wrong


def test_a_retry_is_told_of_the_commit_before_it_is_refused_for_anything_else() -> None:
    driver = committed(CoreSettings(resend_first_seconds=0.5))
    driver.step(events.Administer("ticket", admin_pb2.DrainRequest()))
    driver.run(2, "ab", key="k", timeout_ms=0)
    assert driver.outcomes() == ["2 COMMITTED"]
    driver.run(3, "ab", key="m")
    assert driver.outcomes() == ["3 ABORTED DRAINING"]


def test_a_begin_is_told_of_the_commit_while_the_coordinator_drains() -> None:
    driver = Driver()
    driver.begin(1, key="k")
    driver.enlist("a", 1)
    driver.commit(1, a=1)
    driver.sync()
    driver.vote("a", 1, "COMMITTED")
    driver.step(events.Administer("ticket", admin_pb2.DrainRequest()))
    driver.take(effects.Begun)
    driver.begin(2, key="k")
    driver.begin(3, key="m")
    first, second = driver.take(effects.Begun)
    assert first.response.holder.outcome == common_pb2.OUTCOME_COMMITTED
    assert second.response.refusal.reason == "DRAINING"


def test_a_begin_that_is_refused_does_not_abort_the_holder() -> None:
    driver = Driver()
    driver.begin(1, key="k")
    driver.step(events.Administer("ticket", admin_pb2.DrainRequest()))
    driver.begin(2, key="k")
    assert driver.txn(1).state.value == "ACTIVE"


def test_where_no_further_answer_can_be_kept_the_key_is_answered_all_the_same() -> None:
    driver = committed(CoreSettings(unseen_answers_max=1, resend_first_seconds=0.5))
    driver.run(2, "ab", key="k")
    driver.run(2, "ab", key="k")
    assert driver.outcomes() == ["2 COMMITTED", "2 COMMITTED"]
    assert list(driver.book.sessions[driver.session].answers) == [1]


def test_where_no_further_answer_can_be_kept_nobody_waits_for_the_holder() -> None:
    driver = Driver(CoreSettings(unseen_answers_max=1))
    driver.run(1, "ab", key="k")
    driver.run(2, "ab", key="k")
    assert driver.outcomes() == ["2 IN_DOUBT OVERLOADED"]
    driver.abort(1)
    driver.run(2, "ab", key="k")
    assert driver.outcomes() == ["1 ABORTED CLIENT_ABORT", "2 ABORTED OVERLOADED"], "what was answered does not begin"


# ---- the body


def test_the_order_of_the_participants_means_nothing() -> None:
    driver = committed()
    driver.run(2, "ba", key="k")
    assert driver.outcomes() == ["2 COMMITTED"]


def first_release(names: str) -> Driver:
    """A log in which an earlier release committed work of some participants under the key k."""
    branches = Driver().request(1, names).branches
    claim = record_pb2.KeyClaim(key="k", body_hash=first_body_hash(branches))
    decided = record_pb2.Decided(
        transaction_id="c1.1.0123abcd.1.1", participants=names, claim=claim, first_attempt_ms=WALL_MS
    )
    ended = record_pb2.Ended(transaction_id="c1.1.0123abcd.1.1", outcome=common_pb2.OUTCOME_COMMITTED)
    epoch = record_pb2.EpochStarted(coordinator="c1", epoch=1, nonce="0123abcd")
    kinds = [{"epoch_started": epoch}, {"decided": decided}, {"ended": ended}]
    records = [record_pb2.CoordinatorRecord(at_ms=WALL_MS, **kind) for kind in kinds]  # type: ignore[arg-type]  # by field name
    return Driver(records=[record.SerializeToString() for record in records])


def test_a_key_that_an_earlier_release_claimed_is_not_refused() -> None:
    driver = first_release("ba")
    driver.run(1, "ba", key="k")
    assert driver.outcomes() == ["1 COMMITTED"]
    ask(driver, 1, "ba")
    assert told(driver) == [("COMMITTED", "c1.1.0123abcd.1.1")]


def test_another_body_under_the_key_of_an_earlier_release_is() -> None:
    driver = first_release("ab")
    driver.run(1, "ac", key="k")
    assert driver.outcomes() == ["1 ABORTED KEY_REUSED"]


def test_new_claims_name_the_version_of_their_hash() -> None:
    driver = Driver()
    driver.run(1, "a", key="k")
    assert driver.txn(1).claim is not None and driver.txn(1).claim.hash_version == HASH_VERSION


# ---- those who wait for a settlement


def settling(timeout_ms: int = 3000) -> Driver:
    """Transaction 1 holds the key k and is being settled; 2 has joined it."""
    driver = Driver(RARE)
    driver.run(1, "a", key="k", timeout_ms=60_000)
    driver.sync()
    driver.lose("a")
    driver.connect("a", 9)
    driver.run(2, "a", key="k", timeout_ms=timeout_ms)
    driver.sent()
    return driver


def test_a_retry_that_waits_for_a_settlement_is_answered_when_its_own_time_has_passed() -> None:
    driver = settling()
    driver.wait(2.9)
    assert driver.outcomes() == []
    driver.wait(0.2)
    (answer,) = driver.answers()
    assert (answer.number, answer.transaction_id) == (2, driver.id(1))
    assert answer.outcome == common_pb2.OUTCOME_IN_DOUBT and answer.cause.reason == "IN_DOUBT"
    assert not driver.book.joiners and list(driver.book.sessions[driver.session].live) == [1]


def test_and_does_not_run_when_the_settlement_comes_later() -> None:
    driver = settling()
    driver.wait(4.0)
    driver.answers()
    driver.sent()
    driver.settle("a", driver.id(1), "ROLLED_BACK")
    driver.sync()
    assert driver.sent() == [] and not driver.book.live and not driver.book.keys


def test_each_retry_has_its_own_time() -> None:
    driver = settling(timeout_ms=1000)
    driver.run(3, "a", key="k", timeout_ms=2000)
    driver.wait(1.1)
    assert driver.outcomes() == ["2 IN_DOUBT IN_DOUBT"]
    driver.wait(1.0)
    assert driver.outcomes() == ["3 IN_DOUBT IN_DOUBT"]


def test_what_is_left_of_its_time_is_what_it_runs_with() -> None:
    driver = settling(timeout_ms=3000)
    driver.wait(1.0)
    driver.settle("a", driver.id(1), "ROLLED_BACK")
    driver.sync()
    (prepare,) = [effect.message for effect in driver.take(effects.Send) if effect.field == "prepares"]
    assert prepare.transaction_id == driver.id(2) and 1900 <= prepare.timeout_ms <= 2000


def test_a_session_that_ends_takes_only_its_own_retries_along() -> None:
    driver = settling(timeout_ms=60_000)
    other = driver.core.unary_session
    driver.step(events.Run(other, driver.request(1, "a", key="k", timeout_ms=60_000)))
    driver.step(events.SessionLost(driver.session))
    driver.wait(11.0)
    (waiting,) = driver.book.joiners[driver.id(1)]
    assert waiting.event.session == other


def test_an_abort_does_not_free_a_key_that_another_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two attempts that are open in the log the later one holds the key."""
    monkeypatch.setattr("tests.coordinator_core.driver.FEW", -1)  # such a log is not one that this version writes
    claim = record_pb2.KeyClaim(key="k", body_hash=body_hash(Driver().request(1, "a").branches), hash_version=HASH_VERSION)
    names = ["c1.1.0123abcd.1.1", "c1.1.0123abcd.1.2"]
    epoch = record_pb2.EpochStarted(coordinator="c1", epoch=1, nonce="0123abcd")
    records = [record_pb2.CoordinatorRecord(at_ms=WALL_MS, epoch_started=epoch)]
    for order, name in enumerate(names, 1):
        opened = record_pb2.KeyOpened(transaction_id=name, claim=claim, participant="a", order=order, first_attempt_ms=WALL_MS)
        records.append(record_pb2.CoordinatorRecord(at_ms=WALL_MS, key_opened=opened))
    driver = Driver(records=[record.SerializeToString() for record in records])
    driver.settle("a", names[0], "ROLLED_BACK")
    driver.run(1, "a", key="k", timeout_ms=1000)
    assert driver.book.keys["k"].transaction_id == names[1]
    driver.settle("a", names[1], "COMMITTED")
    assert driver.outcomes() == ["1 COMMITTED"]
