"""How far a coordinator was heard is in every record that what it said leads to, and is told it at the next Hello (rule 21)."""

from __future__ import annotations

import pytest

from participant_sdk.core import events as into
from participant_sdk.core.coordinators import Coordinators
from participant_sdk.core.work import ResourceKind
from tests.participant_core.driver import Machinery
from troth.v1 import participant_pb2, record_pb2


def seen(epoch: int, position: int, name: str = "c1") -> record_pb2.EpochSeen:
    return record_pb2.EpochSeen(coordinator=name, epoch=epoch, log_id="aa", nonce=f"{epoch:08x}", position=position)


def connected(machine: Machinery, stream: int, epoch: int, position: int) -> None:
    machine.step(into.Connected(stream, "c1", epoch, "aa", f"{epoch:08x}", position=position))
    machine.drain()


def transaction(number: int, coordinator: str = "c1") -> str:
    return f"{coordinator}.7.00112233.1.{number}"


def prepare(machine: Machinery, number: int, position: int, coordinator: str = "c1") -> None:
    message = participant_pb2.Prepare(transaction_id=transaction(number, coordinator), order=number, incarnation=1)
    message.operations.add(name="debit")
    machine.step(into.PrepareReceived(1, message, message.operations[:], position=position))
    machine.drain()


def abort(machine: Machinery, number: int, position: int) -> None:
    kind = participant_pb2.DECISION_KIND_ABORT
    message = participant_pb2.Decision(transaction_id=transaction(number), order=number, kind=kind, acknowledge=True)
    machine.step(into.FromCoordinator(1, message, position))
    machine.drain()


def heard(machine: Machinery) -> list[tuple[str, int, int]]:
    """What Hello says after a restart from what is durable: coordinator, life, and the position in it."""
    machine.boot()
    return [(one.coordinator, one.epoch, one.position) for one in machine.core.coordinators.heard()]


def started(kind: ResourceKind) -> Machinery:
    """A participant that is connected."""
    machine = Machinery(kind, keeps_identity=kind is not ResourceKind.ATOMIC)
    machine.step(into.Start(1, "aa"))
    machine.drain()
    connected(machine, 1, 7, 20)
    return machine


def records(machine: Machinery) -> list[record_pb2.ParticipantRecord]:
    return [record_pb2.ParticipantRecord.FromString(body) for body in machine.durable]


@pytest.mark.parametrize("kind", [ResourceKind.LOGGED, ResourceKind.ATOMIC])
def test_what_it_said_is_written_down_with_how_far_it_was_heard(kind: ResourceKind) -> None:
    machine = started(kind)
    assert heard(machine) == [("c1", 7, 20)]
    machine = started(kind)
    prepare(machine, 1, 25)
    abort(machine, 2, 31)
    prepare(machine, 3, 0)
    told = [record.heard for record in records(machine) if record.WhichOneof("kind") == "branch_prepared"]
    assert told == [25, 31], "a frame that tells nothing leaves it as it was"
    assert heard(machine) == [("c1", 7, 31)]


@pytest.mark.parametrize("kind", [ResourceKind.LOGGED, ResourceKind.ATOMIC])
def test_the_cleaner_keeps_how_far_it_was_heard(kind: ResourceKind) -> None:
    machine = started(kind)
    abort(machine, 2, 31)
    machine.durable = [record.SerializeToString() for record in machine.core.live_records("")]
    assert heard(machine) == [("c1", 7, 31)]


def test_of_another_coordinators_branches_nothing_is_said() -> None:
    machine = started(ResourceKind.LOGGED)
    prepare(machine, 1, 25, "c2")
    assert records(machine)[-1].heard == 0


def test_frames_of_a_superseded_stream_tell_no_position() -> None:
    machine = started(ResourceKind.LOGGED)
    connected(machine, 2, 7, 22)
    abort(machine, 1, 40)
    assert heard(machine) == [("c1", 7, 20)], "the life is known; what it told since rides with the next record"


def test_a_life_whose_loss_was_accepted_is_heard_from_where_it_is() -> None:
    machine = started(ResourceKind.LOGGED)
    abort(machine, 1, 90)
    connected(machine, 2, 8, 35)
    assert heard(machine) == [("c1", 8, 35)]


def test_of_software_that_tells_no_position_none_is_kept() -> None:
    machine = Machinery(ResourceKind.ATOMIC)
    machine.step(into.Start(1))
    connected(machine, 1, 7, 0)
    assert heard(machine) == [] and machine.forced == 0


def test_two_logs_of_one_participant_say_together_how_far_it_was_heard() -> None:
    identity, branches = Coordinators(), Coordinators()
    identity.replay(seen(7, 20))
    identity.replay(seen(3, 9, "c2"))
    branches.replay(seen(7, 20))
    branches.hear("c1", 31)
    branches.replay(seen(2, 50, "c2"))
    identity.join(branches)
    assert [(one.coordinator, one.epoch, one.position) for one in identity.heard()] == [("c1", 7, 31), ("c2", 3, 9)]


def test_of_another_life_than_the_one_that_is_followed_a_position_says_nothing() -> None:
    identity, branches = Coordinators(), Coordinators()
    identity.replay(seen(7, 20))
    branches.replay(seen(8, 40))
    identity.join(branches)
    assert [(one.epoch, one.position) for one in identity.heard()] == [(7, 20)]
