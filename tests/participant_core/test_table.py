"""Every state with every event: legal ones lead on, illegal ones are an error and change nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from participant_sdk.core import events as into
from participant_sdk.core.branches import FINISHED, Branch, Kind, State
from participant_sdk.core.transitions import ROWS, TABLE
from participant_sdk.core.work import (
    CommitFailed,
    Committed,
    Executed,
    ExecuteRefused,
    Keys,
    ResourceKind,
    UndoFailed,
    Undone,
    Wanted,
)
from tests.participant_core.driver import Machinery, ParticipantDriver, cause
from tests.transcripts import Command, transaction_id
from troth.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from troth.v1 import common_pb2, participant_pb2, record_pb2

T1 = transaction_id("T1")
T2 = transaction_id("T2")
PREPARE = "prepare T1 order=1 operations=debit keys=k"

WAYS: dict[State, list[str]] = {
    State.UNSEEN: [],
    State.EXPIRED: ["abort T9 order=9", "watermark below=50", "sync"],
    State.ENLISTING: ["call k0 T1 debit"],
    State.WAITING: ["prepare T2 order=2 operations=debit keys=k age=200", PREPARE],
    State.EXECUTING: ["call k0 T1 debit", "enlisted T1 order=1"],
    State.ACTIVE: ["call k0 T1 debit", "enlisted T1 order=1", "sync", "answer"],
    State.PREPARING: [PREPARE],
    State.ONE_PHASE: [PREPARE + " one-phase"],
    State.PREPARED: [PREPARE, "sync", "answer", "sync"],
    State.COMMITTING: [PREPARE, "sync", "answer", "sync", "commit T1"],
    State.ABORTING: [PREPARE, "sync", "answer", "sync", "abort T1"],
    State.COMMITTED: [PREPARE, "sync", "answer", "sync", "commit T1", "sync", "answer", "sync"],
    State.ABORTED: ["abort T1 order=1"],
    State.READ_ONLY: ["prepare T1 order=1 operations=read", "sync", "answer"],
    State.FORCED_COMMIT: [PREPARE, "sync", "answer", "sync", "force T1 commit", "sync", "answer", "sync"],
    State.FORCED_ABORT: [PREPARE, "sync", "answer", "sync", "force T1 abort", "sync", "answer", "sync"],
    State.PARKED: [PREPARE, "sync", "answer", "sync", "resource broken T1", "abort T1", "sync", "answer", "sync"],
}
"""How a branch comes to each state."""


def reach(state: State, kind: ResourceKind = ResourceKind.ATOMIC) -> Machinery:
    """A participant whose branch T1 is in this state."""
    driver = ParticipantDriver()
    for line in (f"participant {kind.value}", *WAYS[state]):
        driver.run(Command(line))
    return driver.machine


def decision(kind: participant_pb2.DecisionKind.ValueType, acknowledge: bool = True) -> Any:
    """A decision from the current stream."""
    return heard(participant_pb2.Decision(transaction_id=T1, order=1, kind=kind, acknowledge=acknowledge))


def heard(message: Any) -> Any:
    """A message from the current stream."""
    return into.FromCoordinator(1, message)


def force(kind: participant_pb2.ForceKind.ValueType) -> Any:
    """An operator's order."""
    return heard(participant_pb2.Force(transaction_id=T1, kind=kind, who="ann", why="test"))


def prepare(**settings: Any) -> Any:
    """Prepare of an interactive branch."""
    message = participant_pb2.Prepare(transaction_id=T1, order=1, incarnation=1, interactive=True, **settings)
    return into.PrepareReceived(1, message, tuple(message.operations))


