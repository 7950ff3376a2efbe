"""The lives of a log: what tells a log from an older copy of itself, and from another one of the same name.

Each process that runs on a log begins a *life* of it: a number that grows by one at least, a random nonce, and the position at
which the log stood before. A *position* is the seq of the newest durable record; seqs are never given twice in one log.

Whoever listens to a log remembers the last life that it heard, and the highest position that it told there; a position is told only
once it is durable. A log that did not begin that life, or in which that life ended before that position, is not the log that
was heard: it was put back from an older copy, has lost its end, or is another. What was written since does not hide that:
restarts add lives, and each says where the one before it ended. A tail that was never synced may be lost: nobody was told of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

JUMP_MAX = 1_000_000
"""How much higher a life's number may be than the highest one that was seen before; starts that nobody heard of grow it too."""
LIVES_MAX = 10_000
"""Lives that a log remembers; the oldest go first."""


class Life(NamedTuple):
    """One process's time with a log."""

    number: int
    """A coordinator's epoch, or a participant's incarnation."""
    nonce: str
    after: int
    """The log's position before it began."""


class Lives:
    """Every life that a log knows to have begun."""

    def __init__(self) -> None:
        self._lives: dict[int, Life] = {}
        self.log_id = ""
        """The log's random identity."""
        self.unrecorded_through = 0
        """The highest number that earlier software began: of those up to it the log need not know the nonce."""

    def __iter__(self) -> Iterator[Life]:
        return iter(self._lives.values())

    def __len__(self) -> int:
        return len(self._lives)

    def newest(self) -> Life:
        """The present life, once it was added."""
        return self._lives[max(self._lives)]

    def renumber(self, number: int) -> None:
        """The present life, which has not begun, gets a higher number."""
        life = self._lives.pop(max(self._lives))
        self._lives[number] = life._replace(number=number)

    def add(self, life: Life, *, recorded: bool = True) -> None:
        """A life began; `recorded` unless software wrote it that kept only the newest."""
        self._lives[life.number] = life
        if not recorded:
            self.unrecorded_through = max(self.unrecorded_through, life.number)
        while len(self._lives) > LIVES_MAX:
            del self._lives[min(self._lives)]

    def began(self, number: int, nonce: str) -> bool:
        """Whether this very log began the life."""
        life = self._lives.get(number)
        return life.nonce == nonce if life is not None else 0 < number <= self.unrecorded_through

    def ended_at(self, number: int) -> int | None:
        """The position at which a life ended, which is where a later one began; `None` for the present one, and where that is not
        known."""
        later = [life for life in self._lives.values() if life.number > max(number, self.unrecorded_through)]
        return min(later).after if later else None

    def lacks(self, number: int, nonce: str, position: int) -> bool:
        """Whether the log lacks what was heard of it: the life, or its end."""
        ended = self.ended_at(number)
        return not self.began(number, nonce) or (ended is not None and position > ended)
