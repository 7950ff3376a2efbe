"""Declared lock keys: a table of exclusive locks with bounded wait-die.

Rosenkrantz, Stearns & Lewis, "System level concurrency control for distributed database systems" (TODS 1978): a request may
wait only for *younger* owners; one that meets an older owner dies and is tried again with its old age, so that it becomes
the oldest at last. Every edge of the waits-for graph goes from older to younger, at every participant alike, hence there is no
cycle, not even across participants that know nothing of each other. Age is `(first_attempt_ms, transaction_id)`.

- Waiters stand in line: a request conflicts with waiters ahead of it as it does with holders. So in each line everybody is
  older than those ahead, who finish first, and nobody is overtaken for ever.
- A request takes all of its keys at once or none.
- The key `"*"` (the whole resource) conflicts with every other owner, also with one that holds no key.
- *Patient* requests (local work of the service) never die and count as younger than everybody. They hold nothing while they
  wait, but may stand between two others; an owner that already holds something therefore passes them in line, and what is
  left of a cycle through several participants ends with the time limit that the core puts on each wait.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import chain
from typing import NamedTuple

from participant_sdk.core.work import WHOLE_RESOURCE

Owner = Hashable
Age = tuple[int, str]

YOUNGEST: Age = (1 << 64, "")
"""The age of patient owners."""


class Answer(IntEnum):
    """What becomes of a request."""

    GRANTED = 0
    WAITS = 1
    """It stands in line; `release` or `withdraw` will say that it was granted."""
    DIES = 2
    """It met somebody older; nothing has changed."""
    FULL = 3
    """Too many wait already; nothing has changed."""


_GRANTED = Answer.GRANTED


class _Request(NamedTuple):
    owner: Owner
    age: Age
    keys: Sequence[str]
    number: int

    @property
    def patient(self) -> bool:
        return self.age is YOUNGEST


class LockTable:
    """Who holds what, and who waits. An owner has at most one request in line."""

    __slots__ = ("_ages", "_held", "_holder", "_lines", "_number", "_waiting", "_waiting_max")

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._holder: dict[str, Owner] = {}
        self._held: dict[Owner, list[str]] = {}
        self._ages: dict[Owner, Age] = {}
        self._waiting: dict[Owner, _Request] = {}
        self._lines: dict[str, dict[Owner, _Request]] = {}
        self._number = 0

    def waiting(self) -> int:
        """How many requests stand in line."""
        return len(self._waiting)

    def waits(self, owner: Owner) -> bool:
        """Whether an owner stands in line."""
        return owner in self._waiting

    def held(self, owner: Owner) -> Sequence[str]:
        """The keys that an owner holds."""
        return self._held.get(owner, ())

    def owners(self) -> Iterable[Owner]:
        """Everybody who holds something, be it no key at all."""
        return self._held.keys()

    def in_line(self) -> Iterable[Owner]:
        """Everybody who waits, first come first."""
        return self._waiting.keys()

    # ---- asking

    def request(self, owner: Owner, age: Age, keys: Sequence[str]) -> Answer:
        """Ask for keys, in addition to those that the owner holds. `age` is `YOUNGEST` for a patient owner."""
        assert owner not in self._waiting, f"{owner} waits already"
        if self._is_free_at_once(owner, keys):
            self._take(owner, age, keys)
            return _GRANTED
        self._number += 1
        request = _Request(owner, age, keys, self._number)
        if next(self._blocking_ages(request), None) is None:
            self._take(owner, age, keys)
            return Answer.GRANTED
        if age is not YOUNGEST and any(age >= other for other in self._blocking_ages(request)):
            return Answer.DIES
        if len(self._waiting) >= self._waiting_max:
            return Answer.FULL
        self._waiting[owner] = request
        for key in keys:
            self._lines.setdefault(key, {})[owner] = request
        return Answer.WAITS

    def take(self, owner: Owner, age: Age, keys: Sequence[str]) -> None:
        """Lock again at recovery what a record names; what is held already stays with its holder."""
        self._take(owner, age, keys)

    def release(self, owner: Owner) -> list[Owner]:
        """Let go of all that an owner holds. Returns the owners whose requests are granted by that, in order."""
        keys = self._held.pop(owner, None)
        if keys is None:
            return []
        del self._ages[owner]
        for key in keys:
            del self._holder[key]
        return self._grant(keys) if self._waiting else []

    def withdraw(self, owner: Owner) -> list[Owner]:
        """Take an owner's request out of the line. Returns the owners whose requests are granted by that, in order."""
        request = self._waiting.get(owner)
        if request is None:
            return []
        self._leave_line(request)
        return self._grant(request.keys)

    # ---- conflicts

    def _is_free_at_once(self, owner: Owner, keys: Sequence[str]) -> bool:
        """The fast way, for a table in which nobody waits and nobody has or wants the whole."""
        holder = self._holder
        if self._waiting or WHOLE_RESOURCE in holder or WHOLE_RESOURCE in keys:
            return False
        for key in keys:  # noqa: SIM110 - a generator costs more than the loop
            if holder.get(key, owner) != owner:
                return False
        return True

    def _blocking_ages(self, request: _Request) -> Iterator[Age]:
        """The ages of all whom a request conflicts with: holders, and waiters ahead of it."""
        for owner in self._conflicting_holders(request):
            yield self._ages[owner]
        passes_patient = request.owner in self._held
        for other in self._conflicting_waiters(request):
            ahead = other.number < request.number and other.owner != request.owner
            if ahead and not (passes_patient and other.patient):
                yield other.age

    def _conflicting_holders(self, request: _Request) -> Iterator[Owner]:
        owner = request.owner
        if WHOLE_RESOURCE in request.keys:
            yield from (other for other in self._held if other != owner)
            return
        for key in (WHOLE_RESOURCE, *request.keys):
            other = self._holder.get(key, owner)
            if other != owner:
                yield other

    def _conflicting_waiters(self, request: _Request) -> Iterator[_Request]:
        if WHOLE_RESOURCE in request.keys:
            yield from self._waiting.values()
            return
        for key in (WHOLE_RESOURCE, *request.keys):
            yield from self._lines.get(key, {}).values()

    # ---- changes

    def _take(self, owner: Owner, age: Age, keys: Sequence[str]) -> None:
        held = self._held.get(owner)
        if held is None:
            held = self._held[owner] = []
            self._ages[owner] = age
        for key in keys:
            if key not in self._holder:
                self._holder[key] = owner
                held.append(key)

    def _leave_line(self, request: _Request) -> None:
        del self._waiting[request.owner]
        for key in set(request.keys):
            line = self._lines[key]
            del line[request.owner]
            if not line:
                del self._lines[key]

    def _grant(self, freed: Sequence[str]) -> list[Owner]:
        granted: list[Owner] = []
        for request in self._candidates(freed):
            if next(self._blocking_ages(request), None) is None:
                self._leave_line(request)
                self._take(request.owner, request.age, request.keys)
                granted.append(request.owner)
        return granted

    def _candidates(self, freed: Sequence[str]) -> list[_Request]:
        """Who may be granted when these keys are free, in line order. Whoever waits for all waits for every key."""
        if WHOLE_RESOURCE in freed:
            return list(self._waiting.values())
        lines = [self._lines.get(key, {}) for key in {*freed, WHOLE_RESOURCE}]
        found = {request.owner: request for request in chain.from_iterable(line.values() for line in lines)}
        return sorted(found.values(), key=lambda request: request.number)
