"""Branches that people end, of transactions of which this log can say nothing: another coordinator began them, say.

It was listed as MIXED, "COMMIT was not decided, so ABORT holds", though all had been committed by hand; and once that was
forgotten, whoever was still in doubt was told ABORT.
"""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from coordinator.core.model import State
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import EARLIER, Driver
from tests.coordinator_core.test_contradictions import BECAUSE, cleaned
from tests.coordinator_core.test_participants_say import FOREIGN, OLD, report
from tests.coordinator_core.test_proving import accept, ask, back, peers, put_back
from troth.errors import RemoteProtocolError
from troth.v1 import admin_pb2, common_pb2, participant_pb2, record_pb2

NAMESAKE = "c1.1.feedbeef.1.9"
"""Of a life that another log of the same name began."""
COMMIT, ABORT = admin_pb2.RESOLVE_ACTION_COMMIT, admin_pb2.RESOLVE_ACTION_ABORT
WORDS = "forced by ann at 7 ms since the epoch: told by phone"


def stranded(transaction_id: str = FOREIGN, names: str = "abc") -> Driver:
    """Each of these is in doubt about it."""
    driver = Driver()
    for stream, name in enumerate(names, 11):
        driver.connect(name, stream, reports=[report(transaction_id, "PREPARED", order=4)])
    driver.out.clear()
    return driver


def end(driver: Driver, name: str, kind: str, transaction_id: str = FOREIGN) -> None:
    """Somebody orders a participant to end its branch, and it says that it has."""
    action = COMMIT if kind == "FORCED_COMMIT" else ABORT
    request = admin_pb2.ResolveRequest(transaction_id=transaction_id, action=action, participant=name, **BECAUSE)
    assert not ask(driver, request).HasField("refusal")
    say(driver, name, kind, transaction_id)
    driver.sync()


def say(driver: Driver, name: str, kind: str, transaction_id: str = FOREIGN) -> None:
    value = participant_pb2.AcknowledgementKind.Value(f"ACKNOWLEDGEMENT_KIND_{kind}")
    driver.say(name, participant_pb2.Acknowledgement(transaction_id=transaction_id, kind=value, detail=WORDS))


def forget(driver: Driver, name: str) -> None:
    assert not ask(driver, admin_pb2.ForgetTransactionRequest(transaction_id=name, **BECAUSE)).HasField("refusal")


def told(driver: Driver, transaction_id: str = FOREIGN) -> str:
    driver.get(transaction_id)
    return driver.got()[0].removeprefix("0 ")


def explained(driver: Driver, transaction_id: str = FOREIGN) -> admin_pb2.ExplainResponse:
    answer: admin_pb2.ExplainResponse = ask(driver, admin_pb2.ExplainRequest(transaction_id=transaction_id))
    return answer


def decisions(driver: Driver) -> list[str]:
    return [said for said in driver.sent() if said.endswith(("COMMIT", "ABORT"))]


def lives(driver: Driver) -> list[Driver]:
    """The same coordinator, its next life, and those of a log that was cleaned, once and twice."""
    third = Driver(records=cleaned(driver))
    return [driver, Driver(records=driver.log), third, Driver(records=cleaned(third))]


# ---- how it is told


@pytest.mark.parametrize("life", range(4))
@pytest.mark.parametrize("kind, outcome", [("FORCED_COMMIT", "COMMITTED"), ("FORCED_ABORT", "ABORTED")])
@pytest.mark.parametrize("transaction_id", [FOREIGN, NAMESAKE])
def test_what_all_have_ended_in_one_way_is_not_mixed(transaction_id: str, kind: str, outcome: str, life: int) -> None:
    first = stranded(transaction_id)
    for name in "abc":
        end(first, name, kind, transaction_id)
    driver = lives(first)[life]
    assert told(driver, transaction_id) == "HAZARD"
    text = explained(driver, transaction_id).explanation
    ends = "; ".join(f"{name} ended {outcome}: {WORDS}" for name in "abc")
    assert text.startswith(f"It was ended by hand. What was decided is not known here: {ends}. Nothing that is known contradicts")
    assert "so ABORT holds" not in text


@pytest.mark.parametrize("life", range(4))
@pytest.mark.parametrize("kinds", [("FORCED_COMMIT", "FORCED_ABORT"), ("FORCED_ABORT", "FORCED_COMMIT")])
def test_what_is_known_to_have_ended_in_two_ways_is_mixed(kinds: tuple[str, str], life: int) -> None:
    first = stranded()
    for name, kind in zip("ab", kinds, strict=True):
        end(first, name, kind)
    driver = lives(first)[life]
    assert told(driver) == "MIXED"
    assert explained(driver).explanation.startswith("It did not end in one way: What was decided is not known here: a ended ")


