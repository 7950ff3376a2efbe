"""What waits for peers that do not read, all of them together: bounded in bytes.

Each stream has an outbox of its own, and what is owed to one peer may be much: who was away for long gets all of it at once. So no
single outbox has a limit in bytes; the process has one. Past it, whoever holds the most is sent away, as an operating system
without memory does. What it was owed is derived again from the core's state when it comes back.
"""

from __future__ import annotations

from typing import Protocol

from troth.errors import Reason, RequestError

LOOKS = 8
"""How many looks, at least, fall into the time in which the limit's worth of bytes is queued."""


class Holder(Protocol):
    """A stream, with what waits in it."""

    def held_bytes(self) -> int:
        """Bytes in its outbox, and of the frame that the transport has not taken yet."""

    def held_items(self) -> int:
        """Messages in its outbox."""

    def send_away(self, error: RequestError) -> None:
        """Drop what waits, and end the stream."""


class Outboxes:
    """The outboxes of all streams. Nothing is counted twice or kept in step: now and then all are summed up."""

    def __init__(self, bytes_max: int) -> None:
        self.use(bytes_max)
        self._queued = 0
        """Bytes that were queued since the last look."""
        self._holders: set[Holder] = set()

    def use(self, bytes_max: int) -> None:
        """Have this limit from now on."""
        self._bytes_max = bytes_max
        self._look_after = max(1, bytes_max // LOOKS)

    def __len__(self) -> int:
        return len(self._holders)

    def add(self, holder: Holder) -> None:
        """A stream begins."""
        self._holders.add(holder)

    def remove(self, holder: Holder) -> None:
        """A stream is over."""
        self._holders.discard(holder)

    def queued(self, size: int) -> None:
        """So many bytes were put into one of the outboxes."""
        self._queued += size
        if self._queued >= self._look_after:
            self._queued = 0
            self._look()

    def held_bytes(self) -> int:
        """Bytes that wait in all of them."""
        return sum(holder.held_bytes() for holder in self._holders)

    def fill(self) -> dict[str, int]:
        """How much waits, by the setting that limits it: of messages, for the peer for which most wait."""
        most = max((holder.held_items() for holder in self._holders), default=0)
        return {"outboxes_bytes_max": self.held_bytes(), "outbox_items_max": most}

    def _look(self) -> None:
        held = self.held_bytes()
        if held <= self._bytes_max:
            return
        for holder in sorted(self._holders, key=lambda one: one.held_bytes(), reverse=True):
            size = holder.held_bytes()
            message = f"{size} bytes wait for this peer, and {held} for all that do not read (outboxes_bytes_max)"
            holder.send_away(RequestError(Reason.OVERLOADED, message))
            held -= size
            if held <= self._bytes_max:
                return
