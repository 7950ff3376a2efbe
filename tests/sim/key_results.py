"""What is heard under a key is what the committed attempt left there, and a key of which that was told has no other commit.

The first says it of the bytes. The second is needed besides, because a transaction that has changed nothing leaves no trace by
which another checker would know that it had committed: if its record is lost, the key is free, and its next holder says something
else.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.checkers import checker
from tests.sim.clients import COMMITTED
from tests.sim.results import result_of
from tests.sim.scene import Scene


@checker("a key gives back what its commit left")
def results_are_their_commits(scene: Scene) -> Iterator[str]:
    """Whoever hears a result under a key hears the one that the committed attempt left, and nobody else commits under that key."""
    # What a log has lost is proven again by participants, who know of no key. Of a cell it is not asked which shard has lost what.
    core = getattr(scene.coordinator, "core", None)
    lost = core is None or bool(core._book.losses)
    for key, holder, result in sorted(scene.history.results):
        attempt = scene.history.attempts.get(holder)
        if attempt is None:
            yield f"{holder} holds {key}, and nobody began it"
        elif attempt.key != key:
            yield f"{holder} of the key {attempt.key} was told under {key}"
        elif result != result_of(attempt) and (result or not lost):
            yield f"under {key} was told {result!r} of {holder}, which left {result_of(attempt)!r}"
    if not lost:
        yield from _several(scene)


def _several(scene: Scene) -> Iterator[str]:
    holders: dict[str, set[str]] = {}
    for name, attempt in scene.judged():
        told = COMMITTED in scene.history.told.get(name, ())
        if told and result_of(attempt) and not scene.touched(name):
            holders.setdefault(attempt.key, set()).add(name)
    for key, names in holders.items():
        if len(names) > 1:
            yield f"under {key} results of {sorted(names)} were told as committed"
