"""What a participant's log says of coordinators and starts, also one that earlier software wrote."""

from __future__ import annotations

from typing import Any

import pytest

from participant_sdk.core.branches import State
from participant_sdk.core.coordinators import Coordinators
from participant_sdk.core.effects import Send
from participant_sdk.core.events import Connected, FromCoordinator
from participant_sdk.core.finishing import BY_HAND_CHARACTERS_MAX
from participant_sdk.core.starts import STARTS_MAX, Starts
from tests.participant_core.driver import Machinery
from tests.participant_core.test_table import T1, heard, reach
from troth.errors import LogForeign, Reason
from troth.v1 import common_pb2, participant_pb2, record_pb2


def seen(epoch: int, log_id: str = "", nonce: str = "") -> record_pb2.EpochSeen:
    return record_pb2.EpochSeen(coordinator="c1", epoch=epoch, log_id=log_id, nonce=nonce)


def test_of_a_coordinator_the_highest_epoch_counts_and_its_log_is_not_unlearnt() -> None:
    coordinators = Coordinators()
    for record in (seen(2, "aa", "11"), seen(1, "aa", "00"), seen(3, "", "22")):
        coordinators.replay(record)
    assert coordinators.heard() == [participant_pb2.Heard(coordinator="c1", log_id="aa", epoch=3, nonce="22")]


def test_starts_are_counted_on_and_bounded() -> None:
    starts = Starts()
    starts.replay(record_pb2.IncarnationStarted(participant="p", incarnation=1))
    assert starts.known == [], "a record of earlier software names no process"
    for incarnation in range(1, STARTS_MAX + 5):
        record = starts.begin("p", incarnation, "ab")
    assert (len(starts.known), starts.known[-1]) == (STARTS_MAX, f"{STARTS_MAX + 4}/ab")
    again = Starts()
    again.replay(record)
    assert again.known == starts.known
    assert again.after == starts.after == [0] * STARTS_MAX
    again.begin("p", STARTS_MAX + 5, "cd", 7)
    assert again.after == [0] * (STARTS_MAX - 1) + [7]
    again.replay(record_pb2.IncarnationStarted(participant="p", incarnation=9, nonce="ab", earlier=starts.known[-255:]))
    assert again.after == [] and len(again.known) == STARTS_MAX, "a record of software that kept no positions"
    again.replay(record)
    starts.begin("p", 999, "")
    assert again.known == starts.known, "one that says no nonce is not kept"


def below(coordinator: str, epoch: int, order: int) -> bytes:
    record = record_pb2.ForgottenBelow(coordinator=coordinator, epoch=epoch, below=order)
    return record_pb2.ParticipantRecord(forgotten_below=record).SerializeToString()


def booted(*records: bytes) -> Machinery:
    machine = Machinery()
    machine.durable = list(records)
    machine.boot()
    return machine


def watermarks(machine: Machinery) -> dict[str, tuple[int, int]]:
    return {name: watermark.durable for name, watermark in machine.core._m.watermarks.items()}


@pytest.mark.parametrize(("epoch", "its"), [(3, (2, 5)), (2, (2, 5)), (1, (0, 0))])
def test_a_watermark_that_was_kept_for_all_is_that_of_the_coordinator_that_there_was(epoch: int, its: tuple[int, int]) -> None:
    machine = booted(below("", 2, 5))
    machine.step(Connected(1, "c1", epoch))
    machine.drain()
    assert watermarks(machine) == {"c1": its}
    machine.boot()
    assert watermarks(machine)["c1"] == its, "and the log says so from then on"


def test_a_watermark_for_all_holds_for_whoever_was_known_and_for_the_first_that_comes() -> None:
    machine = booted(below("c1", 1, 1), below("", 2, 5))
    assert watermarks(machine)["c1"] == (2, 5)
    assert booted(below("", 2, 5)).core._m.watermark_of("c2").durable == (2, 5)


def test_a_core_tells_its_starts() -> None:
    assert Machinery().core.starts.known == []


@pytest.mark.parametrize("by_hand, field", [(False, "settlements"), (True, "acknowledgements")])
def test_a_commit_proves_what_it_did_where_the_log_does_not_say_that_it_was_by_hand(by_hand: bool, field: str) -> None:
    """Earlier software did not remember that: what it has written is a commit like any other."""
    finished = record_pb2.BranchFinished(transaction_id=T1, order=1, outcome=common_pb2.OUTCOME_COMMITTED, by_hand=by_hand)
    machine = booted(record_pb2.ParticipantRecord(branch_finished=finished).SerializeToString())
    machine.step(Connected(1, "c1", 7))
    machine.drain()
    machine.effects.clear()
    machine.step(FromCoordinator(1, participant_pb2.RollbackIfUnseen(transaction_id=T1, order=1)))
    (said,) = [effect for effect in machine.effects if isinstance(effect, Send)]
    assert said.field == field


@pytest.mark.parametrize("state", [State.PREPARED, State.PARKED])
def test_of_why_a_commit_was_by_hand_no_more_is_kept_than_a_coordinator_keeps(state: State) -> None:
    machine = reach(state)
    for kind, why in ((participant_pb2.FORCE_KIND_COMMIT, "y" * 100_000), (participant_pb2.FORCE_KIND_FORGET, "paid back")):
        machine.step(heard(participant_pb2.Force(transaction_id=T1, kind=kind, who="ann", why=why)))
        machine.drain()
    record = record_pb2.ParticipantRecord.FromString(machine.durable[-1])
    assert record.branch_finished.by_hand and len(record.branch_finished.why) == BY_HAND_CHARACTERS_MAX
    assert len(machine.core._m.branches[T1].by_hand) == BY_HAND_CHARACTERS_MAX


def test_an_outcome_of_a_later_version_is_not_taken_for_an_abort() -> None:
    """Whoever only asks whether it is COMMITTED would do that, and tell the coordinator so."""
    of_tomorrow: Any = 99
    finished = record_pb2.BranchFinished(transaction_id=T1, outcome=of_tomorrow)
    with pytest.raises(LogForeign, match="has the outcome 99") as caught:
        booted(record_pb2.ParticipantRecord(branch_finished=finished).SerializeToString())
    assert caught.value.reason is Reason.LOG_TOO_NEW