def test_operators_are_told_of_each_end_with_the_outcome() -> None:
    driver = stranded()
    end(driver, "a", "FORCED_COMMIT")
    end(driver, "b", "FORCED_ABORT")
    said = driver.take(effects.Contradicted)
    assert [(one.report.participant, common_pb2.Outcome.Name(one.outcome)) for one in said] == [
        ("a", "OUTCOME_HAZARD"), ("b", "OUTCOME_MIXED"),
    ]  # fmt: skip
    assert {one.report.decision for one in said} == {record_pb2.KNOWN_DECISION_UNKNOWN}


def test_before_it_is_forced_nothing_is_promised_of_a_decision_that_nobody_knows() -> None:
    driver = stranded()
    end(driver, "a", "FORCED_COMMIT")
    request = admin_pb2.ResolveRequest(transaction_id=FOREIGN, action=ABORT, participant="b", dry_run=True, **BECAUSE)
    assert "What was decided is not known here" in ask(driver, request).message


# ---- what it answers to whom


def test_whoever_is_in_doubt_beside_it_is_told_nothing_and_listed() -> None:
    driver = stranded()
    end(driver, "a", "FORCED_COMMIT")
    driver.out.clear()
    driver.say("b", participant_pb2.Inquiry(transaction_id=FOREIGN, order=4, state=participant_pb2.BRANCH_STATE_PREPARED))
    driver.connect("c", 21, reports=[report(FOREIGN, "PREPARED", order=4)])
    assert decisions(driver) == []
    for name in "bc":
        assert FOREIGN in driver.book.participants[name].stranded
    answer = explained(driver)
    assert answer.explanation.endswith(" Still in doubt, with their locks: b and c. That is settled by hand as well.")
    assert [words.split(":")[0] for words in answer.if_forced] == [
        "forget", "commit or abort with --participant b", "commit or abort with --participant c",
    ]  # fmt: skip


def test_whoever_has_ended_it_and_is_in_doubt_again_is_told_nothing() -> None:
    # Its log went back, say.
    driver = stranded()
    end(driver, "a", "FORCED_COMMIT")
    driver.out.clear()
    driver.say("a", participant_pb2.Inquiry(transaction_id=FOREIGN, order=4, state=participant_pb2.BRANCH_STATE_PREPARED))
    assert decisions(driver) == [] and FOREIGN in driver.book.participants["a"].stranded
    driver.connect("a", 21, reports=[report(FOREIGN, "PREPARED", order=4)])
    assert decisions(driver) == [] and FOREIGN in driver.book.participants["a"].stranded


@pytest.mark.parametrize("life", range(4))
def test_whoever_is_in_doubt_when_it_is_forgotten_is_told_nothing(life: int) -> None:
    first = stranded(names="ab")
    end(first, "a", "FORCED_COMMIT")
    forget(first, FOREIGN)
    driver = lives(first)[life]
    driver.out.clear()
    driver.connect("b", 21, reports=[report(FOREIGN, "PREPARED", order=4)])
    assert decisions(driver) == [] and FOREIGN in driver.book.participants["b"].stranded
    assert told(driver) == "HAZARD"
    answer = explained(driver)
    assert "Forgotten by ann: her reason. Still in doubt, with their locks: b." in answer.explanation and len(answer.if_forced) == 1


def test_of_our_own_everything_stays_as_it_was() -> None:
    driver = stranded(OLD)
    assert [driver.book.participants[name].stranded for name in "abc"] == [{}, {}, {}], "told ABORT"
    say(driver, "a", "FORCED_COMMIT", OLD)
    driver.sync()
    assert told(driver, OLD) == "MIXED"
    driver.out.clear()
    driver.connect("b", 21, reports=[report(OLD, "PREPARED", order=4)])
    assert decisions(driver) == ["b.ABORT"]
    assert "COMMIT was not decided, so ABORT holds, but a ended COMMITTED" in explained(driver, OLD).explanation


# ---- what the retention has dropped


def dropped() -> Driver:
    """The commit of transaction 1 was dropped, and with it everything of a lower number may have been."""
    driver = Driver(CoreSettings(retention_seconds=60.0, skew_seconds=10.0))
    driver.complete(1, "ab")
    driver.wait(200.0)
    driver.sync()
    driver.wait(2.0)
    driver.sync()
    assert driver.id(1) not in driver.book.finished
    driver.out.clear()
    return driver


