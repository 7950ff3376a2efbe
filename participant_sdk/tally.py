"""What is known of the work that was done for one caller: who did it, in which incarnation, how much, and whether that is all."""

from __future__ import annotations

import threading
from collections import Counter

from troth.v1 import client_pb2, common_pb2


class Tally:
    """Adds up what calls acknowledged. Of an interactive transaction it becomes the commit's list of branches; of a call that a
    service handles, what its caller is told (DESIGN section 4, rule 4). Calls may end in several threads."""

    __slots__ = ("_done", "_lock", "_under_way", "_unknown", "_votes")

    def __init__(self) -> None:
        self._done: dict[tuple[str, int], int] = {}
        """Operations of each incarnation of each participant; 0 where there may be a branch all the same."""
        self._votes: dict[tuple[str, int], common_pb2.SealedVote] = {}
        """What was voted early."""
        self._under_way = 0
        """Calls that have not ended."""
        self._unknown = False
        """Whether a call has ended, and nobody knows what it did."""
        self._lock = threading.Lock()

    def add(self, participant: str, operations: int, incarnation: int) -> None:
        """So many more operations of a participant succeeded."""
        key = (participant, incarnation)
        with self._lock:
            self._done[key] = self._done.get(key, 0) + operations

    def count(self, done: client_pb2.AcknowledgedOperations) -> None:
        """Take over what a call acknowledged; one that names nobody says that nothing was done."""
        if done.unknown:
            self._unknown = True
        elif done.participant:
            self.add(done.participant, done.count, done.incarnation)
            if done.HasField("vote"):
                self.vote(done.participant, done.incarnation, done.vote)

    def vote(self, participant: str, incarnation: int, vote: common_pb2.SealedVote) -> None:
        """A participant has voted early."""
        self._votes[participant, incarnation] = vote

    def call_begins(self) -> None:
        """A call is made; until it has ended, nobody knows what it does."""
        with self._lock:
            self._under_way += 1

    def call_ends(self) -> None:
        """What it did was counted, or is unknown."""
        with self._lock:
            self._under_way -= 1

    @property
    def counts(self) -> dict[str, int]:
        """How many operations of each participant succeeded."""
        counts: Counter[str] = Counter()
        for (participant, _), operations in self._known():
            counts[participant] += operations
        return dict(+counts)

    @property
    def participants(self) -> tuple[str, ...]:
        """Everybody who may have a branch."""
        return tuple(sorted({participant for (participant, _), _ in self._known()}))

    def told(self) -> list[client_pb2.AcknowledgedOperations]:
        """All of it, for whoever asks to commit, or passes it on to one who does."""
        told = [
            client_pb2.AcknowledgedOperations(
                participant=participant, count=operations, incarnation=incarnation, vote=self._votes.get((participant, incarnation))
            )
            for (participant, incarnation), operations in sorted(self._known())
        ]
        if self._unknown or self._under_way:
            told.append(client_pb2.AcknowledgedOperations(unknown=True))
        return told

    def _known(self) -> list[tuple[tuple[str, int], int]]:
        with self._lock:
            return list(self._done.items())
