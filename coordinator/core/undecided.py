"""Which one-shot transactions are undecided, the eldest first.

A participant lets somebody wait for the locks of a one-shot only if he is older than all that may be before it, so each Prepare
says how old the eldest of them is: the theory is in `participant_sdk/core/locks.py`.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from coordinator.core.model import State, Transaction

WAITING = frozenset({State.ACTIVE, State.PREPARING, State.OPENING, State.HANDED_OVER})
"""A branch of a one-shot may wait for locks only here. Who is decided or aborted has its COMMIT or ABORT on the same streams before
whatever begins later, and who is being settled its RollbackIfUnseen."""
ROOM_MIN = 64


class Undecided:
    """A heap by first attempt. Those that are decided are thrown out when they come to the top, or when they fill half of it."""

    __slots__ = ("_begun", "_heap", "_room")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Transaction]] = []
        self._begun = 0
        self._room = ROOM_MIN

    def __len__(self) -> int:
        return len(self._heap)

    def begin(self, txn: Transaction) -> int:
        """A one-shot begins. Returns the first attempt of the eldest that is undecided, this one included."""
        heap = self._heap
        while heap and heap[0][2].state not in WAITING:
            heappop(heap)
        if len(heap) >= self._room:
            heap[:] = [entry for entry in heap if entry[2].state in WAITING]
            heapify(heap)
            self._room = 2 * len(heap) + ROOM_MIN
        self._begun += 1
        heappush(heap, (txn.first_attempt_ms, self._begun, txn))
        return heap[0][0]
