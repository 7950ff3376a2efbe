"""A participant's sessions with a cell: one with each shard.

The first one is with whatever shard the dialled node gives; its directory names the others. To the runtime they are one session
whose streams are many.
"""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.message import Message

from participant_sdk.seat import Seat, Seats
from participant_sdk.session import Owner, Session
from troth.errors import TrothError
from troth.identity.tls import Tls


class CellSession:
    """Holds a `Session` with each shard of the cell at `address`, or with the one coordinator that is there."""

    def __init__(self, name: str, address: str, owner: Owner, tls: Tls | None = None) -> None:
        self._made_of = (name, address, owner, tls)
        self._name = name
        self._seats = Seats(self._learnt)
        self._first = Session(*self._made_of, Seat(self._seats))
        self._sessions = [self._first]
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False

    @property
    def cell(self) -> frozenset[str]:
        """The names of all shards; empty for a coordinator that is alone."""
        return frozenset(self._seats.places.names)

    def _learnt(self) -> None:
        self._news.set()

    def _fill_seats(self) -> None:
        """Begin the sessions that are missing. The first one has taken its seat with its first Welcome."""
        taken = {session.seat.shard for session in self._sessions}
        if self._ending or "" in taken:
            return
        for shard in self._seats.places.names:
            if shard not in taken:
                session = Session(*self._made_of, Seat(self._seats, shard))
                self._sessions.append(session)
                self._begin(session)

    def _begin(self, session: Session) -> None:
        self._tasks.add(asyncio.create_task(session.run(), name=f"troth-session-{self._name}-{session.seat.shard}"))

    # ---- as one session

    def send(self, stream: int, field: str, message: Message, *, patient: bool = False) -> None:
        """See `Session.send`."""
        self._of(stream).send(stream, field, message, patient=patient)

    def send_reports_complete(self, stream: int) -> None:
        """See `Session.send_reports_complete`."""
        self._of(stream).send_reports_complete(stream)

    def drop(self, stream: int, error: TrothError) -> None:
        """See `Session.drop`."""
        self._of(stream).drop(stream, error)

    def _of(self, stream: int) -> Session:
        """The session of a stream; of one that is gone any, which drops what is sent."""
        return next((session for session in self._sessions if session.stream == stream), self._first)

    def end(self) -> None:
        """See `Session.end`."""
        self._ending = True
        for session in self._sessions:
            session.end()

    async def run(self) -> None:
        """Connect, and connect again, with every shard. Raises the error of a Goodbye that is for good."""
        self._begin(self._first)
        news = asyncio.ensure_future(self._news.wait())
        try:
            while self._tasks:
                done, _ = await asyncio.wait((*self._tasks, news), return_when=asyncio.FIRST_COMPLETED)
                if news in done:
                    self._news.clear()
                    news = asyncio.ensure_future(self._news.wait())
                self._fill_seats()
                for task in done & self._tasks:
                    self._tasks.discard(task)
                    task.result()
        finally:
            waiting: list[asyncio.Task[Any]] = [*self._tasks, news]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
