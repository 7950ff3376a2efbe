"""Lock keys: who holds them, who waits for them, and who must not wait.

The lock of a key is exclusive or shared (Gray, Lorie, Putzolu & Traiger, 1976), and is held until the outcome. Waiting must
never close a cycle, not even one through several participants that know nothing of each other. Two orders see to that.

**One-shot transactions wait in the coordinator's order.** A one-shot asks each participant once, for all of its keys, when the
coordinator begins it; and the coordinator's one stream to each participant carries what it began first, first. So of two
one-shots of one life of a coordinator (a *sequence*) the same one comes first at every participant, and whoever comes later
waits. Deadlock among them is excluded as by resource ordering (Havender, 1968). What came out of order (a Prepare that was
repeated because the first was lost with its stream, behind one with a higher order) belongs to no sequence. A one-shot with a
single branch may come late (the record of its key is written first): it exists at one participant only (`Rank.alone`), so its
order there is that of its arrival.

**All others wait by age.** Interactive transactions ask again and again while they hold. For them, and between lives of
coordinators, the rule is wait-die (Rosenkrantz, Stearns & Lewis, "System level concurrency control for distributed database
systems", TODS 1978): wait only for *younger* owners, die of older ones and come again with the same age, `(first attempt, id)`.

**Where both meet**, plain wait-die would let a cycle through: O1 waits for O2 in the coordinator's order, O2 for the younger
interactive I, and I for O1, which is younger still. So a one-shot shows the world two ages. Its own says for whom it may wait.
Its *eldest*, the oldest first attempt among all one-shots that were undecided when it began, itself included, says who may wait
for it: it answers for everybody who is before it. (An interactive transaction answers for itself.) The rule, all of it, in
`_may_wait`:

    X may wait for Y   if both are of one sequence (Y came first then),   or if age(X) < eldest(Y)

**Who is nowhere else** is a mere place in line: while it waits it holds nothing, and once it holds something it waits for nothing.
Who stands behind it waits for those before it, all of them in this very table, so the rule is asked of those (`_ranks_through`):
its own age and eldest would say nothing of one that has begun after it and came first. Once it holds its keys everybody may wait
for it. An edge to it is thus an edge past it, and the proof need not know it.

**Keys that depend on data** are found while an operation runs. It is undone, and runs again with them. An interactive call asks for
them as for any others. A one-shot that is nowhere else lets go of what it has, and asks for everything anew at the end of the
line. A one-shot with several branches has a place in an order that it cannot change any more: it takes what it finds only if that
is free at once (no edge leaves it, and whoever comes to wait for it is asked by the same rule), else it votes NO. Its next attempt
has the same age, is recognised by that (`found`), and asks for everything at once, in its order.

*There is no cycle.* Suppose one. It has an edge by age, since the edges inside a sequence go from later to earlier. Between an
edge by age that enters a sequence at O and the next one, which leaves it from O' (perhaps O itself), all edges go to earlier
one-shots; O' was begun before O, and it still waits, so it was undecided when O began: eldest(O) <= age(O'). The first edge
needs age(X) < eldest(O), so age(X) < age(O'): from each edge by age to the next one the age grows. A cycle would bring it back.

*Nobody waits for ever.* In each line nobody is overtaken (a request conflicts with those ahead of it as it does with holders),
unless by an owner for whom it waits anyway. Whoever dies keeps its age, while `eldest` of new one-shots grows as old ones are
decided (each has a deadline): in the end it is older than all, and may wait. Each wait is bounded in time by the core besides.

**Owners that end** wait for nothing any more, anywhere: interactive work whose Prepare has come, whatever is being rolled back
or committed, is undecided or not ended at most for as long as messages travel. Everybody may wait for them (`finishing`).
Nobody does for those that only an operator, or a coordinator that is away, can end (`stuck`): not to wait lets others have what
this one holds elsewhere.

**Local work** of the service never dies, holds nothing while it waits, and bars others from its place in line only for a moment
at a time (`let_pass`): so a cycle through it ends by itself, and a long wait of a reader is nobody else's.

The key `"*"` is the whole resource: exclusive, it conflicts with every other owner, also with one that holds no key; shared,
with every owner but those that share it and hold nothing else. A request takes all of its keys at once or none.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from enum import IntEnum
from itertools import chain, islice
from typing import NamedTuple

from participant_sdk.core.held_up import KEYS_TOLD_MAX, LOOKED_AT_MAX, HeldUp, TurnedAway
from participant_sdk.core.work import NO_KEYS, SHARED_WHOLE, WHOLE, WHOLE_RESOURCE, Keys

Owner = Hashable
Age = tuple[int, str]
"""Milliseconds of the first attempt, and the transaction's id; the lesser is the older."""

