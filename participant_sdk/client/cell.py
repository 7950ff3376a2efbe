"""A client's sessions with a cell: one with each shard that it has work for.

Work without a key goes to one shard, the first that the dialled node gave: so a client has one stream, as with a coordinator that
is alone, and clients spread themselves. When that shard is away or is being given away, another one takes its place at once. Work
with a key goes to the shard of the key, and waits for it. What is asked about a transaction goes to the shard that began it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from participant_sdk.client.session import Session
from participant_sdk.seat import Seat, Seats
from troth import forks
from troth.cell import coordinator_of, staying


class Sessions:
    """All sessions of one client. `make` makes one for a seat."""

    def __init__(self, make: Callable[[Seat], Session]) -> None:
        self._make = make
        self._generation = forks.generation()
        self._seats = Seats(self._changed)
        self._waiting: dict[asyncio.Future[None], None] = {}
        """Who waits for a session that stands; whoever came first is woken first."""
        self.home = self._begun(Seat(self._seats))
        """The session for work without a key."""
        self._all = [self.home]

    def _begun(self, seat: Seat) -> Session:
        session = self._make(seat)
        session.on_change = self._changed
        return session

    def start(self) -> None:
        """Begin to connect."""
        self.home.start()

    async def stop(self, seconds: float) -> None:
        """Let every session end as `Session.stop` does."""
        if forks.generation() != self._generation:
            return  # a child that unwinds: the sessions are its parent's, and since Python 3.14 it has no loop for `gather` either
        await asyncio.gather(*(session.stop(seconds) for session in self._all))

    def _changed(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    # ---- which

    def of_shard(self, shard: str) -> Session:
        """The session with a shard; with the only one where there is no cell, or no such shard in it."""
        if self._seats.places.place(shard) is None:
            return self.home
        for session in self._all:
            if session.seat.shard == shard:
                return session
        session = self._begun(Seat(self._seats, shard))
        self._all.append(session)
        session.start()
        return session

    def of_work(self, key: str) -> Session:
        """The session for new work: that of the key's shard, or one that stands."""
        return self.of_shard(self._seats.places.of_key(key)) if key else self._standing()

    def of_question(self, transaction_id: str, key: str) -> Session:
        """The session for a question: what is asked under a key is answered under the key."""
        return self.of_shard(self._seats.places.of_key(key) if key else coordinator_of(transaction_id))

    def _standing(self) -> Session:
        """The home, or where it is away another session that stands. If none does, one with another node is begun."""
        if not self.home.stands:
            others = [session for session in self._all if session.stands]
            if others:
                self.home = random.choice(others)
            elif self._seats.places:
                self._look_elsewhere()
        return self.home

    def _look_elsewhere(self) -> None:
        tried = {session.seat.address for session in self._all}
        places = [place for place in staying(self._seats.places.directory().shards) if place.address not in tried]
        if places:
            self.of_shard(random.choice(places).coordinator)

    # ---- waiting

    async def ready(self, key: str, deadline: float) -> Session:
        """A session on which a transaction can be opened now. Raises `Aborted` (retryable: nothing was sent) at the deadline, and
        `RequestError` when no session will ever come."""
        while True:
            session = self.of_work(key)
            if session.ready:
                return session
            if session.stands or session.is_refused:
                await session.wait_ready(deadline)  # until it is our turn
            else:
                await self._until_changed(session, deadline)

    async def _until_changed(self, session: Session, deadline: float) -> None:
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[changed] = None
        try:
            async with asyncio.timeout_at(deadline):
                await changed
        except TimeoutError:
            raise session.unreachable() from None
        finally:
            del self._waiting[changed]
