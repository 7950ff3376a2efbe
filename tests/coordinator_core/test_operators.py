"""What operators see, force and forget."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from coordinator.core.model import State
from tests.coordinator_core import test_table as states
from tests.coordinator_core.driver import Driver, snapshot
from troth.errors import Reason
from troth.v1 import admin_pb2, common_pb2, participant_pb2

BECAUSE = {"who": "ann", "why": "her reason"}
COMMIT, ABORT, ABANDON = (
    admin_pb2.RESOLVE_ACTION_COMMIT,
    admin_pb2.RESOLVE_ACTION_ABORT,
    admin_pb2.RESOLVE_ACTION_ABANDON,
)


def administer(driver: Driver, request: Any) -> Any:
    """The answer to one request, once it is durable."""
    driver.step(events.Administer("ticket", request))
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    if "refusal" in answer.response.DESCRIPTOR.fields_by_name and answer.response.HasField("refusal"):
        hints_to_an_operator(answer.response.refusal)
    return answer.response


def hints_to_an_operator(refusal: common_pb2.Cause) -> None:
    """What is said to callers with the same reason would mislead: of a transaction that is over, of a RetryInfo."""
    for_callers = (Reason.NOT_ACTIVE, Reason.OVERLOADED)
    assert refusal.reason not in {one.name for one in for_callers} or Reason[refusal.reason].hint not in refusal.message, refusal


def resolve(driver: Driver, action: admin_pb2.ResolveAction.ValueType, participant: str = "", **fields: Any) -> Any:
    return administer(driver, _resolution(driver, action, participant, **fields))


def _resolution(driver: Driver, action: Any, participant: str, **fields: Any) -> admin_pb2.ResolveRequest:
    return admin_pb2.ResolveRequest(action=action, participant=participant, **{"transaction_id": driver.id(1), **BECAUSE, **fields})


def finished() -> Driver:
    """Transaction 1 committed with a key, 2 was refused by a, 3 is open."""
    driver = Driver()
    driver.run(1, "ab", key="k")
    driver.vote("a", 1, "READ_ONLY")
    driver.vote("b", 1, "READ_ONLY")
    driver.run(2, "ab")
    driver.vote("a", 2, "NO")
    driver.run(3, "ac")
    return driver


# ---- understanding


@pytest.mark.parametrize("state", states.STATES, ids=lambda state: state.name)
def test_every_state_is_explained_with_what_comes_next_and_what_can_be_forced(state: State) -> None:
    driver = states.STATES[state]()
    told = administer(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(1)))
    assert told.explanation.endswith(".") and told.next != "Nothing." and told.if_forced
    assert [branch.participant for branch in told.branches] == list(driver.txn(1).branches)


def test_a_branch_is_explained_with_when_it_is_asked_again() -> None:
    driver = states.committing()
    driver.acknowledge("a", 1)
    connected = administer(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(1))).branches
    assert connected[1].next_try_seconds > 0 and connected[0].next_try_seconds == -1
    driver.lose("b")
    away = administer(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(1))).branches
    assert "told as soon as it comes back" in away[1].explanation and away[1].next_try_seconds == -1


def forces(driver: Driver) -> list[str]:
    """What may be forced, without what it would do."""
    told = administer(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(1)))
    return [line.partition(":")[0] for line in told.if_forced]


def test_only_orders_that_can_be_carried_out_are_offered_by_the_names_of_who_can() -> None:
    driver = states.committing()
    driver.acknowledge("a", 1)
    assert forces(driver) == ["abandon", "commit --participant b", "abort --participant b"]
    driver.lose("b")
    assert forces(driver) == ["abandon", "b is not connected"]
    resolve(driver, admin_pb2.RESOLVE_ACTION_ABANDON)
    driver.sync()
    assert forces(driver) == ["forget", "b is not connected"]  # it may hold the branch


def test_who_has_ended_otherwise_can_be_ordered_nothing_any_more() -> None:
    driver = states.committing()
    driver.acknowledge("a", 1)
    driver.say("b", forced_abort(driver.id(1)))
    driver.sync()
    assert driver.txn(1).state is State.HEURISTIC
    assert forces(driver) == ["forget"]


def forced_abort(transaction_id: str) -> participant_pb2.Acknowledgement:
    kind = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT
    return participant_pb2.Acknowledgement(transaction_id=transaction_id, kind=kind, detail="by bob: told by phone")


def test_what_is_over_or_unknown_is_explained_too() -> None:
    driver = finished()
    explained = [administer(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(number))).explanation for number in (1, 2, 9)]
    assert explained[0] == "Finished: COMMITTED. Participants: a and b."
    assert explained[1] == "Finished: ABORTED. Participants: a and b. Cause: a: REFUSED NO_FUNDS"
    assert explained[2].startswith("Nothing is known of")


# ---- forcing


def test_who_and_why_are_recorded_and_so_must_be_told() -> None:
    driver = states.preparing()
    assert resolve(driver, ABORT, who=" ").refusal.reason == "INVALID_ARGUMENT"
    assert resolve(driver, admin_pb2.RESOLVE_ACTION_UNSPECIFIED).refusal.reason == "INVALID_ARGUMENT"
    assert resolve(driver, ABORT, transaction_id=driver.id(9)).refusal.reason == "UNKNOWN_TRANSACTION"


@pytest.mark.parametrize("state", states.STATES, ids=lambda state: state.name)
def test_only_what_is_undecided_can_be_aborted_as_a_whole(state: State) -> None:
    driver = states.STATES[state]()
    done = resolve(driver, ABORT)
    if state in (State.ACTIVE, State.PREPARING):
        assert done.outcome == common_pb2.OUTCOME_ABORTED and driver.kinds()[-1] == "ended"
        assert driver.core.live_owners() == 0 + 1 + 3 + 2 + 1
    else:
        assert done.refusal.reason == "NOT_ACTIVE"


@pytest.mark.parametrize(
    "action, participant, reason",
    [(ABANDON, "a", "INVALID_ARGUMENT"), (ABORT, "z", "UNKNOWN_PARTICIPANT"), (COMMIT, "b", "PARTICIPANT_AWAY"), (COMMIT, "a", "")],
)
def test_a_branch_of_what_is_decided_can_be_forced(action: Any, participant: str, reason: str) -> None:
    driver = states.committing()
    driver.lose("b")
    assert resolve(driver, action, participant).refusal.reason == reason


def test_a_branch_of_what_is_undecided_cannot_be_forced() -> None:
    assert resolve(states.preparing(), ABORT, "a").refusal.reason == "NOT_ACTIVE"


WHO_ASKS = [(action, name) for action in (ABORT, COMMIT, ABANDON) for name in ("", "a", "b", "z")]


@pytest.mark.parametrize("state", states.STATES, ids=lambda state: state.name)
@pytest.mark.parametrize("action, participant", WHO_ASKS)
def test_a_preview_changes_nothing_and_promises_what_is_done(state: State, action: Any, participant: str) -> None:
    driver = states.STATES[state]()
    driver.out.clear()
    before = snapshot(driver.book.live)
    driver.step(events.Administer("t", _resolution(driver, action, participant, dry_run=True)))
    (preview,) = (answer.response for answer in driver.take(effects.Administered))
    assert snapshot(driver.book.live) == before and not driver.take(effects.Send)
    done = resolve(driver, action, participant)
    assert preview.refusal == done.refusal
    assert bool(preview.message) is not preview.HasField("refusal")


@pytest.mark.parametrize(
    "state, action, participant, told",
    [
        (State.PREPARING, ABORT, "", "safe"),
        (State.COMMITTING, ABANDON, "", "a and b is no longer waited for; the outcome becomes HAZARD"),
        (State.COMMITTING, COMMIT, "a", "the branch of a is committed, as decided (COMMIT); nothing breaks"),
        (State.COMMITTING, ABORT, "a", "the branch of a is rolled back against the decision COMMIT; the outcome becomes MIXED"),
        (State.HEURISTIC, COMMIT, "a", "as decided (COMMIT)"),
    ],
)
def test_a_preview_says_what_it_means(state: State, action: Any, participant: str, told: str) -> None:
    assert told in resolve(states.STATES[state](), action, participant, dry_run=True).message


def test_a_preview_of_what_is_over_knows_the_decision_or_says_that_nobody_does() -> None:
    driver = finished()
    ids = (driver.id(1), driver.id(2), "c2.1.0123abcd.1.1")
    told = [resolve(driver, COMMIT, "a", transaction_id=name, dry_run=True).message for name in ids]
    assert "as decided (COMMIT)" in told[0] and "against the decision ABORT" in told[1] and "not known here" in told[2]


def test_to_end_what_is_over_is_told_how_it_ended() -> None:
    driver = finished()
    for number, ended in ((1, "is over: COMMITTED"), (2, "is over: ABORTED")):
        for action in (ABORT, ABANDON):
            refusal = resolve(driver, action, transaction_id=driver.id(number)).refusal
            assert (refusal.reason, ended in refusal.message) == ("NOT_ACTIVE", True)
            assert "txn explain" in refusal.message


def test_forgetting_can_be_tried() -> None:
    driver = states.heuristic()
    trial = admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(1), dry_run=True, **BECAUSE)
    assert not administer(driver, trial).HasField("refusal") and driver.txn(1).state is State.HEURISTIC
    assert administer(states.preparing(), trial).refusal.reason == "NOT_ACTIVE"


def test_a_mixed_outcome_is_explained_with_the_decision_who_and_why() -> None:
    driver = states.committing()
    driver.acknowledge("a", 1)
    kind = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT
    driver.say("b", participant_pb2.Acknowledgement(transaction_id=driver.id(1), kind=kind, detail="by ann: told by phone"))
    driver.sync()
    told = administer(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(1)))
    assert "COMMIT was decided and durable, but b ended ABORTED: by ann: told by phone." in told.explanation
    assert told.branches[1].explanation == "b ended ABORTED: by ann: told by phone."
    assert told.summary.outcome == common_pb2.OUTCOME_MIXED


def test_an_abandoned_branch_is_explained_with_who_gave_it_up_and_why() -> None:
    driver = states.committing()
    driver.acknowledge("a", 1)
    resolve(driver, ABANDON)
    told = administer(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(1)))
    assert "COMMIT was decided and durable, but b was given up by ann before it had acknowledged: her reason." in told.explanation


@pytest.mark.parametrize(
    "name, told",
    [
        ("c2.1.0123abcd.1.1", "it is of the coordinator 'c2', and this is 'c1'. Ask there."),
        ("c1.99.0123abcd.1.1", "its epoch 99 has not begun; this log is at 1. Is it an old copy?"),
        ("c1.1.0123abcd.1.77", "it has not begun here."),
        ("c1.0.0123abcd.1.1", "A participant that is in doubt about it and asks is told ABORT."),
        ("nonsense", "Nothing is known of nonsense: "),
    ],
)
def test_an_id_that_is_not_known_is_told_why(name: str, told: str) -> None:
    assert told in administer(Driver(), admin_pb2.ExplainRequest(transaction_id=name)).explanation


# ---- forgetting, replacing, draining


def test_only_a_heuristic_outcome_is_forgotten_and_twice_is_as_good_as_once() -> None:
    driver = states.heuristic()
    request = admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(1), **BECAUSE)
    driver.step(events.Administer("first", request))
    driver.step(events.Administer("second", request))
    driver.sync()
    assert [answer.response.HasField("refusal") for answer in driver.take(effects.Administered)] == [False, False]
    assert administer(driver, request).refusal.reason == "NOT_ACTIVE"


def test_an_order_that_finds_done_what_is_only_being_written_is_answered_when_that_is_durable() -> None:
    """The same is ordered twice when an answer was lost; the node may die before either has come about."""
    driver = states.committing()
    abandon = admin_pb2.ResolveRequest(transaction_id=driver.id(1), action=ABANDON, **BECAUSE)
    driver.step(events.Administer("first", abandon))
    driver.step(events.Administer("second", abandon))
    assert driver.take(effects.Administered) == []
    driver.step(events.Administer("look", admin_pb2.ListTransactionsRequest()))
    assert [answer.ticket for answer in driver.take(effects.Administered)] == ["look"], "who only looks does not wait"
    driver.sync()
    assert sorted(answer.ticket for answer in driver.take(effects.Administered)) == ["first", "second"]
    assert not driver.book.orders_under_way and not driver.book.answers_held
    driver.step(events.Administer("third", abandon))
    (answer,) = driver.take(effects.Administered)
    assert answer.response.refusal.reason == "NOT_ACTIVE", "and when nothing is on its way, it is answered at once"


def test_who_is_forgotten_is_unknown_to_further_orders_when_that_is_durable() -> None:
    driver = Driver()
    driver.lose("b")
    forget = admin_pb2.ForgetParticipantRequest(participant="b", **BECAUSE)
    driver.step(events.Administer("first", forget))
    driver.step(events.Administer("second", forget))
    assert driver.take(effects.Administered) == [], "in a cell UNKNOWN would be taken for done"
    driver.sync()
    told = {answer.ticket: answer.response.refusal.reason for answer in driver.take(effects.Administered)}
    assert told == {"first": "", "second": "UNKNOWN_PARTICIPANT"}


@pytest.mark.parametrize(
    "participant, why, reason", [("z", "gone", "UNKNOWN_PARTICIPANT"), ("a", "gone", "NOT_ACTIVE"), ("a", "", "INVALID_ARGUMENT")]
)
def test_a_log_is_replaced_only_when_its_participant_is_stopped(participant: str, why: str, reason: str) -> None:
    request = admin_pb2.ReplaceParticipantRequest(participant=participant, log_id="log-new", who="ann", why=why)
    assert administer(Driver(), request).refusal.reason == reason


def test_what_an_operator_is_refused_says_what_to_do_about_it() -> None:
    connected = admin_pb2.ReplaceParticipantRequest(participant="a", **BECAUSE)
    assert "stop it first" in administer(Driver(), connected).refusal.message.lower()
    accepted = admin_pb2.AcceptLossRequest(**BECAUSE)
    assert "nothing to accept" in administer(Driver(), accepted).refusal.message
    undecided = admin_pb2.ForgetTransactionRequest(transaction_id=states.preparing().id(1), **BECAUSE)
    assert "troth txn explain" in administer(states.preparing(), undecided).refusal.message
    assert "Possible now: abort:" in resolve(states.preparing(), ABANDON).refusal.message


def test_a_drain_tells_what_it_waits_for() -> None:
    driver = states.committing()
    driver.run(2, "ab")
    told = administer(driver, admin_pb2.DrainRequest())
    assert (told.undecided, told.unacknowledged) == (1, 1)
    assert driver.core.is_draining and driver.core.undecided() == 1 and driver.core.open_transactions() == 2


@pytest.mark.parametrize("state", states.STATES, ids=lambda state: state.name)
def test_a_drain_waits_for_whatever_is_not_decided(state: State) -> None:
    """Also for what was handed over: its one participant decides, and nobody else may say how."""
    told = administer(states.STATES[state](), admin_pb2.DrainRequest())
    waits = {State.ACTIVE, State.PREPARING, State.DECIDING, State.OPENING, State.HANDED_OVER}
    assert told.undecided == (state in waits)


# ---- watching


def watched(driver: Driver) -> list[tuple[str, bool]]:
    return [(effect.response.state, effect.last) for effect in driver.take(effects.Watched)]


def test_a_watcher_is_told_each_state_until_the_last() -> None:
    driver = states.preparing()
    driver.step(events.Watch("ticket", driver.id(1)))
    driver.step(events.Watch("gone", driver.id(1)))
    driver.step(events.Unwatch("gone", driver.id(1)))
    driver.step(events.Unwatch("never there", driver.id(1)))
    driver.vote("a", 1)
    driver.vote("b", 1, "READ_ONLY")
    driver.sync()
    driver.acknowledge("a", 1)
    told = watched(driver)
    assert told == [("PREPARING", False)] * 2 + [("DECIDING", False), ("COMMITTING", False), ("COMMITTED", True)]


def test_a_watcher_that_has_gone_is_told_nothing_more() -> None:
    driver = states.preparing()
    driver.step(events.Watch("ticket", driver.id(1)))
    driver.step(events.Unwatch("ticket", driver.id(1)))
    driver.abort(1)
    assert watched(driver) == [("PREPARING", False)] and not driver.book.watchers


def test_a_watcher_of_a_heuristic_outcome_is_told_once() -> None:
    driver = states.heuristic()
    driver.step(events.Watch("ticket", driver.id(1)))
    assert watched(driver) == [("HEURISTIC", True)] and not driver.book.watchers


def test_a_watcher_of_what_is_over_or_unknown_is_told_once() -> None:
    driver = finished()
    for number in (2, 9):
        driver.step(events.Watch("ticket", driver.id(number)))
    assert watched(driver) == [("ABORTED", True), ("UNKNOWN", True)]