YOUNGEST: Age = (1 << 64, "")
"""Younger than everybody."""
OLDEST: Age = (-1, "")
"""Older than everybody."""


class Rank(NamedTuple):
    """For whom an owner may wait, and who for it; see the rule above."""

    age: Age
    """Its own; `YOUNGEST` for local work, which never dies."""
    eldest: Age
    """The oldest age that it answers for."""
    sequence: str = ""
    """The coordinator's life in whose order it came; empty for whatever did not come in such an order."""
    alone: bool = False
    """Whether it is nowhere else, and asks once, for everything."""


LOCAL = Rank(YOUNGEST, YOUNGEST)
"""The rank of local work."""
STUCK = Rank(OLDEST, OLDEST)
"""The rank of who cannot end by itself."""


class Answer(IntEnum):
    """What becomes of a request."""

    GRANTED = 0
    WAITS = 1
    """It stands in line; `release` or `withdraw` will say that it was granted."""
    DIES = 2
    """It met somebody for whom it must not wait; nothing has changed."""
    FULL = 3
    """Too many wait already; nothing has changed."""


_GRANTED = Answer.GRANTED


class _Held:
    """What an owner holds."""

    __slots__ = ("exclusive", "rank", "shared")

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.exclusive: list[str] = []
        self.shared: list[str] = []

    @property
    def keys(self) -> Keys:
        return Keys(tuple(self.exclusive), tuple(self.shared))


class _Request:
    """One request in line."""

    __slots__ = ("bars", "keys", "number", "owner", "rank")

    def __init__(self, owner: Owner, rank: Rank, keys: Keys, number: int) -> None:
        self.owner = owner
        self.rank = rank
        self.keys = keys
        self.number = number
        self.bars = True
        """Whether those behind it wait for it."""


