"""Every state with every input: what the table has moves the transaction, what it lacks changes nothing at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.core.book import cause_of
from coordinator.core.model import State
from coordinator.core.transitions import TABLE, Input, apply
from tests.coordinator_core.driver import Driver, snapshot
from troth.errors import Reason, RemoteProtocolError
from troth.v1 import client_pb2, participant_pb2


def active() -> Driver:
    driver = Driver()
    driver.begin(1)
    driver.enlist("a", 1)
    driver.enlist("b", 1)
    return driver


def preparing() -> Driver:
    driver = Driver()
    driver.run(1, "ab")
    return driver


def deciding() -> Driver:
    driver = preparing()
    driver.vote("a", 1)
    driver.vote("b", 1)
    return driver


def committing() -> Driver:
    driver = deciding()
    driver.sync()
    return driver


def opening() -> Driver:
    driver = Driver()
    driver.run(1, "a", key="k")
    return driver


def handed_over() -> Driver:
    driver = opening()
    driver.sync()
    return driver


def settling() -> Driver:
    driver = handed_over()
    driver.lose("a")
    driver.connect("a", 10)
    driver.sync()
    return driver


def heuristic() -> Driver:
    driver = committing()
    driver.acknowledge("a", 1)
    driver.acknowledge("b", 1, "HAZARD")
    driver.sync()
    return driver


STATES: dict[State, Callable[[], Driver]] = {
    State.ACTIVE: active,
    State.PREPARING: preparing,
    State.DECIDING: deciding,
    State.COMMITTING: committing,
    State.OPENING: opening,
    State.HANDED_OVER: handed_over,
    State.SETTLING: settling,
    State.HEURISTIC: heuristic,
}


def argument(driver: Driver, what: Input) -> object:
    participant = driver.book.participants["a"]
    transaction_id = driver.id(1)
    yes = participant_pb2.VOTE_KIND_YES
    if driver.txn(1).state in (State.HANDED_OVER, State.SETTLING):
        yes = participant_pb2.VOTE_KIND_COMMITTED
    done = participant_pb2.ACKNOWLEDGEMENT_KIND_DONE
    back = participant_pb2.SETTLEMENT_KIND_ROLLED_BACK
    return {
        Input.ENLIST: participant,
        Input.COMMIT: client_pb2.CommitRequest(number=1),
        Input.ABORT: cause_of(Reason.CLIENT_ABORT, "asked"),
        Input.TIMER: None,
        Input.VOTE: (participant, participant_pb2.Vote(transaction_id=transaction_id, kind=yes)),
        Input.DECIDED: None,
        Input.RECORDED: None,
        Input.OPENED: None,
        Input.ACKNOWLEDGED: (participant, participant_pb2.Acknowledgement(transaction_id=transaction_id, kind=done)),
        Input.SETTLED: (participant, participant_pb2.Settlement(transaction_id=transaction_id, kind=back)),
        Input.RETURNED: (participant, None),
        Input.OPERATOR_ABORT: cause_of(Reason.OPERATOR_ABORT, "asked"),
        Input.ABANDON: ("ann", "gone for good"),
    }[what]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_each_way_of_making_a_state_makes_it(state: State) -> None:
    assert STATES[state]().txn(1).state is state


@pytest.mark.parametrize("what", Input, ids=lambda what: what.name)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_an_input_is_taken_or_changes_nothing(state: State, what: Input) -> None:
    driver = STATES[state]()
    txn = driver.txn(1)
    given = argument(driver, what)
    before = snapshot(driver.book)
    if (state, what) in TABLE:
        driver.waiting.clear()  # the record's own news would come a second time
        apply(driver.book, txn, what, given)
        driver._take()
        driver.sync()
        return
    with pytest.raises(RemoteProtocolError, match=r"c1\."):
        apply(driver.book, txn, what, given)
    assert snapshot(driver.book) == before


def test_the_states_without_a_row_are_those_that_are_over() -> None:
    with_rows = {state for state, _ in TABLE}
    assert set(State) - with_rows == {State.COMMITTED, State.ABORTED, State.EXPIRED}


def test_who_has_no_branch_is_not_heard() -> None:
    for make, say in (
        (preparing, lambda driver: driver.vote("c", 1)),
        (committing, lambda driver: driver.acknowledge("c", 1)),
        (settling, lambda driver: driver.settle("c", driver.id(1), "ROLLED_BACK")),
    ):
        driver = make()
        before = driver.txn(1).state
        with pytest.raises(RemoteProtocolError, match="c has no branch"):
            say(driver)
        assert driver.txn(1).state is before
