"""What operators see, force and forget."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from coordinator.core.model import State
from tests.coordinator_core import test_table as states
from tests.coordinator_core.driver import Driver
from troth.v1 import admin_pb2, common_pb2

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
    return answer.response


def resolve(driver: Driver, action: admin_pb2.ResolveAction.ValueType, participant: str = "", **fields: Any) -> Any:
    fields = {"transaction_id": driver.id(1), **BECAUSE, **fields}
    return administer(driver, admin_pb2.ResolveRequest(action=action, participant=participant, **fields))


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


# ---- seeing


def test_the_list_is_of_what_is_open_or_of_all_and_counts_beyond_its_limit() -> None:
    driver = finished()
    numbers = {name: driver.id(number) for number, name in enumerate(("one", "two", "three"), 1)}
    everything = administer(driver, admin_pb2.ListTransactionsRequest(finished=True))
    assert [(item.transaction_id, item.state) for item in everything.transactions] == [
        (numbers["three"], "PREPARING"),
        (numbers["one"], "COMMITTED"),
        (numbers["two"], "ABORTED"),
    ]
    assert everything.transactions[1].key == "k" and list(everything.transactions[0].owing) == ["a", "c"]
    limited = administer(driver, admin_pb2.ListTransactionsRequest(finished=True, limit=1))
    assert (len(limited.transactions), limited.total) == (1, 3)


def test_the_list_can_be_narrowed() -> None:
    driver = finished()
    assert administer(driver, admin_pb2.ListTransactionsRequest()).total == 1
    by_state = administer(driver, admin_pb2.ListTransactionsRequest(finished=True, states=["ABORTED"]))
    by_name = administer(driver, admin_pb2.ListTransactionsRequest(finished=True, participant="c"))
    assert [item.transaction_id for item in by_state.transactions] == [driver.id(2)]
    assert [item.transaction_id for item in by_name.transactions] == [driver.id(3)]


def test_participants_are_listed_with_what_they_owe() -> None:
    driver = states.committing()
    driver.run(2, "ac")
    driver.lose("b")
    listed = administer(driver, admin_pb2.ListParticipantsRequest()).participants
    assert [(one.participant, one.connected, one.votes_owed, one.acknowledgements_owed) for one in listed] == [
        ("a", True, 1, 1),
        ("b", False, 0, 1),
        ("c", True, 1, 0),
    ]


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


def test_what_is_over_or_unknown_is_explained_too() -> None:
    driver = finished()
    explained = [administer(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(number))).explanation for number in (1, 2, 9)]
    assert explained[0] == "Finished: COMMITTED."
    assert explained[1].startswith("Finished: ABORTED. Cause: REFUSED:")
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
        assert driver.core.live_owners() == 0 + 1 + 3 + 2
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


# ---- forgetting, replacing, draining


def test_only_a_heuristic_outcome_is_forgotten_and_twice_is_as_good_as_once() -> None:
    driver = states.heuristic()
    request = admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(1), **BECAUSE)
    driver.step(events.Administer("first", request))
    driver.step(events.Administer("second", request))
    driver.sync()
    assert [answer.response.HasField("refusal") for answer in driver.take(effects.Administered)] == [False, False]
    assert administer(driver, request).refusal.reason == "NOT_ACTIVE"


@pytest.mark.parametrize(
    "participant, why, reason", [("z", "gone", "UNKNOWN_PARTICIPANT"), ("a", "gone", "NOT_ACTIVE"), ("a", "", "INVALID_ARGUMENT")]
)
def test_a_log_is_replaced_only_when_its_participant_is_stopped(participant: str, why: str, reason: str) -> None:
    request = admin_pb2.ReplaceParticipantRequest(participant=participant, who="ann", why=why)
    assert administer(Driver(), request).refusal.reason == reason


def test_a_drain_tells_what_it_waits_for() -> None:
    driver = states.committing()
    driver.run(2, "ab")
    told = administer(driver, admin_pb2.DrainRequest())
    assert (told.undecided, told.unacknowledged) == (1, 1)
    assert driver.core.is_draining and driver.core.undecided() == 1 and driver.core.open_transactions() == 2


# ---- watching


def watched(driver: Driver) -> list[tuple[str, bool]]:
    return [(effect.response.state, effect.last) for effect in driver.take(effects.Watched)]


def test_a_watcher_is_told_each_state_until_the_last() -> None:
    driver = states.preparing()
    driver.step(events.Watch("ticket", driver.id(1)))
    driver.step(events.Watch("gone", driver.id(1)))
    driver.step(events.Unwatch("gone"))
    driver.step(events.Unwatch("never there"))
    driver.vote("a", 1)
    driver.vote("b", 1, "READ_ONLY")
    driver.sync()
    driver.acknowledge("a", 1)
    told = watched(driver)
    assert told == [("PREPARING", False)] * 2 + [("DECIDING", False), ("COMMITTING", False), ("COMMITTED", True)]


def test_a_watcher_that_has_gone_is_told_nothing_more() -> None:
    driver = states.preparing()
    driver.step(events.Watch("ticket", driver.id(1)))
    driver.step(events.Unwatch("ticket"))
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