EVENTS: dict[Kind, Callable[[], Any]] = {
    Kind.CALL: lambda: into.Call("k9", T1, "c9", 1, common_pb2.Operation(name="debit"), Keys(("z",))),
    Kind.ENLISTED: lambda: heard(participant_pb2.Enlisted(transaction_id=T1, order=1)),
    Kind.PREPARE: prepare,
    Kind.COMMIT: lambda: decision(participant_pb2.DECISION_KIND_COMMIT),
    Kind.ABORT: lambda: decision(participant_pb2.DECISION_KIND_ABORT),
    Kind.SETTLE: lambda: heard(participant_pb2.RollbackIfUnseen(transaction_id=T1, order=1)),
    Kind.FORCE_COMMIT: lambda: force(participant_pb2.FORCE_KIND_COMMIT),
    Kind.FORCE_ABORT: lambda: force(participant_pb2.FORCE_KIND_ABORT),
    Kind.FORCE_FORGET: lambda: force(participant_pb2.FORCE_KIND_FORGET),
    Kind.EXECUTED: lambda: Executed(T1, "", record_pb2.BranchWork(), True),
    Kind.EXECUTE_REFUSED: lambda: ExecuteRefused(T1, "", cause("REFUSED")),
    Kind.LAST_CALL: lambda: into.LastCall("l9", T1),
    Kind.WANTED: lambda: Wanted(T1, "", Keys(("z",))),
    Kind.RESOURCE_COMMITTED: lambda: Committed(T1),
    Kind.COMMIT_FAILED: lambda: CommitFailed(T1, "why"),
    Kind.UNDONE: lambda: Undone(T1),
    Kind.UNDO_FAILED: lambda: UndoFailed(T1, "why"),
    Kind.DURABLE_PREPARED: lambda: into.Durable(T1, "prepared"),
    Kind.DURABLE_COMMITTED: lambda: into.Durable(T1, "committed"),
    Kind.DURABLE_ABORTED: lambda: into.Durable(T1, "aborted"),
    Kind.DURABLE_PARKED: lambda: into.Durable(T1, "parked"),
}
INSIDE = (Kind.LOST, Kind.LOCKED, Kind.LOCK_TIMEOUT, Kind.ENLIST_TIMEOUT, Kind.ASK)
"""What only the core itself makes."""
FROM_THE_WORLD = (
    Kind.CALL, Kind.ENLISTED, Kind.PREPARE, Kind.COMMIT, Kind.ABORT, Kind.SETTLE,
    Kind.FORCE_COMMIT, Kind.FORCE_ABORT, Kind.FORCE_FORGET, Kind.LAST_CALL, *INSIDE,
)  # fmt: skip
"""What may come at any time; the rest answers what the core has asked for."""


def test_every_state_can_be_reached_and_has_a_row() -> None:
    assert set(WAYS) == set(ROWS) == set(State)
    for state in State:
        branch = remembered(reach(state))
        assert branch.state is state


def test_every_kind_of_event_is_tried() -> None:
    assert {*EVENTS, *INSIDE} == set(Kind)


def remembered(machine: Machinery) -> Branch:
    """The branch, or one of which nothing is known."""
    return machine.core._m.branches.get(T1) or machine.core._unknown(T1, 1)


def illegal(kinds: Iterable[Kind]) -> list[Any]:
    """Every pair that the table does not have."""
    pairs = [(state, kind) for state in State for kind in kinds if kind not in ROWS[state]]
    return [pytest.param(state, kind, id=f"{state.name}-{kind.name}") for state, kind in pairs]


@pytest.mark.parametrize(("state", "kind"), illegal(EVENTS))
def test_illegal_events_change_nothing(state: State, kind: Kind) -> None:
    machine = reach(state)
    before = machine.snapshot()
    with pytest.raises(RemoteProtocolError if kind <= Kind.FORCE_FORGET else LocalProtocolError):
        machine.step(EVENTS[kind]())
    assert machine.snapshot() == before


@pytest.mark.parametrize(("state", "kind"), illegal(INSIDE))
def test_illegal_inner_events_change_nothing(state: State, kind: Kind) -> None:
    machine = reach(state)
    branch = remembered(machine)
    before = machine.snapshot()
    with pytest.raises(ProtocolError):
        TABLE[branch.state][kind](machine.core._m, branch, None)
    assert machine.snapshot() == before


@pytest.mark.parametrize("resource", ResourceKind, ids=lambda resource: resource.value)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_legal_events_lead_on(state: State, resource: ResourceKind) -> None:
    """Whatever may come from the world is taken, twice; then what is under way comes to its end."""
    for kind in FROM_THE_WORLD:
        if kind not in ROWS[state]:
            continue
        machine = reach(state, resource)
        for _ in range(2):
            if kind in INSIDE:
                machine.core._fire(machine.core._m.branches.get(T1), kind)
            else:
                machine.core.step(EVENTS[kind](), machine.instant()) if kind is not Kind.CALL else machine.step(call_again())
            machine.take()
        machine.drain()
        assert consistent(machine), kind.name


_calls = iter(range(10, 1_000_000))


def call_again() -> Any:
    """A call with a ticket of its own."""
    number = next(_calls)
    return into.Call(f"k{number}", T1, f"c{number}", 1, common_pb2.Operation(name="debit"), Keys(("z",)))


