"""In place of `participant_sdk.session.Session`: a participant's way to a coordinator in the same process."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.core import events
from participant_sdk.embedded.coordinator import Gone, InProcessCoordinator, copied
from participant_sdk.session import Owner
from troth.errors import ProtocolError, TrothError
from troth.v1 import participant_pb2


class InProcessSession:
    """A participant's session with a coordinator in the same process; see `participant_sdk.wiring.SessionLike`."""

    cell: frozenset[str] = frozenset()

    def __init__(self, name: str, owner: Owner, coordinator: InProcessCoordinator) -> None:
        self.name = name
        self._owner = owner
        self._coordinator = coordinator
        self._stream = 0
        self._number = 0
        self._greeting: asyncio.Future[participant_pb2.Welcome] = asyncio.get_running_loop().create_future()
        self._lost = asyncio.Event()
        self._ending = asyncio.Event()
        self._held: list[participant_pb2.SessionResponse] | None = []

    # ---- what the participant uses

    def send(self, stream: int, field: str, message: Any, *, patient: bool = False) -> None:
        """Give a message to the coordinator, unless the stream is gone."""
        if field == "callers":
            # In one process nobody is anybody else: there is no policy, and nobody is named.
            told = participant_pb2.CallerAnswer(transaction_id=message.transaction_id, proof=message.proof)
            self._owner.received(stream, participant_pb2.SessionResponse(callers=[told]))
        elif self._number and stream == self._stream:
            self._coordinator.hear(self.name, self._number, field, copied(message), self._owner.position())

    def send_reports_complete(self, stream: int) -> None:
        """Mark the end of the reports."""
        if self._number and stream == self._stream:
            self._coordinator.submit(events.ReportsReceived(self.name, self._number, [], True))

    def drop(self, stream: int, error: TrothError) -> None:
        """End a stream; another attempt follows."""
        if stream == self._stream:
            self._lost.set()

    def end(self) -> None:
        """Let `run` return."""
        self._ending.set()
        self._lost.set()

    async def run(self) -> None:
        """Connect, and connect again."""
        while not self._ending.is_set():
            await self._coordinator.up.wait()
            self._stream += 1
            self._lost.clear()
            self._held = []
            self._greeting = asyncio.get_running_loop().create_future()
            self._number = self._coordinator.attach(self, self._owner.hello(), self._owner.position())
            try:
                await self._live()
            except (Gone, ProtocolError):
                await asyncio.sleep(0)
            finally:
                self._coordinator.detach(self._number, self.name)
                self._number = 0

    async def _live(self) -> None:
        welcome = await self._greeting
        position = self._coordinator.position
        if not await self._owner.accept(welcome, position):
            return  # it only asked: `run` says the Hello that counts
        self._owner.opened(self._stream, welcome, position)
        held, self._held = self._held or [], None
        for frame in held:
            self._owner.received(self._stream, frame)
        try:
            await self._lost.wait()
        finally:
            self._owner.closed(self._stream)

    # ---- what the coordinator uses

    def welcome(self, welcome: participant_pb2.Welcome) -> None:
        """Welcome came."""
        if not self._greeting.done():
            self._greeting.set_result(welcome)

    def reject(self, error: TrothError) -> None:
        """Goodbye came: `run` ends with its error."""
        if not self._greeting.done():
            self._greeting.set_exception(error)
        self._lost.set()

    def deliver(self, **fields: Any) -> None:
        """A frame came."""
        frame = participant_pb2.SessionResponse(position=self._coordinator.position, **fields)
        if self._held is not None:
            self._held.append(frame)
        else:
            self._owner.received(self._stream, frame)

    def lose(self) -> None:
        """The coordinator is gone."""
        if not self._greeting.done():
            self._greeting.set_exception(Gone())
        self._lost.set()
