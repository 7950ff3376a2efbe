"""One of the streams that a client or a participant holds: to which shard of a cell, and where that is dialled.

All seats of a process know the same places, and what comes over one stream moves the others: whoever waits to dial again is woken
when his shard has moved, and a stream to a node that another one has followed is ended: a node that is cut off from the store is
the last to hear of that, answers nothing, and ends nothing. To end a stream is always safe, and so is to believe a claim: they only
grow.
With a coordinator that is alone there is one seat, of no shard, and nothing is ever known of places.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

from troth.cell import Places
from troth.v1 import common_pb2


class Seats:
    """What all seats of a process share."""

    def __init__(self, learnt: Callable[[], None] = lambda: None) -> None:
        self.places = Places()
        self.numbers = count(1)
        """Numbers of streams, growing over all of them."""
        self._learnt = learnt
        self._moved: set[asyncio.Event] = set()
        self._watching: set[Callable[[], None]] = set()

    def learn(self, directory: common_pb2.Directory) -> None:
        """Take over a directory; who waits for a move looks again."""
        if self.places.learn(directory):
            for event in self._moved:
                event.set()
            for look in tuple(self._watching):
                look()
            self._learnt()

    @contextmanager
    def watched(self, look: Callable[[], None]) -> Iterator[None]:
        """Look now, and at all news that come in the block."""
        self._watching.add(look)
        try:
            look()
            yield
        finally:
            self._watching.discard(look)

    async def pause(self, seconds: float, moved: Callable[[], bool]) -> None:
        """Wait so long, or until `moved`."""
        event = asyncio.Event()
        self._moved.add(event)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not moved():
                        await event.wait()
                        event.clear()
        finally:
            self._moved.discard(event)


class Seat:
    """A place for one stream. `shard` is empty until the first Welcome of a cell has named it."""

    def __init__(self, seats: Seats | None = None, shard: str = "") -> None:
        self.seats = seats or Seats()
        self.shard = shard
        self._claim = 0
        """Of the shard, by the node that has welcomed us."""

    def hear(self, directory: common_pb2.Directory) -> None:
        """A frame brought a directory."""
        self.seats.learn(directory)

    def welcomed(self, coordinator: str, directory: common_pb2.Directory) -> None:
        """Welcome came, with what its node says of the cell: there this is the stream of that shard from now on."""
        known = self.seats.places.place(coordinator)
        if known is not None:
            self.shard = coordinator
            self._claim = next((place.claim for place in directory.shards if place.coordinator == coordinator), known.claim)

    @contextmanager
    def held(self, end: Callable[[], object]) -> Iterator[None]:
        """The stream goes on in the block; it is to `end` when another node has the shard by a newer claim."""

        def look() -> None:
            place = self.seats.places.place(self.shard)
            if place is not None and place.address and place.claim > self._claim:
                end()

        with self.seats.watched(look):
            yield

    @property
    def address(self) -> str:
        """Where the shard is; empty when that is not known."""
        return self.seats.places.address(self.shard)

    @property
    def leaving(self) -> bool:
        """Whether its node gives it away: it begins nothing new."""
        place = self.seats.places.place(self.shard)
        return place is not None and place.leaving

    async def pause(self, seconds: float) -> None:
        """Wait before the next attempt to dial, at most until the shard is somewhere else."""
        before = self.address
        if not self.shard:
            await asyncio.sleep(seconds)
        else:
            await self.seats.pause(seconds, lambda: self.address not in ("", before))
