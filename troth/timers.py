"""Many timers, few of which ever fire: a timing wheel of coarse slots (Varghese & Lauck, SOSP 1987, scheme 6).

Nearly every timeout is cancelled, because nearly every transaction finishes. A heap would keep the cancelled ones until they
fall due; here a cancelled timer is gone at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Timers(Generic[Key]):
    """At most one timer a key; each fires at the end of its slot, never early."""

    __slots__ = ("_order", "_slot_of", "_slot_seconds", "_slots")

    def __init__(self, slot_seconds: float = 0.05) -> None:
        self._slot_seconds = slot_seconds
        self._slot_of: dict[Key, int] = {}
        self._slots: dict[int, dict[Key, None]] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._slot_of)

    def due(self, key: Key) -> float | None:
        """When the key's timer fires, or `None`."""
        slot = self._slot_of.get(key)
        return None if slot is None else slot * self._slot_seconds

    def set(self, key: Key, at: float) -> None:
        """Let the key's timer fire at `at` (monotonic seconds), and no longer when it did before."""
        slot = int(at / self._slot_seconds) + 1
        before = self._slot_of.get(key)
        if before is not None:
            del self._slots[before][key]
        keys = self._slots.get(slot)
        if keys is None:
            keys = self._slots[slot] = {}
            heapq.heappush(self._order, slot)
        keys[key] = None
        self._slot_of[key] = slot

    def cancel(self, key: Key) -> None:
        """Forget the key's timer, if there is one."""
        slot = self._slot_of.pop(key, None)
        if slot is not None:
            # An emptied slot stays until it is due: there are few slots, however many timers.
            del self._slots[slot][key]

    def deadline(self) -> float | None:
        """When the next timer fires, or `None`."""
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heapq.heappop(self._order)]
        return self._order[0] * self._slot_seconds if self._order else None

    def pop_due(self, now: float) -> list[Key]:
        """Remove and return the keys whose timers have fired, in order."""
        fired: list[Key] = []
        while self._order and self._order[0] * self._slot_seconds <= now:
            keys = self._slots.pop(heapq.heappop(self._order))
            fired.extend(keys)
            for key in keys:
                del self._slot_of[key]
        return fired
