"""Whose turn it is: which messages a relay takes next.

Topics take turns, and within a topic keys do (a message without a key is one by itself): a *line* is what comes in order.
A batch has messages of as many lines as there are, and as many of each as fit, from its first on. So a long line, or a topic with
many of them, takes no more than its share, and what cannot be delivered just now is passed by.

A look goes on where the last one ended, and goes around: what it reads is bounded, however much waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from participant_sdk.outbox.store import OutboxStore, Place, Waiting

TOPICS_MAX = 20
"""At which one look looks."""
WINDOWS_MAX = 20
"""Questions by which one look finds lines. Each answer begins behind the last key of the one before: of a key with many messages
one window is read, and the next begins behind it."""
LINES_ENOUGH = 25
"""Side by side, if there are so many: keys with many messages each are found one a window."""
ROWS_MIN = 10
"""Of one topic in one window."""


class BatchMax(NamedTuple):
    """What a batch may have."""

    messages: int
    size: int
    """Bytes of their bodies; one message goes in any case."""


class Turns:
    """Where a relay goes on in its outbox."""

    def __init__(self, outbox: OutboxStore) -> None:
        self._outbox = outbox
        self._topic = ""
        self._places: dict[str, Place] = {}
        self.whole = True
        """Whether the last look of all saw everything that is there; otherwise the next one sees more."""

    async def of_all(self, connection: Any, most: BatchMax, apart: Collection[str]) -> list[Waiting]:
        """What is next of all topics but these, by position."""
        began, topics = self._topic, await self._outbox.topics(connection, self._topic, TOPICS_MAX)
        self._topic = topics[-1] if len(topics) == TOPICS_MAX else ""
        self.whole = not began and not self._topic
        together = [topic for topic in topics if topic not in apart]
        return await self._next(connection, together, most, lambda topic: topic not in apart)

    async def of_topic(self, connection: Any, most: BatchMax, topic: str) -> list[Waiting]:
        """What is next of one topic, by position."""
        return await self._next(connection, [topic], most, topic.__eq__)

    async def _next(
        self, connection: Any, topics: Sequence[str], most: BatchMax, allowed: Callable[[str], bool]
    ) -> list[Waiting]:
        looks = [_Look(self._places.pop(topic, Place(topic))) for topic in topics]
        if not looks:
            return []
        await self._see(connection, looks, most.messages)
        turns = [(look, line) for lines in zip_longest(*(look.lines() for look in looks))
                 for look, line in zip(looks, lines, strict=True) if line is not None][: most.messages]  # fmt: skip
        taken = Counter(look.place.topic for look, _ in turns)
        for look in looks:
            await self._keep(connection, look, taken[look.place.topic])
        if not turns:
            return []
        keys = list(dict.fromkeys(line for _, line in turns if isinstance(line, str)))
        positions = [line for _, line in turns if isinstance(line, int)]
        each_max = -(-most.messages // (len(keys) + len(positions)))
        return _that_fit(most, _deliverable(await self._outbox.heads(connection, keys, positions, each_max), allowed))

    async def _see(self, connection: Any, looks: Sequence[_Look], lines_max: int) -> None:
        """Look for as many lines as that."""
        rows_max, unseen = max(ROWS_MIN, -(-lines_max // len(looks))), looks
        for _ in range(WINDOWS_MAX):
            by_topic = {look.place.topic: list[tuple[str | None, int]]() for look in unseen}
            for topic, key, position in await self._outbox.lines(connection, [look.end for look in unseen], rows_max):
                by_topic[topic].append((key, position))
            for look in unseen:
                look.add(by_topic[look.place.topic], rows_max)
            unseen = [look for look in unseen if look.more_keys]
            if not unseen or sum(len(look.lines()) for look in looks) >= min(lines_max, LINES_ENOUGH):
                break

    async def _keep(self, connection: Any, look: _Look, taken: int) -> None:
        """Where the topic is gone on in; nothing is kept where that is its beginning."""
        beginning = Place(look.place.topic)
        behind = look.behind(taken)
        if behind != beginning:
            self._places[look.place.topic] = await self._until_the_last(connection, behind)
        if look.place != beginning or behind != beginning:
            self.whole = False

    async def _until_the_last(self, connection: Any, place: Place) -> Place:
        """A round that begins ends with what is there now: where more comes than is delivered, keys that grow, say, it would not
        end, and what is before its place would not have its turn."""
        key_begins, position_begins = place.key and place.last_key is None, place.position and place.last_position is None
        if not key_begins and not position_begins:
            return place
        last_key, last_position = await self._outbox.last(connection, place.topic)
        if key_begins:
            place = place._replace(last_key=last_key)
        return place._replace(last_position=last_position) if position_begins else place


class _Look:
    """What is seen of one topic, from a place on."""

    def __init__(self, place: Place) -> None:
        self.place = self.end = place
        self.more_keys = self._more_positions = True
        self._keys: dict[str, None] = {}
        self._positions: list[int] = []

    def add(self, rows: Sequence[tuple[str | None, int]], rows_max: int) -> None:
        """Of the window behind `end`."""
        keys, positions = [key for key, _ in rows if key is not None], [position for key, position in rows if key is None]
        self._keys.update(dict.fromkeys(keys))
        self._positions += positions
        self.more_keys, self._more_positions = len(keys) == rows_max, len(positions) == rows_max
        self.end = self.end._replace(key=(keys or [self.end.key])[-1], position=(positions or [self.end.position])[-1])

    def lines(self) -> list[str | int]:
        """Keys, and positions of messages that have none, in turns."""
        pairs = zip_longest(self._keys, self._positions)
        return [line for pair in pairs for line in pair if line is not None]

    def behind(self, taken: int) -> Place:
        """The place behind as many lines; the beginning, where nothing comes behind them."""
        lines = self.lines()[:taken]
        keys, positions = [line for line in lines if isinstance(line, str)], [line for line in lines if isinstance(line, int)]
        all_keys = not self.more_keys and len(keys) == len(self._keys)
        all_positions = not self._more_positions and len(positions) == len(self._positions)
        key, position = (keys or [self.place.key])[-1], (positions or [self.place.position])[-1]
        behind = self.place._replace(key=key, position=position)
        if all_keys:
            behind = behind._replace(key="", last_key=None)
        return behind._replace(position=0, last_position=None) if all_positions else behind


def _deliverable(heads: Iterable[Waiting], allowed: Callable[[str], bool]) -> list[list[Waiting]]:
    """Of each line what may be delivered: from its first on, as far as it is due and its topic is one of these."""
    lines: dict[str | int, list[Waiting]] = {}
    stopped = set[str | int]()
    for one in sorted(heads):
        line = one.position if one.key is None else one.key
        if line in stopped or not one.due or not allowed(one.topic):
            stopped.add(line)
        else:
            lines.setdefault(line, []).append(one)
    return list(lines.values())


def _that_fit(most: BatchMax, lines: Iterable[Sequence[Waiting]]) -> list[Waiting]:
    """The first of each line, then the second of each, as far as they fit; by position."""
    room, chosen = most.size, list[Waiting]()
    for one in (one for ones in zip_longest(*lines) for one in ones if one is not None):
        room -= one.size
        if len(chosen) == most.messages or (room < 0 and chosen):
            break
        chosen.append(one)
    return sorted(chosen)


def unbroken(chosen: Iterable[Waiting], taken: Collection[int]) -> list[int]:
    """Positions of what was taken, up to the first of each key that was not: another relay has it, or it is gone, and those behind
    it wait until the next look tells."""
    broken = set[str]()
    found = list[int]()
    for one in chosen:
        if one.key in broken or (one.position not in taken and one.key is not None):
            broken.add(one.key or "")
        elif one.position in taken:
            found.append(one.position)
    return found
