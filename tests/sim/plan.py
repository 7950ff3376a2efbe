"""What a run is going to do by itself: its blows, its climate, its workload, its operators.

All of it is drawn before the run begins, each item by its name and with a random generator of its own. So a run that fails can be
repeated with fewer items, and those that are left do the same as before.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

_MIX = 0x9E3779B97F4A7C15


class Plan:
    """Lists the items of a run. `keep` names those that take place; `None` lets all of them."""

    def __init__(self, seed: int, keep: Iterable[str] | None = None) -> None:
        self._random = random.Random(seed * _MIX + 1)
        self._keep = None if keep is None else frozenset(keep)
        self.items: list[str] = []

    def draw(self, name: str) -> random.Random | None:
        """The generator of one item, or `None` if the item does not take place. Everything it needs is drawn from that."""
        own = self._random.getrandbits(48)
        if self._keep is not None and name not in self._keep:
            return None
        self.items.append(name)
        return random.Random(own)

    def chance(self, name: str, probability: float) -> random.Random | None:
        """As `draw`, of an item that only some runs have."""
        has = self._random.random() < probability
        own = self.draw(name) if has else None
        if not has:
            self._random.getrandbits(48)  # so that the others are the same, whether it is there or not
        return own

    def coin(self, probability: float) -> bool:
        """Whether the run is of a kind; kinds are no items, and stay as they are."""
        return self._random.random() < probability

    def count(self, least: int, most: int) -> int:
        """How many items of a kind there are."""
        return self._random.randint(least, most)
