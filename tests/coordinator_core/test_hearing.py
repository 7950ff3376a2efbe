"""Before a life begins those are heard who may know that the log was put back; a start that is refused writes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events, hearing
from coordinator.core.model import Beginning
from tests.coordinator_core.driver import LOG_ID, NONCE, WALL_MS, Driver
from troth.v1 import admin_pb2, client_pb2, participant_pb2, record_pb2

LATER = "0000feed"
HEARING_SECONDS = 2.0


def hello(driver: Driver, name: str, stream: int, epoch: int = 1, nonce: str = "0123abce", log_id: str = LOG_ID) -> None:
    heard = [participant_pb2.Heard(coordinator="c1", log_id=log_id, epoch=epoch, nonce=nonce)] if epoch else []
    said = participant_pb2.Hello(participant=name, log_id=f"log-{name}", incarnation=1, heard=heard)
    driver.step(events.HelloReceived(name, stream, said))
    driver.step(events.ReportsReceived(name, stream, [], True))


def ask(driver: Driver, request: Any) -> Any:
    driver.step(events.Administer("t", request))
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    return answer.response


def log_of_a_life() -> list[bytes]:
    """A log that has bound a, b and c, and began epoch 1."""
    return Driver(nonce="0123abce").log


def started(records: list[bytes] | None = None, nonce: str = NONCE) -> Driver:
    return Driver(records=log_of_a_life() if records is None else records, nonce=nonce, connect=False, hearing=HEARING_SECONDS)


def test_a_life_begins_when_all_were_heard_whom_the_log_has_bound() -> None:
    driver = started()
    for number, name in enumerate("abc", 9):
        assert not driver.waiting and not driver.take(effects.Welcomed), "nothing is written, nothing is said"
        hello(driver, name, number)
    assert [append.owner for append in driver.waiting] == ["epoch"]
    driver.sync()
    assert {effect.participant for effect in driver.take(effects.Welcomed)} == set("abc")


def test_who_is_away_holds_nobody_up_for_longer_than_the_hearing() -> None:
    driver = started()
    hello(driver, "a", 9)
    driver.step(events.SessionOpened(driver.session))
    driver.wait(HEARING_SECONDS - 0.1)
    assert not driver.waiting
    driver.wait(0.2)
    driver.sync()
    assert [effect.participant for effect in driver.take(effects.Welcomed)] == ["a"]
    driver.run(1, "a")
    assert driver.sent()[-1] == "a.prepares"


def test_a_log_that_has_bound_nobody_has_nobody_to_hear() -> None:
    driver = Driver(connect=False, hearing=HEARING_SECONDS)
    assert driver.book.serving and driver.kinds()[-1] == "epoch_started"


def test_too_many_that_wait_end_the_hearing(monkeypatch: Any) -> None:
    monkeypatch.setattr(hearing, "WAITING_EVENTS_MAX", 3)
    driver = started()
    for _ in range(4):
        assert not driver.waiting
        driver.step(events.SessionOpened(driver.session))
    assert driver.waiting


def test_a_start_that_is_refused_leaves_the_log_as_it_was_however_often_it_is_repeated() -> None:
    records = log_of_a_life()
    for start in range(5):  # as a supervisor does
        driver = started(list(records), nonce=f"{start:08x}")
        hello(driver, "b", 9)
        driver.step(events.SessionOpened(driver.session))
        driver.run(1, "ab")
        hello(driver, "a", 10, epoch=2, nonce=LATER)
        hello(driver, "c", 11)
        driver.wait(30.0)  # housekeeping, too, drops nothing
        hello(driver, "c", 12)
        hello(driver, "a", 13, epoch=2, nonce=LATER)
        refused = {effect.participant: effect.cause for effect in driver.take(effects.Rejected)}
        assert {name: cause.reason for name, cause in refused.items()} == dict.fromkeys("abc", "LOG_WENT_BACK")
        assert "'a' has heard epoch 2" in refused["c"].message, "who knows nothing is told who does"
        assert driver.outcomes() == ["1 ABORTED LOG_WENT_BACK"]
        assert driver.core.has_lost and len(driver.take(effects.LossChanged)) == 1
        listed = ask(driver, admin_pb2.ListParticipantsRequest()).participants
        assert ["never began" in row.loss for row in listed] == [True, False, False]
        assert not driver.waiting and driver.log == records


WHO = {"who": "ann", "why": "x"}


@pytest.mark.parametrize(
    "order",
    [
        admin_pb2.ForgetParticipantRequest(participant="c", **WHO), admin_pb2.AcceptLossRequest(participant="c", **WHO),
        admin_pb2.ReplaceParticipantRequest(participant="c", log_id="log-new", **WHO),
        admin_pb2.ForgetTransactionRequest(transaction_id="c1.1.0123abce.0.1", **WHO),
        admin_pb2.ResolveRequest(transaction_id="c1.1.0123abce.0.1", action=admin_pb2.RESOLVE_ACTION_ABANDON, **WHO),
    ],
)  # fmt: skip
def test_no_order_is_taken_while_the_start_is_refused(order: Any) -> None:
    """Its record would count as one of the life before: whoever has heard more of that one would be welcome again."""
    records = log_of_a_life()
    driver = started(list(records))
    hello(driver, "a", 9, epoch=2, nonce=LATER)
    refusal = ask(driver, order).refusal
    assert refusal.reason == "LOG_WENT_BACK" and "accept-loss" in refusal.message
    assert not driver.waiting and driver.log == records
    waits = record_pb2.Review(review="c1-1", kind="AcceptLossRequest", until_ms=2**60)
    assert ask(driver, waits) == waits and driver.log == records, "it waits in this process"
    assert ask(driver, admin_pb2.AcceptLossRequest(**WHO)).participants == ["a"]
    assert ask(driver, record_pb2.Review(review="c1-1", over=True)).review == "c1-1"
    assert driver.log[: len(records)] == records and driver.kinds()[len(records)] == "epoch_started"


@pytest.mark.parametrize("over", [False, True])
def test_what_waits_and_what_was_taken_while_the_start_was_refused_is_in_the_log_once_it_has_begun(over: bool) -> None:
    """Otherwise a restart would have it wait again: what a second person has approved, or has rejected."""
    waits = record_pb2.Review(review="c1-1", kind="AcceptLossRequest", until_ms=2**60)
    records = log_of_a_life()
    if over:
        records.append(record_pb2.CoordinatorRecord(at_ms=WALL_MS, review=waits).SerializeToString())
    driver = started(records)
    hello(driver, "a", 9, epoch=2, nonce=LATER)
    assert ask(driver, record_pb2.Review(review="c1-1", over=True) if over else waits) == waits
    assert driver.log == records
    assert ask(driver, admin_pb2.AcceptLossRequest(**WHO)).participants == ["a"]
    assert driver.kinds()[len(records) :][:2] == ["epoch_started", "review"]
    assert [one.review for one in started(driver.log).core.reviews()] == ([] if over else ["c1-1"])


def test_when_the_right_log_is_back_its_life_begins() -> None:
    first = Driver(nonce="0123abce")
    second = Driver(records=first.log, nonce=LATER)
    refused = started(list(first.log))
    hello(refused, "a", 9, epoch=2, nonce=LATER)
    assert refused.book.beginning is Beginning.REFUSED
    right = started(second.log)
    for number, name in enumerate("abc", 9):
        hello(right, name, number, epoch=2, nonce=LATER)
    right.sync()
    assert right.core.epoch == 3 and len(right.take(effects.Welcomed)) == 3


def test_what_is_lost_and_accepted_begins_the_life_with_the_record_of_it() -> None:
    driver = started()
    hello(driver, "a", 9, epoch=2, nonce=LATER)
    driver.step(events.Administer("t", admin_pb2.AcceptLossRequest(who="ann", why="restored")))
    assert [append.owner for append in driver.waiting] == ["epoch", "horizon", "loss/a"]
    hello(driver, "b", 10)
    assert not driver.take(effects.Administered) and not driver.take(effects.Welcomed), "nothing is said before it is durable"
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    assert answer.response.participants == ["a"] and not driver.core.has_lost
    hello(driver, "a", 11, epoch=2, nonce=LATER)
    assert {effect.participant for effect in driver.take(effects.Welcomed)} == set("ab")
    again = started(driver.log, nonce="0123abd0")
    for number, name in enumerate("abc", 9):
        hello(again, name, number, epoch=9 if name == "c" else 0, nonce=LATER)
    assert again.core.has_lost, "a later life that another one has heard was not accepted"


def test_a_life_begins_above_every_life_that_was_heard() -> None:
    driver = started()
    before = driver.core.unary_session
    driver.step(events.Run(before, driver.request(1, "ab")))
    hello(driver, "a", 9, epoch=7, nonce=LATER)
    assert driver.outcomes() == ["1 ABORTED LOG_WENT_BACK"], "also what came under the session's earlier name"
    assert driver.core.epoch == 8 and driver.core.unary_session == before.replace("c1.2.", "c1.8.")
    assert not ask(driver, admin_pb2.AcceptLossRequest(who="ann", why="restored")).HasField("refusal")
    started_record = record_pb2.CoordinatorRecord.FromString(driver.log[-3]).epoch_started
    assert (started_record.epoch, started_record.nonce) == (8, NONCE)
    again = started(driver.log, nonce="0123abd0")
    assert again.core.epoch == 9
    hello(driver, "b", 10, epoch=11, nonce=LATER)
    driver.sync()
    refusal = ask(driver, admin_pb2.AcceptLossRequest(who="ann", why="restored")).refusal
    assert "Restart this coordinator" in refusal.message, "nobody would follow this life who has heard a higher one"
    later = started(driver.log, nonce="0123abd0")
    later.wait(HEARING_SECONDS + 0.1)
    later.sync()
    assert later.core.epoch == 12 and later.book.beginning is Beginning.BEGUN
    assert not ask(later, admin_pb2.AcceptLossRequest(who="ann", why="restored")).HasField("refusal")


def test_whoever_comes_to_a_start_that_is_refused_already_raises_the_life_as_well() -> None:
    driver = started()
    hello(driver, "a", 9, epoch=7, nonce=LATER)
    hello(driver, "b", 10, epoch=9, nonce=LATER)
    assert not ask(driver, admin_pb2.AcceptLossRequest(who="ann", why="restored")).HasField("refusal")
    assert driver.core.epoch == 10 and driver.core.unary_session.startswith("c1.10.")


def test_who_is_no_participant_of_this_log_refuses_no_start() -> None:
    driver = started()
    hello(driver, "a", 9, log_id="another", epoch=7)
    hello(driver, "No Name", 10, epoch=7, nonce=LATER)
    driver.wait(HEARING_SECONDS + 0.1)
    driver.sync()
    reasons = {effect.cause.reason for effect in driver.take(effects.Rejected)}
    assert reasons == {"FOREIGN_COORDINATOR", "INVALID_NAME"} and not driver.core.has_lost


def test_questions_of_clients_are_answered_from_knowledge_while_the_start_is_refused() -> None:
    first = Driver(nonce="0123abce")
    first.complete(1, "ab")
    driver = started(list(first.log))
    hello(driver, "a", 9, epoch=2, nonce=LATER)
    driver.step(events.Get("ticket", client_pb2.GetRequest(transaction_id=first.id(1))))
    assert driver.got() == ["0 COMMITTED"] and not driver.waiting


def test_a_loss_below_the_present_life_raises_it_no_further() -> None:
    driver = started()
    hello(driver, "a", 9, nonce=LATER)  # epoch 1 of another past; this process would begin epoch 2
    assert driver.book.beginning is Beginning.REFUSED and driver.core.epoch == 2
    assert not driver.waiting


def test_a_life_that_began_in_silence_and_is_not_above_what_was_heard_since_is_begun_anew_before_the_loss_is_accepted() -> None:
    driver, accept = started(), admin_pb2.AcceptLossRequest(who="ann", why="restored")
    driver.wait(HEARING_SECONDS + 0.1)
    driver.sync()
    assert driver.core.epoch == 2, "as the one that is lost, and nobody was there to say so"
    hello(driver, "a", 9, epoch=2, nonce=LATER)
    refused = ask(driver, accept).refusal
    assert refused.reason == "LOG_WENT_BACK" and "nobody would follow it (Restart this coordinator" in refused.message
    again = started(driver.log, nonce="0123abd0")
    again.wait(HEARING_SECONDS + 0.1)  # nobody is there this time either
    again.sync()
    assert again.core.epoch == 3 and ask(again, accept).participants == ["a"]
    hello(again, "a", 9, epoch=2, nonce=LATER)
    assert [effect.participant for effect in again.take(effects.Welcomed)] == ["a"]


def test_who_has_heard_a_lost_life_of_the_present_number_is_told_that_a_restart_lets_it_in() -> None:
    driver = started()
    hello(driver, "a", 9, epoch=2, nonce=LATER)
    ask(driver, admin_pb2.AcceptLossRequest(who="ann", why="restored"))
    hello(driver, "b", 10, epoch=3, nonce=LATER)
    (cause,) = (effect.cause for effect in driver.take(effects.Rejected) if effect.participant == "b")
    assert cause.reason == "LOG_WENT_BACK" and "Restart the coordinator" in cause.message
    assert not driver.core.has_lost, "it is accepted with the other one, and nobody else need wait"
    again = started(driver.log, nonce="0123abd0")
    for number, name in enumerate("abc", 9):
        hello(again, name, number, epoch=3 if name == "b" else 0, nonce=LATER)
    again.sync()
    assert again.core.epoch == 4 and {effect.participant for effect in again.take(effects.Welcomed)} == set("abc")


# ---- a log that stands in for one that is lost


def stand_in() -> bytes:
    return record_pb2.CoordinatorRecord(at_ms=1, loss=record_pb2.Loss(why="stands in, by ann: the disk died")).SerializeToString()


def test_a_log_that_stands_in_lets_nobody_in_until_that_is_accepted_and_begins_above_all_that_come() -> None:
    for _ in range(2):  # as a supervisor does
        driver = started([stand_in()])
        assert driver.book.beginning is Beginning.REFUSED and driver.core.has_lost and not driver.waiting
        hello(driver, "d", 9, epoch=0)
        hello(driver, "a", 10, epoch=3, nonce=LATER)
        hello(driver, "b", 11, epoch=5, nonce=LATER)
        refused = {effect.participant: effect.cause.message for effect in driver.take(effects.Rejected)}
        assert refused.keys() == set("abd") and "stands in for it" in refused["d"] and "has heard epoch 5" in refused["b"]
        assert not driver.waiting and driver.log == [stand_in()], "nothing is written"
    assert ask(driver, admin_pb2.AcceptLossRequest(who="ann", why="no backup")).participants == ["a", "b"]
    assert driver.core.epoch == 6 and not driver.core.has_lost
    for number, name in enumerate("abd", 20):
        hello(driver, name, number, epoch=3 if name != "d" else 0, nonce=LATER)
        driver.sync()
    assert {effect.participant for effect in driver.take(effects.Welcomed)} == set("abd")
    again = started(driver.log, nonce=LATER)
    assert again.book.beginning is Beginning.HEARING and not again.core.has_lost, "accepted, durably"


def test_behind_a_log_that_stands_in_what_was_in_doubt_is_proven() -> None:
    driver = started([stand_in()])
    hello(driver, "a", 9, epoch=3, nonce=LATER)
    hello(driver, "b", 10, epoch=3, nonce=LATER)
    ask(driver, admin_pb2.AcceptLossRequest(who="ann", why="no backup"))
    hello(driver, "b", 11, epoch=3, nonce=LATER)
    driver.sync()
    lost = f"c1.3.{LATER}.1.7"
    peers = participant_pb2.Peers(participants="ab", incarnations=[1, 1], orders=[4, 5]).SerializeToString()
    heard = participant_pb2.Heard(coordinator="c1", log_id=LOG_ID, epoch=3, nonce=LATER)
    said = participant_pb2.Hello(participant="a", log_id="log-a", incarnation=1, heard=[heard])
    driver.step(events.HelloReceived("a", 12, said))
    driver.sync()
    report = participant_pb2.BranchReport(transaction_id=lost, order=4, state=participant_pb2.BRANCH_STATE_PREPARED, peers=peers)
    driver.step(events.ReportsReceived("a", 12, [report], True))
    assert "b.settles" in driver.sent()
    driver.settle("b", lost, "COMMITTED")
    driver.sync()
    assert driver.sent() == ["a.COMMIT"]
