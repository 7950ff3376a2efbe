"""What operators forced is told, and kept, and never contradicts in silence (DESIGN section 4, rule 18)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.checkers import HEURISTIC, checker
from tests.sim.clients import COMMITTED
from tests.sim.operators import WHO, WHY
from tests.sim.roles import ParticipantProcess
from tests.sim.scene import Scene
from troth.v1 import common_pb2, record_pb2


@checker("heuristics are told")
def heuristics_told(scene: Scene) -> Iterator[str]:
    """A branch that an operator ended against the decision is reported MIXED or HAZARD with who, when and why, until it is
    forgotten; one that was ended as decided is nothing to report; and whatever nobody touched is neither."""
    for name, outcome in scene.outcomes.items():
        if outcome in HEURISTIC and not scene.touched(name):
            yield f"{name} is listed as {common_pb2.Outcome.Name(outcome)}, and nobody forced anything"
    for name, forced in (scene.operators.forced if scene.operators else {}).items():
        if name in scene.expected:
            yield from _forced(scene, name, forced)


def _forced(scene: Scene, name: str, forced: dict[str, int]) -> Iterator[str]:
    expected, found = scene.by_protocol(name)
    stands = scene.applied(name)
    owed = [one for one in forced if one in scene.expected[name]]
    if expected:
        wrong = [one for one in owed if (one in stands) is not bool(found)]
    else:
        wrong = owed if len({one in stands for one in owed}) > 1 else []
    for one in owed if expected else ():
        kind = f"forced {'commit' if one in stands else 'abort'} against the decision" if one in wrong else "forced as decided"
        scene.coordinator.world.reach(kind)
    if wrong and scene.outcomes.get(name) not in HEURISTIC:
        told = common_pb2.Outcome.Name(scene.outcomes.get(name, 0))
        yield f"{name} was ended otherwise at {wrong} by an operator, and is told as {told}"
    for one in wrong:
        if expected:
            yield from _recorded(scene, name, one)


def _recorded(scene: Scene, name: str, participant: str) -> Iterator[str]:
    text = "".join(_reports(scene, name, participant))
    when = " UTC: " in text or (scene.operators and name in scene.operators.abandoned)  # that record has its own time
    if not (WHO in text and WHY in text and when):
        yield f"{name}: the coordinator's log does not say who forced {participant}, when and why, but {text!r}"


def _reports(scene: Scene, name: str, participant: str) -> Iterator[str]:
    for _, body in scene.coordinator.disk.durable:
        record = record_pb2.CoordinatorRecord.FromString(body)
        if record.HasField("heuristic") and (record.heuristic.transaction_id, record.heuristic.participant) == (name, participant):
            yield f"{record.heuristic.who} {record.heuristic.why} {record.heuristic.branch_outcome}; "


@checker("forced branches are kept")
def forced_kept(scene: Scene) -> Iterator[str]:
    """A branch that was ended against the decision stays in its participant's log, with who, when and why, until it is
    forgotten."""
    for name in scene.operators.forced if scene.operators else ():
        if name not in scene.expected or scene.outcomes.get(name) not in HEURISTIC:
            continue
        expected, found = scene.by_protocol(name)
        for one in set(scene.operators.forced[name]) - scene.operators.undone.get(name, set()):
            stands = one in scene.applied(name)
            if expected and one in scene.expected[name] and stands is not bool(found):
                yield from _in_log(scene.participants[one], name)


def _in_log(participant: ParticipantProcess, name: str) -> Iterator[str]:
    for _, body in participant.disk.durable:
        record = record_pb2.ParticipantRecord.FromString(body).branch_finished
        if record.transaction_id == name and record.forced and (record.who, record.why) == (WHO, WHY) and record.forced_at_ms:
            return
    yield f"{participant.name} holds no record of who ended {name}, when and why"


@checker("AC5 nothing left")
def nothing_in_doubt(scene: Scene) -> Iterator[str]:
    """Before anything is forgotten, nothing is open but what an operator has ended: whoever is in doubt beside it is told."""
    for participant in scene.participants.values():
        for name, state in participant.core.states():
            if name not in (scene.operators.forced if scene.operators else ()) or participant.name not in scene.forced(name):
                yield f"{participant.name} still has {name}, {state.name}"


@checker("told is true to operators")
def outcomes_true(scene: Scene) -> Iterator[str]:
    """A transaction is listed as COMMITTED only where it stands, and as ABORTED only where it does not."""
    for name, outcome in scene.outcomes.items():
        if name not in scene.expected:
            continue
        expected, found = scene.by_protocol(name)
        if outcome == COMMITTED and expected and not found:
            yield f"{name} is listed as committed, and nothing stands"
        if outcome == common_pb2.OUTCOME_ABORTED and found:
            yield f"{name} is listed as aborted, and stands at {found}"
