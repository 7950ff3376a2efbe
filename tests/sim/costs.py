"""The exact price of a transaction, counted at the network and at the disks and not by the product's own counters."""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.checkers import checker, undisturbed
from tests.sim.clients import ABORTED, COMMITTED, Attempt
from tests.sim.results import result_of
from tests.sim.scene import Scene


@checker("messages and forced records")
def costs(scene: Scene) -> Iterator[str]:
    """In a calm run a committed transaction of n participants, r of which only read, and v of which voted early, costs 4n-2r-2v
    messages and 1+2(n-r) forced records; of all-read 2n and 0; of one participant 2 and 1, with a key 2 and 2, with an early vote 2
    and 3. Whoever voted early asks soon what became of it: where that crosses the decision, it is told and acknowledged once more.
    A result that is left under a key costs one forced record more where all have only read, and otherwise nothing. An abort forces
    nothing at the coordinator."""
    if not scene.calm:
        return
    for attempt in undisturbed(scene):
        if attempt.outcome == COMMITTED and attempt.told_of == attempt.transaction_id:
            yield from _committed(scene, attempt)
    for name, attempt in scene.judged():
        allowed = 1 if attempt.key and len(attempt.work) == 1 else 0
        at_coordinator = scene.witness.forced[scene.coordinator.name, name]
        if attempt.outcome == ABORTED and at_coordinator > allowed:
            yield f"{name} was aborted with {at_coordinator} forced records at the coordinator"


def _committed(scene: Scene, attempt: Attempt) -> Iterator[str]:
    name, n = attempt.transaction_id, len(attempt.work)
    writers = [one for one in attempt.work if scene.expected[name].get(one) is not None]
    r = n - len(writers)
    v = len(attempt.brought)
    messages = 2 * n if n == 1 or r == n else 4 * n - 2 * r - 2 * v
    left = not writers and bool(result_of(attempt))
    if n == 1 and not v:
        at_coordinator, at_each = bool(attempt.key) + left, 1
    else:
        at_coordinator, at_each = int(bool(writers) or left), 2
    taken, crossed = scene.witness.messages[name], 2 * min(v, scene.witness.asked[name])
    if not messages <= taken <= messages + crossed:
        yield f"{name}, n={n} r={r} v={v}, took {taken} messages, and {messages} are enough"
    forced = {one: scene.witness.forced[one, name] for one in [scene.coordinator.name, *attempt.work]}
    due = {scene.coordinator.name: at_coordinator, **{one: at_each if one in writers else 0 for one in attempt.work}}
    if forced != due:
        yield f"{name}, n={n} r={r} v={v} key={attempt.key!r}, forced {forced}, and {due} are due"
