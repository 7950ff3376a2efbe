"""The participant's core under a coordinator that says anything at all.

The honest part: a transaction that is prepared and one that is committed before the noise, and one that runs after it. The
noise speaks of every other transaction. A coordinator decides what it likes about its own transactions, which is its office;
so what must hold is that the core survives, stays within its limits, says nothing about what it was not asked, and that
nobody else's branches change.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from participant_sdk.core import effects as out
from participant_sdk.core import events as into
from participant_sdk.core.branches import State
from participant_sdk.core.work import NO_KEYS, SHARED_WHOLE, WHOLE, Keys, ResourceKind
from tests.fuzz.budget import budget
from tests.fuzz.hostile import ids_of, messages
from tests.participant_core.driver import Machinery
from troth.errors import ProtocolError
from troth.v1 import common_pb2, participant_pb2

SESSION = "c1.5.0123abcd.1"
PREPARED, COMMITTED, LATER = (f"{SESSION}.{number}" for number in (1, 2, 3))
NOISE = [f"{SESSION}.{number}" for number in (11, 12, 13)]
IDS = [one for one in ids_of(NOISE, SESSION) if one not in (PREPARED, COMMITTED, LATER)]
SAID = (
    participant_pb2.Enlisted, participant_pb2.Decision, participant_pb2.RollbackIfUnseen, participant_pb2.Force,
    participant_pb2.Watermark,
)  # fmt: skip
KINDS = (ResourceKind.ATOMIC, ResourceKind.LOGGED, ResourceKind.EXTERNAL)


@st.composite
def noise(draw: st.DrawFn) -> Any:
    """What a stream brings, what the service does, and what time does."""
    stream = draw(st.sampled_from((1, 1, 1, 1, 0, 2, 2**64)))
    match draw(st.integers(0, 9)):
        case 0 | 1 | 2:
            keys = draw(st.sampled_from((NO_KEYS, Keys(("k1",)), Keys(("k1",), ("k2",)), WHOLE, SHARED_WHOLE)))
            prepare = draw(messages(participant_pb2.Prepare, IDS))
            for operation in prepare.operations:
                operation.name = draw(st.sampled_from(("debit", "read", "refuse", "conflict", "late")))
            if draw(st.booleans()):
                prepare.incarnation = 1
            return into.PrepareReceived(stream, prepare, tuple(prepare.operations), keys)
        case 3:
            operation = common_pb2.Operation(name=draw(st.sampled_from(("debit", "read", "refuse"))))
            return into.Call(object(), draw(st.sampled_from(NOISE)), draw(st.sampled_from("ab")), 0, operation, Keys(("k1",)))
        case 4:
            return draw(st.sampled_from((0.0, 1.0, 40.0, "sync", "answer")))
        case _:
            kind = draw(st.sampled_from(SAID))
            message = draw(messages(kind, IDS))
            if isinstance(message, participant_pb2.Watermark):
                # One that passes the honest branches would be the coordinator's own word that they are over.
                message.below = min(message.below, 1) if message.epoch == 5 else message.below
            return into.FromCoordinator(stream, message)


class Scene:
    """A participant with a branch in doubt and a committed one."""

    def __init__(self, kind: ResourceKind) -> None:
        self.machine = machine = Machinery(kind, keeps_identity=True)
        machine.step(into.Start(1))
        self.settle()
        machine.step(into.Connected(1, "c1", 5))
        for number, transaction_id in enumerate((PREPARED, COMMITTED), 1):
            self.prepare(transaction_id, number)
        self.decide(COMMITTED)
        machine.effects.clear()

    def settle(self) -> None:
        """Let everything that runs end, and be durable."""
        for _ in range(4):
            self.machine.sync()
            self.machine.answer()

    def prepare(self, transaction_id: str, order: int) -> None:
        message = participant_pb2.Prepare(
            transaction_id=transaction_id, order=order, incarnation=1, timeout_ms=5000, first_attempt_ms=order,
            operations=[common_pb2.Operation(name="debit")],
        )  # fmt: skip
        self.machine.step(into.PrepareReceived(1, message, tuple(message.operations), Keys((f"honest{order}",))))
        self.settle()

    def decide(self, transaction_id: str) -> None:
        decision = participant_pb2.Decision(transaction_id=transaction_id, kind=participant_pb2.DECISION_KIND_COMMIT)
        self.machine.step(into.FromCoordinator(1, decision))
        self.settle()

    def take(self, step: Any) -> None:
        """One step; nothing but a protocol error may come out of it."""
        if isinstance(step, float):
            self.machine.advance(step)
        elif step == "sync":
            self.machine.sync()
        elif step == "answer":
            self.machine.answer()
        else:
            try:
                self.machine.step(step)
            except ProtocolError:
                self.machine.take()

    def state(self, transaction_id: str) -> State:
        branch = self.machine.core._m.branches.get(transaction_id)
        return State.UNSEEN if branch is None else branch.state

    def said_of(self, transaction_id: str) -> list[Any]:
        """What was said of one transaction, other than questions."""
        sends = [effect.message for effect in self.machine.effects if isinstance(effect, out.Send)]
        questions = (participant_pb2.Inquiry, participant_pb2.BranchReport)
        return [one for one in sends if one.transaction_id == transaction_id and not isinstance(one, questions)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@budget(100)
@given(steps=st.lists(noise(), min_size=1, max_size=25))
def test_noise_changes_nothing_for_honest_branches(kind: ResourceKind, steps: list[Any]) -> None:
    scene = Scene(kind)
    for step in steps:
        scene.take(step)
    scene.settle()
    assert scene.state(PREPARED) is State.PREPARED
    assert scene.state(COMMITTED) is State.COMMITTED
    assert scene.said_of(PREPARED) == scene.said_of(COMMITTED) == []
    scene.decide(PREPARED)
    assert scene.state(PREPARED) is State.COMMITTED
    scene.prepare(LATER, 10**6)
    scene.machine.advance(60.0)
    scene.settle()
    assert scene.said_of(LATER)[0].kind in (participant_pb2.VOTE_KIND_YES, participant_pb2.VOTE_KIND_NO)
    after_restart(scene)


def after_restart(scene: Scene) -> None:
    """The log that was written is read back."""
    machine = scene.machine
    for owner in ["", *list(machine.core._m.branches)]:
        machine.core.live_records(owner)
    machine.boot()
    machine.step(into.Start(2))
    scene.settle()
    assert scene.state(PREPARED) is State.COMMITTED
    assert scene.state(COMMITTED) is State.COMMITTED
