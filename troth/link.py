"""The link: one batched, flow-controlled stream between two processes.

Messages wait in an outbox, grouped by the field of the frame that they belong to. The writer drains the outbox whole at each
write, so load makes frames larger instead of queues longer. Reading never waits for writing.

Both sides use the same link: the frame types differ, and so does who opens the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

from troth import failpoints

Frame = TypeVar("Frame", bound=Message)

FRAME_OVERHEAD_BYTES = 8
"""Tag and length of one item of a frame, at most (five bytes of length would be 34 GiB)."""


class Outbox(Generic[Frame]):
    """Messages that wait for the next frame, in the order of arrival within each field."""

    __slots__ = ("_bytes_max", "_fields", "_items", "_make_frame", "_single", "_wake")

    def __init__(self, make_frame: Callable[[], Frame], frame_bytes_max: int) -> None:
        self._make_frame = make_frame
        self._bytes_max = frame_bytes_max
        self._fields: dict[str, list[Message]] = {}
        self._single: dict[str, Message | int | bool] = {}
        self._items = 0
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return self._items

    def put(self, field: str, message: Message) -> None:
        """Add a message to a repeated field of the next frame."""
        waiting = self._fields.get(field)
        if waiting is None:
            waiting = self._fields[field] = []
        waiting.append(message)
        self._items += 1
        self._wake.set()

    def set(self, field: str, value: Message | int | bool) -> None:
        """Set a singular field of the next frame; a later value replaces one that still waits."""
        self._single[field] = value
        self._wake.set()

    def clear(self) -> None:
        """Drop everything that waits."""
        self._fields.clear()
        self._single.clear()
        self._items = 0

    async def wait(self) -> None:
        """Return when there is something to drain."""
        await self._wake.wait()

    def drain(self) -> Frame | None:
        """The next frame, of at most `frame_bytes_max` bytes unless one message alone is larger; `None` when empty."""
        if not (self._items or self._single):
            self._wake.clear()
            return None
        frame = self._make_frame()
        for field, value in self._single.items():
            _set(frame, field, value)
        self._single.clear()
        room = self._bytes_max - frame.ByteSize()
        for field in list(self._fields):
            room -= self._move(frame, field, room)
            if room <= 0:
                break
        return frame

    def _move(self, frame: Frame, field: str, room: int) -> int:
        """Move what fits of one field into the frame; returns the bytes moved."""
        waiting = self._fields[field]
        count, used = 0, 0
        for message in waiting:
            size = message.ByteSize() + FRAME_OVERHEAD_BYTES
            # A frame holds at least one message, however large: an empty frame would never make progress.
            if used + size > room and (count or frame.ByteSize()):
                break
            used += size
            count += 1
        getattr(frame, field).extend(waiting[:count])
        self._items -= count
        if count == len(waiting):
            del self._fields[field]
        else:
            del waiting[:count]
            return max(used, room)  # the frame is full: no other field may overtake the rest of this one
        return used


def _set(frame: Message, field: str, value: Message | int | bool) -> None:
    if isinstance(value, Message):
        getattr(frame, field).CopyFrom(value)
    else:
        setattr(frame, field, value)


class Link(Generic[Frame]):
    """Moves frames both ways over one stream until either side ends it.

    `write`     sends one frame and returns when the transport has taken it (this is the flow control).
    `incoming`  the frames of the peer.
    `receive`   takes one frame; must not block.
    """

    def __init__(
        self,
        role: str,
        outbox: Outbox[Frame],
        write: Callable[[Frame], Awaitable[None]],
        incoming: AsyncIterable[Message],
        receive: Callable[[Message], None],
    ) -> None:
        self._role = role
        self._outbox = outbox
        self._write = write
        self._incoming = incoming
        self._receive = receive
        self._ending = False

    def end(self) -> None:
        """Write what waits, then end `run`."""
        self._ending = True
        self._outbox._wake.set()

    async def run(self) -> None:
        """Run until the peer ends the stream, `end` was called, or the transport fails (its error is raised)."""
        reader = asyncio.create_task(self._read(), name=f"troth-link-read-{self._role}")
        writer = asyncio.create_task(self._send(), name=f"troth-link-write-{self._role}")
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, writer):
                task.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _read(self) -> None:
        async for frame in self._incoming:
            self._hit("on-receive", frame)
            self._receive(frame)

    async def _send(self) -> None:
        while True:
            frame = self._outbox.drain()
            if frame is not None:
                self._hit("before-send", frame)
                await self._write(frame)
                self._hit("after-send", frame)
            elif self._ending:
                return
            else:
                await self._outbox.wait()

    def _hit(self, moment: str, frame: Message) -> None:
        if failpoints.armed:
            for descriptor, _ in frame.ListFields():
                failpoints.hit(self._role, moment, descriptor.name)