class LockTable:
    """Who holds what, and who waits. An owner has at most one request in line."""

    __slots__ = ("_exclusive", "_lines", "_number", "_owners", "_shared", "_turned_away", "_waiting", "_waiting_max")

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._owners: dict[Owner, _Held] = {}
        self._exclusive: dict[str, Owner] = {}
        self._shared: dict[str, dict[Owner, None]] = {}
        self._waiting: dict[Owner, _Request] = {}
        self._lines: dict[str, dict[Owner, _Request]] = {}
        self._number = 0
        self._turned_away: dict[Owner, TurnedAway] = {}
        """By owners that are stuck, and hold what was asked for."""

    def waiting(self) -> int:
        """How many requests stand in line."""
        return len(self._waiting)

    def counts(self) -> tuple[int, int]:
        """How many hold something, be it no key at all, and how many stand in line."""
        return len(self._owners), len(self._waiting)

    def waits(self, owner: Owner) -> bool:
        """Whether an owner stands in line."""
        return owner in self._waiting

    def waits_for(self, owner: Owner) -> list[Owner]:
        """Whom an owner in line waits for: holders, then those ahead of it."""
        return list(self._blockers(self._waiting[owner]))

    def held(self, owner: Owner) -> Keys:
        """The keys that an owner holds."""
        held = self._owners.get(owner)
        return NO_KEYS if held is None else held.keys

    def owners(self) -> Iterable[Owner]:
        """Everybody who holds something, be it no key at all."""
        return self._owners.keys()

    def in_line(self) -> Iterable[Owner]:
        """Everybody who waits, first come first."""
        return self._waiting.keys()

    def before(self, owner: Owner, keys: Keys) -> list[Owner]:
        """Whom an owner would wait for, if it asked for these keys."""
        return list(self._blockers(_Request(owner, LOCAL, keys, self._number + 1)))

    # ---- asking

    def request(self, owner: Owner, rank: Rank, keys: Keys) -> Answer:
        """Ask for keys, in addition to those that the owner holds."""
        assert owner not in self._waiting, f"{owner} waits already"
        if self._is_free_at_once(owner, keys):
            self._take(owner, rank, keys)
            return _GRANTED
        missing = self._missing(self._owners.get(owner), keys)
        if missing is None:
            return _GRANTED
        self._number += 1
        request = _Request(owner, rank, missing, self._number)
        blockers = list(self._blockers(request))
        if not blockers:
            self._take(owner, rank, missing)
            return _GRANTED
        if rank is not LOCAL and self._must_not_wait(request, blockers):
            self._turn_away(missing, blockers)
            return Answer.DIES
        if len(self._waiting) >= self._waiting_max:
            return Answer.FULL
        self._waiting[owner] = request
        for key in chain(missing.exclusive, missing.shared):
            self._lines.setdefault(key, {})[owner] = request
        return Answer.WAITS

    @staticmethod
    def _may_wait(rank: Rank, other: Rank) -> bool:
        """The rule; the other one came first."""
        return (rank.sequence == other.sequence and rank.sequence != "") or rank.age < other.eldest

    def take_if_free(self, owner: Owner, keys: Keys) -> bool:
        """Grant more keys to an owner of some if that needs no waiting; else nothing has changed."""
        held = self._owners[owner]
        missing = self._missing(held, keys)
        if missing is not None:
            if next(self._blockers(_Request(owner, held.rank, missing, self._number + 1)), None) is not None:
                return False
            self._take(owner, held.rank, missing)
        return True

    def _must_not_wait(self, request: _Request, blockers: list[Owner]) -> bool:
        """Whether the rule forbids to wait for one of these, or for one of those behind whom these are a mere place in line."""
        rank, through, holds = request.rank, False, request.owner in self._owners
        for blocker in blockers:
            ahead = self._waiting.get(blocker)
            if ahead is not None and ahead.rank.alone:
                # Without a look at whom that one waits for, if they are among these: the request conflicts with all of them.
                through = through or holds or not _within(ahead.keys, request.keys)
            elif not self._may_wait(rank, self._rank(blocker)):
                return True
        return through and any(not self._may_wait(rank, other) for other in self._ranks_through(request))

    def take(self, owner: Owner, rank: Rank, keys: Keys) -> None:
        """Lock again at recovery what a record names; what is held already stays with its holder."""
        free = tuple(key for key in keys.exclusive if key not in self._exclusive)
        self._take(owner, rank, Keys(free, tuple(key for key in keys.shared if key not in self._exclusive)))

    def finishing(self, owner: Owner) -> None:
        """The owner waits for nothing any more, anywhere: everybody may wait for it."""
        held = self._owners.get(owner)
        if held is not None:
            held.rank = LOCAL

    def stuck(self, owner: Owner) -> None:
        """Nobody knows when the owner will end: nobody may wait for it. Whoever waits already does so until its time is over."""
        held = self._owners.get(owner)
        if held is not None:
            held.rank = STUCK

    def let_pass(self, owner: Owner, passing: bool) -> list[Owner]:
        """Let those behind an owner in line pass it, or bar them again. Returns the owners that are granted by that, in order."""
        request = self._waiting.get(owner)
        if request is None:
            return []
        request.bars = not passing
        return self._grant(request.keys) if passing else []

    def release(self, owner: Owner) -> list[Owner]:
        """Let go of all that an owner holds. Returns the owners whose requests are granted by that, in order."""
        held = self._owners.pop(owner, None)
        if held is None:
            return []
        if self._turned_away:
            self._turned_away.pop(owner, None)
        for key in held.exclusive:
            del self._exclusive[key]
        for key in held.shared:
            sharers = self._shared[key]
            del sharers[owner]
            if not sharers:
                del self._shared[key]
        return self._grant(held.keys) if self._waiting else []

    def withdraw(self, owner: Owner) -> list[Owner]:
        """Take an owner's request out of the line. Returns the owners whose requests are granted by that, in order."""
        request = self._waiting.get(owner)
        if request is None:
            return []
        self._leave_line(request)
        return self._grant(request.keys)

    # ---- conflicts

    def _is_free_at_once(self, owner: Owner, keys: Keys) -> bool:
        """The fast way, for a table in which nobody waits, and for keys that nobody has, the whole included."""
        if self._waiting or keys.shared or self._shared:
            return False
        holder = self._exclusive
        if WHOLE_RESOURCE in holder or WHOLE_RESOURCE in keys.exclusive:
            return False
        for key in keys.exclusive:  # noqa: SIM110 - a generator costs more than the loop
            if key in holder:
                return False
        return True

    @staticmethod
    def _missing(held: _Held | None, keys: Keys) -> Keys | None:
        """What an owner asks for and does not hold yet; `None` when it holds it all. Of an owner that is not known yet that is
        everything, be it nothing: work without keys has its place in line as well. Whoever shares the whole and does something
        else besides needs it alone: he may change what others read."""
        if held is None:
            return keys
        if (keys == SHARED_WHOLE) is not (WHOLE_RESOURCE in held.shared):
            keys = WHOLE
        exclusive = tuple(key for key in keys.exclusive if key not in held.exclusive)
        shared = tuple(key for key in keys.shared if key not in held.exclusive and key not in held.shared)
        return Keys(exclusive, shared) if exclusive or shared else None

    def _rank(self, owner: Owner) -> Rank:
        held = self._owners.get(owner)
        return self._waiting[owner].rank if held is None else held.rank

    def _blockers(self, request: _Request) -> Iterator[Owner]:
        """Whom a request waits for: conflicting holders, and conflicting waiters ahead that do not wait for its owner anyway."""
        yield from self._conflicting_holders(request)
        own = self._owners.get(request.owner)
        for other in self._conflicting_waiters(request):
            ahead = other.number < request.number and other.bars
            if ahead and not (own is not None and conflict(other.keys, own.keys)):
                yield other.owner

    def _conflicting_holders(self, request: _Request) -> Iterator[Owner]:
        owner, keys = request.owner, request.keys
        if WHOLE_RESOURCE in keys.exclusive or WHOLE_RESOURCE in keys.shared:
            yield from (other for other, held in self._owners.items() if other != owner and conflict(keys, held.keys))
            return
        found: dict[Owner, None] = {}
        for key in (WHOLE_RESOURCE, *keys.exclusive):
            found.update(self._shared.get(key, {}))
        for key in (WHOLE_RESOURCE, *keys.exclusive, *keys.shared):
            if key in self._exclusive:
                found[self._exclusive[key]] = None
        found.pop(owner, None)
        yield from found

    def _conflicting_waiters(self, request: _Request) -> Iterable[_Request]:
        keys = request.keys
        if WHOLE_RESOURCE in keys.exclusive or WHOLE_RESOURCE in keys.shared:
            found = self._waiting
        else:
            found = {}
            for key in (WHOLE_RESOURCE, *keys.exclusive, *keys.shared):
                found.update(self._lines.get(key, {}))
        return [other for other in found.values() if other is not request and conflict(keys, other.keys)]

    def _ranks_through(self, request: _Request) -> Iterator[Rank]:
        """The ranks of all whom a request, not yet in line, would wait for through others that are nowhere else; `STUCK`
        when it would so wait for itself."""
        own = self._owners.get(request.owner)
        reach = NO_KEYS
        for ahead in reversed(self._waiting.values()):
            waits_for_it = own is not None and conflict(ahead.keys, own.keys)
            if not ahead.bars:
                continue
            if conflict(reach, ahead.keys):
                if waits_for_it:
                    yield STUCK
            elif waits_for_it or not conflict(request.keys, ahead.keys):
                continue
            if ahead.rank.alone:
                reach = Keys((*reach.exclusive, *ahead.keys.exclusive), (*reach.shared, *ahead.keys.shared))
            else:
                yield ahead.rank
        through = _Request(request.owner, request.rank, reach, request.number)
        yield from (self._owners[holder].rank for holder in self._conflicting_holders(through))

    # ---- for people

    def held_up(self, owner: Owner) -> HeldUp:
        """Whom an owner holds up. However much it holds, and however many wait, not more than `LOOKED_AT_MAX` are looked at."""
        held, before = self._owners.get(owner), self._turned_away.get(owner)
        times, keys = (before.times, dict(before.keys)) if before is not None else (0, {})
        waiting: set[Owner] = set()
        if held is not None and self._waiting:
            for key, request in islice(self._in_line_for(held.keys), LOOKED_AT_MAX):
                waiting.add(request.owner)
                keys[key] = None
        return HeldUp(len(waiting), times, tuple(islice(keys, KEYS_TOLD_MAX)))

    def _in_line_for(self, held: Keys) -> Iterator[tuple[str, _Request]]:
        """Who waits for one who holds these keys, and for which of them."""
        whole = WHOLE_RESOURCE in held.exclusive or WHOLE_RESOURCE in held.shared
        everybody = self._waiting if whole else self._lines.get(WHOLE_RESOURCE, {})
        yield from ((WHOLE_RESOURCE, other) for other in everybody.values() if conflict(other.keys, held))
        for key in islice(chain(held.exclusive, held.shared), LOOKED_AT_MAX):
            one = Keys((key,)) if key in self._exclusive else Keys((), (key,))
            yield from ((key, other) for other in self._lines.get(key, {}).values() if conflict(other.keys, one))

    def _turn_away(self, asked: Keys, blockers: list[Owner]) -> None:
        """Remember of those who cannot end by themselves that somebody came, and for which key."""
        for blocker in islice(blockers, LOOKED_AT_MAX):
            held = self._owners.get(blocker)
            if held is None or held.rank is not STUCK:
                continue
            if blocker not in self._turned_away and len(self._turned_away) >= LOOKED_AT_MAX:
                return
            away = self._turned_away.setdefault(blocker, TurnedAway())
            away.times += 1
            if len(away.keys) < KEYS_TOLD_MAX:
                came_for = (key for key in chain(asked.exclusive, asked.shared) if self._has(blocker, key))
                away.keys[next(came_for, WHOLE_RESOURCE)] = None

    def _has(self, owner: Owner, key: str) -> bool:
        return self._exclusive.get(key) == owner or owner in self._shared.get(key, ())

    # ---- changes

    def _take(self, owner: Owner, rank: Rank, keys: Keys) -> None:
        held = self._owners.get(owner)
        if held is None:
            held = self._owners[owner] = _Held(LOCAL if rank.alone else rank)
        for key in keys.exclusive:
            if key not in self._exclusive:
                self._exclusive[key] = owner
                held.exclusive.append(key)
        for key in keys.shared:
            if self._exclusive.get(key) != owner and owner not in self._shared.get(key, ()):
                self._shared.setdefault(key, {})[owner] = None
                held.shared.append(key)

    def _leave_line(self, request: _Request) -> None:
        del self._waiting[request.owner]
        for key in {*request.keys.exclusive, *request.keys.shared}:
            line = self._lines[key]
            del line[request.owner]
            if not line:
                del self._lines[key]

    def _grant(self, freed: Keys) -> list[Owner]:
        granted: list[Owner] = []
        for request in self._candidates(freed):
            if next(self._blockers(request), None) is None:
                self._leave_line(request)
                self._take(request.owner, request.rank, request.keys)
                granted.append(request.owner)
        return granted

    def _candidates(self, freed: Keys) -> list[_Request]:
        """Who may be granted when these keys are free, in line order. Whoever waits for all waits for every key."""
        if WHOLE_RESOURCE in freed.exclusive or WHOLE_RESOURCE in freed.shared:
            return list(self._waiting.values())
        lines = [self._lines.get(key, {}) for key in {*freed.exclusive, *freed.shared, WHOLE_RESOURCE}]
        found = {request.owner: request for request in chain.from_iterable(line.values() for line in lines)}
        return sorted(found.values(), key=lambda request: request.number)


def _within(one: Keys, other: Keys) -> bool:
    """Whether everybody who conflicts with the first keys conflicts with the second ones."""
    return all(key in other.exclusive for key in one.exclusive) and all(
        key in other.exclusive or key in other.shared for key in one.shared
    )


def conflict(one: Keys, other: Keys) -> bool:
    """Whether two owners cannot hold these at once."""
    if WHOLE_RESOURCE in one.exclusive or WHOLE_RESOURCE in other.exclusive:
        return True
    if WHOLE_RESOURCE in one.shared or WHOLE_RESOURCE in other.shared:
        return not (one == SHARED_WHOLE and other == SHARED_WHOLE)
    return any(key in other.exclusive or key in other.shared for key in one.exclusive) or any(
        key in other.exclusive for key in one.shared
    )

