"""What a log has lost is proven again from what participants know; what nobody proves stays in doubt, and is listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from coordinator.core import effects, events
from coordinator.core.model import State
from tests.coordinator_core.driver import LOG_ID, NONCE, Driver
from troth.v1 import admin_pb2, common_pb2, participant_pb2, record_pb2

LATER = "0000feed"
LOST = f"c1.2.{LATER}.1.7"
GRACE_SECONDS = 30.0


def peers(names: str = "abc", incarnations: Sequence[int] = (1, 1, 1), orders: Sequence[int] = (4, 5, 6)) -> bytes:
    count = len(names)
    named = participant_pb2.Peers(participants=names, incarnations=incarnations[:count], orders=orders[:count])
    return named.SerializeToString()


def prepared(raw: bytes | None = None, transaction_id: str = LOST) -> participant_pb2.BranchReport:
    state = participant_pb2.BRANCH_STATE_PREPARED
    return participant_pb2.BranchReport(transaction_id=transaction_id, order=4, state=state, peers=peers() if raw is None else raw)


def back(driver: Driver, name: str, stream: int, *reports: participant_pb2.BranchReport, heard: bool = True) -> None:
    """It comes back, has heard of the life that is lost, and lists what it has."""
    heard_of = participant_pb2.Heard(coordinator="c1", log_id=LOG_ID, epoch=2, nonce=LATER)
    said = participant_pb2.Hello(participant=name, log_id=f"log-{name}", incarnation=1, heard=[heard_of] if heard else [])
    driver.step(events.HelloReceived(name, stream, said))
    driver.sync()
    driver.step(events.ReportsReceived(name, stream, reports, True))


def ask(driver: Driver, request: Any) -> Any:
    driver.step(events.Administer("t", request))
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    return answer.response


def accept(driver: Driver) -> None:
    assert not ask(driver, admin_pb2.AcceptLossRequest(who="ann", why="last night's")).HasField("refusal")


def put_back(grace: float = 0.0) -> Driver:
    """A coordinator on an older copy, whose loss is found out at its start, and accepted; nobody is there yet."""
    driver = Driver(records=Driver(nonce="0123abce").log, nonce=NONCE, connect=False, grace=grace, hearing=1.0)
    back(driver, "a", 8)
    accept(driver)
    driver.out.clear()
    return driver


def two_lives() -> list[bytes]:
    """A log whose next life is above the one that is lost."""
    return Driver(records=Driver(nonce="0123abce").log, nonce="0123abcf").log


def answered(driver: Driver, name: str, kind: str, *, proves: bool = False) -> None:
    value = participant_pb2.SettlementKind.Value(f"SETTLEMENT_KIND_{kind}")
    driver.say(name, participant_pb2.Settlement(transaction_id=LOST, kind=value, proves_abort=proves))


def questions(driver: Driver) -> list[tuple[str, int, int]]:
    """Who is asked, of which incarnation, and about which order."""
    return [
        (effect.participant, effect.message.incarnation, effect.message.order)
        for effect in driver.take(effects.Send)
        if effect.field == "settles"
    ]


def row(driver: Driver, name: str) -> admin_pb2.ParticipantSummary:
    listed: Any = ask(driver, admin_pb2.ListParticipantsRequest()).participants
    return next(one for one in listed if one.participant == name)  # type: ignore[no-any-return]  # a row


def in_doubt() -> Driver:
    """a is in doubt, b and c are there and asked."""
    driver = put_back()
    back(driver, "b", 9)
    back(driver, "c", 10)
    back(driver, "a", 11, prepared())
    assert questions(driver) == [("b", 1, 5), ("c", 1, 6)]
    return driver


def done() -> participant_pb2.Acknowledgement:
    return participant_pb2.Acknowledgement(transaction_id=LOST, kind=participant_pb2.ACKNOWLEDGEMENT_KIND_DONE)


# ---- what is proven


def test_a_peer_that_has_committed_proves_commit_at_once() -> None:
    driver = in_doubt()
    answered(driver, "b", "COMMITTED")
    assert driver.sent() == [], "the decision is durable before anybody hears it"
    assert driver.waiting[-1].force
    driver.sync()
    assert driver.sent() == ["a.COMMIT", "c.settles"], "who was not heard yet may be in doubt as well, or may have only read"
    driver.say("a", done())
    answered(driver, "c", "ROLLED_BACK")
    answered(driver, "c", "PREPARED")  # a second answer is none
    driver.sync()
    assert driver.book.finished[LOST].told == common_pb2.OUTCOME_COMMITTED
    assert row(driver, "a").stranded_total == 0 and driver.book.proving == 0
    again = Driver(records=driver.log, nonce="0123abd0", connect=False)
    back(again, "a", 9, prepared())
    assert again.sent() == ["a.COMMIT"], "it is in the log now"


def test_a_peer_that_has_not_voted_proves_abort_once_all_were_heard() -> None:
    driver = in_doubt()
    answered(driver, "b", "ROLLED_BACK", proves=True)
    assert driver.sent() == [], "c may have been told COMMIT"
    answered(driver, "c", "PREPARED")
    assert driver.sent() == ["a.ABORT", "c.ABORT"]
    assert row(driver, "a").stranded_total == 0 and not driver.waiting, "there is no record of an abort"
    driver.lose("a")
    back(driver, "a", 12, prepared())
    assert driver.sent() == ["a.ABORT"], "who missed it is told again"


def test_commit_is_believed_over_a_rollback_that_contradicts_it() -> None:
    driver = in_doubt()
    answered(driver, "b", "ROLLED_BACK", proves=True)
    answered(driver, "c", "COMMITTED")
    driver.sync()
    assert driver.sent() == ["a.COMMIT", "b.COMMIT"]
    hazard = participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD
    driver.say("b", participant_pb2.Acknowledgement(transaction_id=LOST, kind=hazard, detail="it was rolled back"))
    driver.say("a", done())
    driver.sync()
    assert driver.book.live[LOST].state is State.HEURISTIC, "people must look"


def test_who_was_not_heard_when_commit_was_proven_is_asked_until_it_answers() -> None:
    driver = put_back()
    back(driver, "b", 9)
    back(driver, "a", 11, prepared())
    answered(driver, "b", "COMMITTED")
    driver.step(events.ParticipantLost("b", 9))
    driver.sync()
    driver.say("a", done())
    driver.sent()
    back(driver, "c", 12)
    assert driver.sent() == ["c.settles"]
    driver.wait(10.0)
    assert "c.settles" in driver.sent()
    driver.lose("c")
    back(driver, "c", 13, prepared())
    assert driver.sent() == ["c.COMMIT"]
    driver.say("c", done())
    driver.sync()
    assert driver.book.finished[LOST].told == common_pb2.OUTCOME_COMMITTED


@pytest.mark.parametrize("kind, proves", [("PREPARED", False), ("ROLLED_BACK", True)])
def test_who_must_hold_a_branch_of_a_proven_commit_is_told(kind: str, proves: bool) -> None:
    driver = in_doubt()
    answered(driver, "b", "COMMITTED")
    answered(driver, "c", "PREPARED")  # while the decision is being written: it is asked again
    driver.sync()
    driver.sent()
    answered(driver, "c", kind, proves=proves)
    assert driver.sent() == ["c.COMMIT"]


def test_an_operator_who_was_there_before_the_proof_is_a_heuristic_end() -> None:
    driver = in_doubt()
    answered(driver, "b", "COMMITTED")
    driver.sync()
    kind = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT
    driver.say("c", participant_pb2.Acknowledgement(transaction_id=LOST, kind=kind, detail="ann rolled it back"))
    driver.say("a", done())
    driver.sync()
    assert driver.book.live[LOST].state is State.HEURISTIC


def test_who_comes_back_later_is_asked_then_and_who_lists_it_has_answered() -> None:
    driver = put_back()
    back(driver, "a", 11, prepared())
    assert questions(driver) == []
    back(driver, "b", 12)
    assert questions(driver) == [("b", 1, 5)]
    driver.wait(60.0)
    assert set(questions(driver)) == {("b", 1, 5)}, "asked until it answers"
    back(driver, "c", 13, prepared())
    answered(driver, "b", "ROLLED_BACK", proves=True)
    assert driver.sent() == ["a.ABORT", "c.ABORT"]


# ---- what is not


@pytest.mark.parametrize("b, c", [("PREPARED", "PREPARED"), ("ROLLED_BACK", "PREPARED"), ("EXPIRED", "ROLLED_BACK")])
def test_what_nobody_proves_stays_in_doubt_and_is_listed(b: str, c: str) -> None:
    driver = in_doubt()
    answered(driver, "b", b)
    answered(driver, "c", c)
    answered(driver, "c", "COMMITTED")  # a second answer is none
    driver.wait(60.0)
    assert driver.sent() == []
    listed = ask(driver, admin_pb2.ListTransactionsRequest(states=["PROVING"])).transactions
    assert [one.transaction_id for one in listed] == [LOST]
    assert row(driver, "a").stranded == [LOST]
    explained = ask(driver, admin_pb2.ExplainRequest(transaction_id=LOST))
    assert "Nobody can prove how it ended" in explained.explanation and "may become MIXED" in explained.if_forced[0]
    driver.get(LOST)
    assert driver.got() == ["0 IN_DOUBT"]


def force(driver: Driver, name: str, kind: str) -> None:
    """An operator ends a branch, and its participant says so."""
    action = admin_pb2.RESOLVE_ACTION_COMMIT if kind == "FORCED_COMMIT" else admin_pb2.RESOLVE_ACTION_ABORT
    order = admin_pb2.ResolveRequest(transaction_id=LOST, action=action, participant=name, who="ann", why="the bank says so")
    assert not ask(driver, order).HasField("refusal")
    by_hand(driver, name, kind)


def by_hand(driver: Driver, name: str, kind: str) -> None:
    value = participant_pb2.AcknowledgementKind.Value(f"ACKNOWLEDGEMENT_KIND_{kind}")
    driver.say(name, participant_pb2.Acknowledgement(transaction_id=LOST, kind=value, detail="the bank says so"))


def outcome(driver: Driver) -> str:
    driver.sync()
    driver.get(LOST)
    return driver.got()[0].split()[1]


@pytest.mark.parametrize("kind, told", [("FORCED_COMMIT", "HAZARD"), ("FORCED_ABORT", "MIXED")])
def test_an_operator_settles_what_nobody_proves(kind: str, told: str) -> None:
    driver = in_doubt()
    answered(driver, "b", "PREPARED")
    answered(driver, "c", "ROLLED_BACK")
    force(driver, "a", "FORCED_COMMIT")
    assert outcome(driver) == "IN_DOUBT", "b may still be proven to be committed"
    force(driver, "b", kind)
    assert driver.book.proving == 0 and row(driver, "b").stranded_total == 0
    assert outcome(driver) == told
    txn = driver.book.live[LOST]
    assert txn.state is State.HEURISTIC and [one.participant for one in txn.heuristic] == ["a", "b"]
    assert "What was decided is not known here" in ask(driver, admin_pb2.ExplainRequest(transaction_id=LOST)).explanation


def test_who_is_away_when_the_last_is_settled_is_heard_when_it_is_back() -> None:
    driver = in_doubt()
    answered(driver, "b", "PREPARED")
    answered(driver, "c", "ROLLED_BACK")
    force(driver, "a", "FORCED_COMMIT")
    driver.lose("a")
    force(driver, "b", "FORCED_ABORT")
    assert outcome(driver) == "HAZARD"
    state = participant_pb2.BRANCH_STATE_FORCED_COMMIT
    back(driver, "a", 21, participant_pb2.BranchReport(transaction_id=LOST, order=4, state=state))
    assert outcome(driver) == "MIXED"


@pytest.mark.parametrize("proves", [True, False])
@pytest.mark.parametrize(
    "kind, committed, aborted", [("FORCED_COMMIT", "COMMITTED", "MIXED"), ("FORCED_ABORT", "MIXED", "ABORTED")]
)
def test_who_was_ended_by_hand_is_told_what_is_proven_since(kind: str, committed: str, aborted: str, proves: bool) -> None:
    driver = in_doubt()
    by_hand(driver, "a", kind)
    answered(driver, "b", "ROLLED_BACK" if proves else "COMMITTED", proves=proves)
    if proves:
        answered(driver, "c", "ROLLED_BACK")
    driver.sync()
    driver.take(effects.Contradicted)
    assert ("a.ABORT" if proves else "a.COMMIT") in driver.sent()
    agrees = (kind == "FORCED_ABORT") is proves
    driver.say("a", done()) if agrees else by_hand(driver, "a", kind)
    if not proves:
        answered(driver, "c", "ROLLED_BACK")
    assert outcome(driver) == (aborted if proves else committed)


def test_who_cannot_tell_has_ended_nothing_by_hand() -> None:
    driver = in_doubt()
    by_hand(driver, "b", "HAZARD")
    answered(driver, "c", "ROLLED_BACK")
    force(driver, "a", "FORCED_COMMIT")
    assert outcome(driver) == "HAZARD" and [one.participant for one in driver.book.live[LOST].heuristic] == ["a"]


def test_who_lists_that_people_have_ended_its_branch_is_not_asked() -> None:
    driver = put_back()
    back(driver, "a", 11, prepared())
    driver.out.clear()
    state = participant_pb2.BRANCH_STATE_FORCED_COMMIT
    back(driver, "b", 12, participant_pb2.BranchReport(transaction_id=LOST, order=5, state=state))
    assert questions(driver) == [] and driver.book.live[LOST].state is State.PROVING
    force(driver, "a", "FORCED_ABORT")
    back(driver, "c", 13)
    answered(driver, "c", "ROLLED_BACK")
    assert outcome(driver) == "MIXED"


def test_a_force_of_an_operator_proves_nothing_to_others() -> None:
    driver = in_doubt()
    kind = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT
    driver.say("b", participant_pb2.Acknowledgement(transaction_id=LOST, kind=kind))
    answered(driver, "c", "PREPARED")
    assert driver.sent() == []


def test_nor_does_one_that_people_have_forgotten_and_which_its_participant_lists_no_more() -> None:
    driver = in_doubt()
    by_hand(driver, "b", "FORCED_COMMIT")
    answered(driver, "c", "ROLLED_BACK")
    assert driver.sent() == [] and not driver.waiting and row(driver, "a").stranded == [LOST]
    driver.lose("b")
    back(driver, "b", 21)
    driver.lose("a")
    back(driver, "a", 22, prepared())
    assert driver.sent() == [] and row(driver, "a").stranded == [LOST], "a is in doubt, and listed, until people settle it"
    force(driver, "a", "FORCED_ABORT")
    assert outcome(driver) == "MIXED", "and then what was done at b counts"
    driver.out.clear()
    assert not ask(driver, admin_pb2.ForgetTransactionRequest(transaction_id=LOST, who="ann", why="repaid")).HasField("refusal")
    assert [said for said in driver.sent() if said.endswith("forces")] == ["a.forces", "b.forces"]
    driver.say("b", done())
    assert LOST not in driver.book.live, "b had forgotten it before"


def test_a_commit_that_is_proven_names_the_branch_of_each_that_has_it_also_of_one_that_people_have_committed() -> None:
    """By these orders a log that takes a name over is asked later what it has (`recalling`)."""
    driver = in_doubt()
    answered(driver, "b", "COMMITTED")
    driver.sync()
    by_hand(driver, "c", "FORCED_COMMIT")
    driver.say("a", done())
    driver.sync()
    assert driver.book.finished[LOST].outcome == common_pb2.OUTCOME_COMMITTED
    assert driver.book.finished[LOST].orders == (4, 5, 6)
    again = Driver(records=driver.log, nonce="0123abd0", connect=False)
    assert again.book.finished[LOST].orders == (4, 5, 6), "as a restart reads it"


def test_who_is_still_asked_is_named_and_an_order_that_is_told_twice_counts_once() -> None:
    driver = in_doubt()
    assert "what b and c may know" in ask(driver, admin_pb2.ExplainRequest(transaction_id=LOST)).explanation
    assert driver.core.fill()["proving_max"] == 1
    kind = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT
    for _ in range(2):
        driver.say("b", participant_pb2.Acknowledgement(transaction_id=LOST, kind=kind))
    assert driver.book.proving == 1
    assert "what c may know" in ask(driver, admin_pb2.ExplainRequest(transaction_id=LOST)).explanation


def test_a_yes_that_was_under_way_is_in_doubt_and_any_other_vote_says_nothing() -> None:
    driver = in_doubt()
    driver.say("b", participant_pb2.Vote(transaction_id=LOST, kind=participant_pb2.VOTE_KIND_NO))
    driver.say("c", participant_pb2.Vote(transaction_id=LOST, kind=participant_pb2.VOTE_KIND_YES))
    answered(driver, "b", "ROLLED_BACK", proves=True)
    assert driver.sent() == ["a.ABORT", "c.ABORT"]


@pytest.mark.parametrize("raw", [
    b"", b"\xff", peers("bc"), peers("aab"), participant_pb2.Peers(participants="abc").SerializeToString(), peers("abcdefg" * 30),
])  # fmt: skip
def test_peers_that_are_not_told_or_not_to_be_believed_are_not_asked(raw: bytes) -> None:
    driver = put_back()
    back(driver, "b", 9)
    back(driver, "a", 11, prepared(raw))
    assert questions(driver) == [] and row(driver, "a").stranded == [LOST]


def test_so_many_are_proven_at_once() -> None:
    driver = put_back()
    driver.book.settings = type(driver.book.settings)(proving_max=1)
    back(driver, "a", 11, prepared(), prepared(transaction_id=LOST[:-1] + "8"))
    assert driver.book.proving == 1 and row(driver, "a").stranded_total == 2


# ---- when


def test_nothing_is_proven_before_the_loss_is_accepted_and_then_also_for_those_that_are_there() -> None:
    driver = Driver(records=two_lives(), nonce=NONCE, connect=False)
    back(driver, "b", 8)
    of_another = "c9.1.0000beef.1.1"
    back(driver, "a", 9, prepared(), prepared(transaction_id=of_another), heard=False)
    back(driver, "c", 10, heard=False)
    assert questions(driver) == [] and row(driver, "a").stranded == [LOST, of_another]
    driver.step(events.Administer("t", admin_pb2.AcceptLossRequest(who="ann", why="last night's")))
    assert questions(driver) == [("c", 1, 6)]


def asked_by_a_client() -> tuple[Driver, str]:
    """A client asks about a transaction of a life that the log has lost, and names `a`; the driver, and its id."""
    driver = Driver(records=Driver(nonce="0123abce").log, nonce=NONCE, connect=False)
    back(driver, "b", 8)
    back(driver, "a", 9, heard=False)
    transaction_id = "c1.1.0123abce.1.7"
    driver.get(transaction_id, "a", first_attempt_ms=driver.instant().wall_ms)
    return driver, transaction_id


def test_of_what_is_lost_nobody_is_told_abort_because_a_client_asks() -> None:
    driver, transaction_id = asked_by_a_client()
    assert list(driver.book.live) == [transaction_id] and driver.sent() == ["a.settles"]
    driver.settle("a", transaction_id, "PREPARED")
    assert driver.sent() == [] and list(driver.book.live) == [transaction_id]


def test_nor_is_a_client_told_committed_by_what_people_have_committed() -> None:
    driver, transaction_id = asked_by_a_client()
    kind = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT
    driver.say("a", participant_pb2.Acknowledgement(transaction_id=transaction_id, kind=kind, detail="forced by ann"))
    driver.sync()
    assert driver.got() == ["0 HAZARD"]


def test_nobody_forgets_anything_while_one_that_is_known_has_not_come_back() -> None:
    def forgetting(driver: Driver) -> list[str]:
        return [effect.participant for effect in driver.take(effects.SendWatermark) if effect.watermark.below > 0]

    driver = Driver(records=two_lives(), nonce=NONCE, connect=False, grace=GRACE_SECONDS)
    back(driver, "a", 8, heard=False)
    back(driver, "b", 9, heard=False)
    driver.wait(GRACE_SECONDS - 5.0)
    assert forgetting(driver) == []
    back(driver, "c", 10)
    driver.wait(2 * GRACE_SECONDS)
    assert forgetting(driver) == [], "it was refused, and the loss is not accepted"
    accept(driver)
    driver.wait(5.0)
    assert forgetting(driver) == []
    back(driver, "c", 11)
    driver.wait(5.0)
    assert sorted(forgetting(driver)) == ["a", "b", "c"]
    alone = Driver(records=Driver(nonce="0123abce").log, nonce=NONCE, connect=False, grace=GRACE_SECONDS)
    back(alone, "a", 8, heard=False)
    alone.wait(GRACE_SECONDS + 5.0)
    assert forgetting(alone) == ["a"], "who is away for longer finds what it finds"


def test_records_of_a_proven_commit_name_all_its_participants() -> None:
    driver = in_doubt()
    answered(driver, "c", "COMMITTED")
    record = driver.waiting[-1].record
    assert isinstance(record, record_pb2.CoordinatorRecord)
    decided = record.decided
    assert list(decided.participants) == ["a", "b", "c"] and list(decided.owing) == [0, 1] and list(decided.orders) == [4, 5]
