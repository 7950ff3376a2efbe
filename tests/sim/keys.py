"""A history for each idempotency key, judged as a register that is written at most once.

Every request under a key is an operation on it, from the moment when its client began it to each answer. COMMITTED says who wrote
the register; ABORTED says that it is not written. An operation may be answered by the state of the register at any moment between
its beginning and its answer, and no other (linearisability; Herlihy & Wing, TOPLAS 1990). Of a one-shot request more is asked,
because a retry joins: whoever says ABORTED, says so of the key as it is when he says it.

When the register was written is told by the disks: the record that is the commit point, a coordinator's Decided or a participant's
own commit in one phase.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.checkers import checker
from tests.sim.clients import ABORTED, COMMITTED, Attempt
from tests.sim.key_history import Told
from tests.sim.scene import Scene


@checker("told is true of keys")
def told_is_true_of_keys(scene: Scene) -> Iterator[str]:
    """Under a key everybody is told of one commit, which stands; and "aborted" only of a key that is not committed."""
    for key, attempts in _by_key(scene).items():
        owed = [attempt for attempt in attempts if scene.expected.get(attempt.transaction_id)]
        if owed and not any(scene.touched(attempt.transaction_id) for attempt in attempts):
            yield from _judge(scene, key, owed)


def _by_key(scene: Scene) -> dict[str, list[Attempt]]:
    keys: dict[str, list[Attempt]] = {}
    for _, attempt in scene.judged():
        if attempt.key:
            keys.setdefault(attempt.key, []).append(attempt)
    return keys


def _judge(scene: Scene, key: str, attempts: list[Attempt]) -> Iterator[str]:
    points = scene.witness.commit_points
    writers = {one.transaction_id: points[one.transaction_id] for one in attempts if scene.by_protocol(one.transaction_id)[1]}
    for attempt in attempts:
        committed = scene.keys.told.get((attempt.transaction_id, COMMITTED))
        if committed is not None and committed.holder not in writers:
            yield f"{attempt.transaction_id} was told that {committed.holder} holds {key}, and it was {sorted(writers)}"
        aborted = scene.keys.told.get((attempt.transaction_id, ABORTED))
        if aborted is not None:
            for name in [name for name, at in writers.items() if at <= _latest(attempt, aborted)]:
                yield f"{attempt.transaction_id} was told aborted under {key}, which {name} had committed"


def _latest(attempt: Attempt, aborted: Told) -> float:
    """The last moment at which the key must not have been committed."""
    return attempt.began if attempt.interactive else aborted.at