def consistent(machine: Machinery) -> bool:
    """What is counted is what is there, and only unfinished branches hold locks or timers; a tombstone may ask for its order."""
    m = machine.core._m
    branches = m.branches
    assert m.unfinished == sum(branch.state not in FINISHED for branch in branches.values())
    assert m.live == sum(branch.logged for branch in branches.values())
    assert m.calls_bytes == sum(branch.calls.bytes for branch in branches.values() if branch.calls is not None)
    for owner in [*m.locks.owners(), *m.locks.in_line()]:
        if isinstance(owner, str):
            assert branches[owner].state not in FINISHED, owner
    for what, subject in m.timers._slot_of:
        if what not in ("local", "turn"):
            branch = branches[subject]
            asks_for_order = what == "ask" and branch.state is State.ABORTED and not branch.order
            assert asks_for_order or branch.state not in FINISHED, (what, subject)
    for branch, entry in m.call_tickets.values():
        assert branches[branch.transaction_id] is branch and not entry.done
    return True


@pytest.mark.parametrize("state", [State.EXECUTING, State.PREPARING, State.ONE_PHASE], ids=lambda state: state.name)
def test_answers_to_another_call_change_nothing(state: State) -> None:
    machine = reach(state)
    before = machine.snapshot()
    for event in (
        Executed(T1, "other", record_pb2.BranchWork(), True), ExecuteRefused(T1, "other", cause("REFUSED")),
        Wanted(T1, "other", Keys(("z",))),
    ):  # fmt: skip
        with pytest.raises(LocalProtocolError):
            machine.step(event)
    assert machine.snapshot() == before


@pytest.mark.parametrize("state", [State.ENLISTING, State.EXECUTING, State.ACTIVE], ids=lambda state: state.name)
def test_operations_in_the_prepare_of_an_interactive_branch_change_nothing(state: State) -> None:
    machine = reach(state)
    before = machine.snapshot()
    with pytest.raises(RemoteProtocolError):
        machine.step(prepare(operations=[common_pb2.Operation(name="debit")]))
    assert machine.snapshot() == before


@pytest.mark.parametrize(
    "event",
    [
        heard(participant_pb2.Decision(transaction_id=T1)),
        heard(participant_pb2.Force(transaction_id=T1)),
        heard(participant_pb2.Decision(transaction_id="T1", kind=1)),
        heard(participant_pb2.Decision(transaction_id="c1.x.9f2c4e1a.1.1", kind=1)),
        heard(participant_pb2.Decision(transaction_id="c1." + "9" * 20 + ".9f2c4e1a.1.1", kind=1)),
        heard(participant_pb2.Watermark(epoch=8, below=1)),
        heard(participant_pb2.Vote(transaction_id=T1)),
        into.Durable("", "watermark"),
        into.Durable("", "something"),
        into.Connected(1, "c1", 7),
        into.Connected(2, "c1", 6),
        into.Start(1),
        "nonsense",
    ],
    ids=repr,
)
def test_nonsense_changes_nothing(event: Any) -> None:
    machine = reach(State.PREPARED)
    before = machine.snapshot()
    with pytest.raises(ProtocolError):
        machine.step(event)
    assert machine.snapshot() == before


def test_tickets_are_used_once() -> None:
    machine = reach(State.ENLISTING)
    before = machine.snapshot()
    with pytest.raises(LocalProtocolError):
        machine.step(into.Call("k0", T2, "c", 1, common_pb2.Operation(), ()))
    with pytest.raises(LocalProtocolError):
        machine.step(into.LocalWork("k0", print, True))
    assert machine.snapshot() == before


def test_local_work_that_is_granted_in_the_tick_in_which_its_time_is_over_runs() -> None:
    machine = reach(State.PREPARED)
    machine.step(into.LocalWork("l1", print, True, Keys(("k", "j"))))
    machine.step(into.LocalWork("l2", print, True, Keys(("j",))))
    machine.now += 30.0
    machine.core.tick(machine.instant())  # the process slept: everything is due at once
    machine.take()
    machine.drain()
    answers = {effect.ticket: effect.cause for effect in machine.effects if hasattr(effect, "ticket")}
    assert answers["l2"] is None and answers["l1"].reason == "TIMEOUT"


def test_id_that_is_a_prefix_of_another_is_another() -> None:
    machine = reach(State.PREPARED)
    machine.step(heard(participant_pb2.Decision(transaction_id=transaction_id("T11"), order=11, kind=1)))
    machine.step(heard(participant_pb2.Decision(transaction_id=transaction_id("T12"), order=12, kind=2)))
    assert machine.core._m.branches[T1].state is State.PREPARED