def test_a_commit_by_hand_may_be_of_a_commit_that_was_dropped() -> None:
    # It had acknowledged by that, and was away when COMMIT was told.
    driver = dropped()
    driver.connect("a", 21, reports=[report(driver.id(1), "FORCED_COMMIT", order=1)])
    assert decisions(driver) == ["a.ABORT"], "which a branch in doubt would be told as well: none of those was ever dropped"
    say(driver, "a", "FORCED_COMMIT", driver.id(1))
    driver.sync()
    assert told(driver, driver.id(1)) == "HAZARD"
    driver.out.clear()
    driver.connect("b", 22, reports=[report(driver.id(1), "PREPARED", order=1)])
    driver.connect("a", 23, reports=[report(driver.id(1), "PREPARED", order=1)])
    assert decisions(driver) == ["b.ABORT", "a.ABORT"]


def test_a_rollback_by_hand_is_of_no_commit_that_was_dropped() -> None:
    driver = dropped()
    say(driver, "a", "FORCED_ABORT", driver.id(1))
    assert driver.book.live == {}


# ---- what people have ended in a log, while its participant was down


@pytest.mark.parametrize("kind", ["FORCED_COMMIT", "FORCED_ABORT"])
def test_what_was_ended_offline_is_recorded_and_not_in_doubt(kind: str) -> None:
    driver = stranded()
    driver.connect("a", 21, reports=[report(FOREIGN, kind, order=4, detail=WORDS)])
    assert FOREIGN not in driver.book.participants["a"].stranded
    driver.connect("b", 22, reports=[report(FOREIGN, kind, order=4, detail=WORDS)])  # while the first is being written down
    driver.sync()
    driver.connect("c", 23, reports=[report(FOREIGN, "FORCED_ABORT", order=4)])
    driver.sync()
    assert [one.participant for one in driver.book.live[FOREIGN].heuristic] == ["a", "b", "c"]
    assert told(driver) == ("HAZARD" if kind == "FORCED_ABORT" else "MIXED")
    driver.connect("a", 24, reports=[report(FOREIGN, kind, order=4)])
    assert not driver.waiting and FOREIGN not in driver.book.participants["a"].stranded, "a repeat"


def test_more_than_can_be_kept_are_refused_and_heard_again_with_the_next_hello() -> None:
    driver = Driver(CoreSettings(late_heuristics_max=1))
    listed = [report(FOREIGN, "FORCED_COMMIT"), report(FOREIGN + "1", "FORCED_COMMIT")]
    driver.connect("a", 21, reports=listed)
    driver.sync()
    assert list(driver.book.live) == [FOREIGN] and driver.book.counters.reports_refused == 1
    forget(driver, FOREIGN)
    driver.connect("a", 22, reports=listed)
    assert list(driver.book.live) == [FOREIGN + "1"]


def test_whose_branch_was_never_named_is_not_asked_to_end_what_is_being_proven() -> None:
    driver = put_back()
    lost = "c1.2.0000feed.1.7"
    back(driver, "b", 21, participant_pb2.BranchReport(
        transaction_id=lost, order=4, state=participant_pb2.BRANCH_STATE_PREPARED, peers=peers("ab", (1, 1), (4, 5))
    ))  # fmt: skip
    assert driver.book.live[lost].state is State.PROVING
    back(driver, "c", 22, report(lost, "FORCED_COMMIT", order=4))
    assert driver.book.live[lost].state is State.PROVING


def test_what_people_have_begun_to_settle_is_not_proven() -> None:
    driver = put_back()
    lost = "c1.2.0000feed.1.7"
    back(driver, "a", 21, report(lost, "FORCED_COMMIT", order=4))
    driver.sync()
    back(driver, "b", 22, participant_pb2.BranchReport(
        transaction_id=lost, order=4, state=participant_pb2.BRANCH_STATE_PREPARED, peers=peers("ab", (1, 1), (4, 5))
    ))  # fmt: skip
    assert driver.book.live[lost].state is State.HEURISTIC and lost in driver.book.participants["b"].stranded
    forget(driver, lost)
    driver.connect("b", 23, reports=[report(lost, "PREPARED", order=4, peers=peers("ab", (1, 1), (4, 5)))])
    assert lost not in driver.book.live and lost in driver.book.participants["b"].stranded


# ---- what is forgotten


def test_who_was_away_when_it_was_forgotten_forgets_it_when_it_is_back() -> None:
    driver = stranded()
    end(driver, "a", "FORCED_COMMIT")
    driver.lose("a")
    forget(driver, FOREIGN)
    driver.out.clear()
    driver.connect("a", 21, reports=[report(FOREIGN, "FORCED_COMMIT", order=4)])
    assert driver.sent() == ["a.forces"] and FOREIGN not in driver.book.live
    say(driver, "a", "FORCED_COMMIT")
    assert FOREIGN not in driver.book.live, "as it was forgotten"


@pytest.mark.parametrize("life", range(4))
def test_what_was_forgotten_counts_when_another_ends_otherwise(life: int) -> None:
    first = stranded()
    end(first, "a", "FORCED_COMMIT")
    forget(first, FOREIGN)
    end(first, "b", "FORCED_ABORT")
    driver = lives(first)[life]
    assert told(driver) == "MIXED"
    assert "a ended COMMITTED" in explained(driver).explanation and "b ended ABORTED" in explained(driver).explanation
    driver.connect("a", 31, reports=[report(FOREIGN, "FORCED_COMMIT", order=4)])
    assert not driver.waiting, "it has been forgotten that it ended so"
    forget(driver, FOREIGN)
    for again in lives(driver):
        assert told(again) == "MIXED"
        assert set(again.book.finished[FOREIGN].participants) == {"a", "b"}


# ---- a decision that may be lost


def lost_key() -> tuple[Driver, str]:
    """What was decided under a key is lost, and that is accepted; its participant is there again. The transaction is the second."""
    first = Driver()
    first.run(1, "a", key="k")
    first.sync()
    driver = Driver(records=first.log, nonce="0123abce", connect=False, hearing=1.0)
    back(driver, "b", 21)
    accept(driver)
    driver.connect("a", 22)
    return driver, first.id(1)


def test_a_key_that_was_handed_over_before_a_loss_is_not_known_to_be_aborted() -> None:
    driver, name = lost_key()
    assert driver.book.live[name].state is State.SETTLING
    say(driver, "a", "FORCED_COMMIT", name)
    driver.sync()
    assert told(driver, name) == "HAZARD"


def test_what_is_no_id_is_refused() -> None:
    driver = Driver()
    with pytest.raises(RemoteProtocolError, match="a speaks of"):
        say(driver, "a", "FORCED_COMMIT", "nonsense")


# ---- logs of earlier versions


def old_log(transaction_id: str, *, forgotten: bool = False, outcome: common_pb2.Outcome.ValueType = 0) -> list[bytes]:
    """Two values, as they were written until now."""
    report = record_pb2.Heuristic(transaction_id=transaction_id, participant="a", branch_outcome=common_pb2.OUTCOME_COMMITTED)
    records = [record_pb2.CoordinatorRecord(at_ms=1, heuristic=report)]
    if forgotten:
        said = record_pb2.Forgotten(transaction_id=transaction_id, outcome=outcome, participants=["a"], **BECAUSE)
        records.append(record_pb2.CoordinatorRecord(at_ms=2, forgotten=said))
    return [EARLIER, *(record.SerializeToString() for record in records)]


@pytest.mark.parametrize(
    "transaction_id, outcome", [(FOREIGN, "HAZARD"), (NAMESAKE, "HAZARD"), (OLD, "MIXED"), ("nonsense", "MIXED")]
)
def test_what_an_earlier_version_took_for_aborted_is_judged_again(transaction_id: str, outcome: str) -> None:
    for driver in lives(Driver(records=old_log(transaction_id))):
        assert common_pb2.Outcome.Name(driver.book.live[transaction_id].outcome) == f"OUTCOME_{outcome}"


@pytest.mark.parametrize("outcome", [common_pb2.OUTCOME_UNSPECIFIED, common_pb2.OUTCOME_ABORTED])
def test_what_an_earlier_version_had_forgotten_as_aborted_is_not_told(outcome: common_pb2.Outcome.ValueType) -> None:
    for driver in lives(Driver(records=old_log(FOREIGN, forgotten=True, outcome=outcome))):
        driver.out.clear()
        driver.connect("b", 21, reports=[report(FOREIGN, "PREPARED", order=4)])
        assert decisions(driver) == [] and told(driver) == "HAZARD"


def test_what_an_earlier_version_had_forgotten_of_our_own_is_told() -> None:
    for driver in lives(Driver(records=old_log(OLD, forgotten=True, outcome=common_pb2.OUTCOME_ABORTED))):
        driver.out.clear()
        driver.connect("b", 21, reports=[report(OLD, "PREPARED", order=4)])
        assert decisions(driver) == ["b.ABORT"] and told(driver, OLD) == "MIXED"


def test_a_hazard_of_what_nobody_knows_is_listed_as_it_was() -> None:
    driver = Driver()
    driver.connect("a", 21, reports=[report(FOREIGN, "HAZARD", order=4)])
    assert FOREIGN in driver.book.participants["a"].stranded and FOREIGN not in driver.book.live
    driver.step(events.Administer("t", admin_pb2.ListTransactionsRequest(states=["HEURISTIC"])))
    assert not driver.take(effects.Administered)[0].response.transactions
