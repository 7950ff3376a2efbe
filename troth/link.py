"""The link: one batched, flow-controlled stream between two processes.

Messages wait in an outbox, grouped by the field of the frame that they belong to. The writer drains the outbox whole at each
write, so load makes frames larger instead of queues longer. Reading never waits for writing.

A message is serialised once, when it is put into the outbox, and a frame is the concatenation of its parts: by protobuf's wire
format that is the serialised frame. (Filling a frame message copies each message by serialising and parsing it, and then
serialises the whole once more; that was a fifth of the coordinator's time.)

Both sides use the same link: the frame types differ, and so does who opens the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from troth import failpoints
from troth.errors import RemoteProtocolError

Frame = TypeVar("Frame", bound=Message)
Item = TypeVar("Item")

POSITION_TAG = bytes([14 << 3])
"""Of the field `position` in the frames of a participant's session, either way."""

_LENGTH_DELIMITED = 2
"""The wire type of a message inside a message."""

PATIENCE_SECONDS = 0.002
"""How long a message for which nobody waits looks for others to travel with."""

MESSAGE_GAP_SECONDS = 0.0005
FRAME_GAP_SECONDS_MAX = 0.002
"""After a frame with n messages the next one of the stream waits n times the first number, at most the second. So frames go at
once below some two thousand messages a second, and above that grow together: a frame costs either end as much as some twenty
messages in one (compare interrupt moderation: Mogul & Ramakrishnan, "Eliminating Receive Livelock", 1997, section 6)."""


def varint(number: int) -> bytes:
    """A number in protobuf's variable-length form."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Prefixes(dict[int, bytes]):
    """What stands before a message of a field in a frame, by the message's length: the field's tag and the length."""

    __slots__ = ("_tag",)

    def __init__(self, number: int) -> None:
        self._tag = varint(number << 3 | _LENGTH_DELIMITED)

    def __missing__(self, length: int) -> bytes:
        prefix = self._tag + varint(length)
        if length < _LENGTHS_KEPT:
            self[length] = prefix
        return prefix


_LENGTHS_KEPT = 4096
"""The prefixes of messages that are shorter are made once."""


def _prefixes(make_frame: type[Message]) -> Mapping[str, _Prefixes]:
    return {field.name: _Prefixes(field.number) for field in make_frame.DESCRIPTOR.fields}


@dataclass(slots=True)
class Packed:
    """A serialised frame. More may be added to `data`: a serialised message of the same type."""

    data: bytes
    counts: dict[str, int]
    """How many messages of each repeated field it has."""
    singular: tuple[str, ...] = ()
    """Its singular fields."""


def to_wire(message: Packed | Message) -> bytes:
    """For gRPC, in place of the generated serialiser."""
    return message.data if isinstance(message, Packed) else message.SerializeToString()


def from_wire(kind: type[Frame], raw: bytes) -> Frame:
    """The frame that a peer sent. gRPC's own decoding hides what went wrong behind a `None`.

    Raises `RemoteProtocolError`.
    """
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise RemoteProtocolError(f"a frame does not decode: it is no {kind.DESCRIPTOR.name}") from None

RECEIVE_BYTES_MAX = 64 * 1024 * 1024
"""The largest frame that is accepted; coordinators send frames of at most `frame_bytes_max`."""

FRAME_MESSAGES_MAX = 16_384
"""Messages of one frame, to a peer that announces no other number. Four megabytes hold two million empty messages, which cost
their reader minutes: bytes alone bound no work."""

BACKLOG_EVENTS_MAX = 50_000
"""Events and appends that may wait for a core before its process reads on: the flow control of the peers does the rest."""
BACKLOG_PAUSE_SECONDS = 0.005

KEEPALIVE_SECONDS = 30.0
KEEPALIVE_TIMEOUT_SECONDS = 10.0


def keepalive_options(silent_seconds: float, answer_seconds: float) -> list[tuple[str, int]]:
    """For gRPC, on either side: ping what was silent, and give up what does not answer the ping.

    There are two timers for the answer. The second one is gRPC's own and a minute long; a peer that is frozen (its kernel goes
    on acknowledging) is found by that one alone.
    """
    return [
        ("grpc.keepalive_time_ms", int(silent_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(answer_seconds * 1000)),
        ("grpc.http2.ping_timeout_ms", int(answer_seconds * 1000)),
    ]

DIRECT = ("grpc.enable_http_proxy", 0)
"""The coordinator is dialled directly: `http_proxy` is for the web, and on many machines it names a proxy that does not even reach
loopback."""

CHANNEL_OPTIONS = (
    DIRECT,
    ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
    # A connection that died silently is noticed; the server must allow pings at this rate.
    *keepalive_options(KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS),
    ("grpc.http2.max_pings_without_data", 0),
    # Our own back-off paces the attempts; gRPC's grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""How either kind of peer dials the coordinator."""


ENDINGS = frozenset({"decisions", "settles", "commits", "aborts"})
"""The fields that end work. They go before all that begins some, in a frame and in the outbox, whatever came first: what a caller
begins after he has heard how his last transaction ended must find it ended. (To end early does no harm: whoever is told of a
transaction's end before its beginning refuses the beginning.)"""


def messages_of(frame: Message) -> int:
    """How many messages a frame has in its repeated fields."""
    return sum(len(value) for field, value in frame.ListFields() if field.is_repeated)


async def paced(frames: AsyncIterable[Item], backlog: Callable[[], int]) -> AsyncIterator[Item]:
    """The frames of a peer, read no faster than the core takes what they bring. Writing is never waited for."""
    async for frame in frames:
        yield frame
        while backlog() > BACKLOG_EVENTS_MAX:  # noqa: ASYNC110 - only under overload; nobody signals its end
            await asyncio.sleep(BACKLOG_PAUSE_SECONDS)


class Outbox(Generic[Frame]):
    """Messages that wait for the next frame, in the order of arrival within each field; `ENDINGS` go first.

    `position` tells how far this process's log is durable, where frames carry that.
    """

    __slots__ = (
        "_bytes", "_bytes_max", "_fields", "_items", "_make_frame", "_messages_max", "_position", "_prefixes", "_single", "_told",
        "_urgent", "_waiter", "patience",
    )  # fmt: skip

    def __init__(
        self, make_frame: type[Frame], frame_bytes_max: int, frame_messages_max: int = FRAME_MESSAGES_MAX,
        position: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        self._position = position
        self._told = 0
        self._make_frame = make_frame
        self._prefixes = _prefixes(make_frame)
        self._bytes_max = frame_bytes_max
        self._messages_max = frame_messages_max
        self._fields: dict[str, list[bytes]] = {}
        self._single: dict[str, Message | int | bool] = {}
        self._items = 0
        self._bytes = 0
        self._urgent = False
        """Whether there is something that must not wait."""
        self._waiter: asyncio.Future[None] | None = None
        self.patience: asyncio.TimerHandle | None = None
        """Runs out when what is patient has waited long enough."""

    def __len__(self) -> int:
        return self._items

    @property
    def held_bytes(self) -> int:
        """Bytes of the messages that wait."""
        return self._bytes

    def put(self, field: str, message: Message, *, patient: bool = False) -> None:
        """Add a message to a repeated field of the next frame. One that is `patient` lets that frame wait for others."""
        data = message.SerializeToString()
        part = self._prefixes[field][len(data)] + data
        if field in self._fields:
            self._fields[field].append(part)
        else:
            self._fields[field] = [part]
        self._bytes += len(part)
        self._items += 1
        if self._urgent:
            return
        if not patient:
            self.wake()
        elif self.patience is None:
            self.patience = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._lose_patience)

    def _lose_patience(self) -> None:
        self.patience = None
        if self._items:
            self.wake()

    def set(self, field: str, value: Message | int | bool) -> None:
        """Set a singular field of the next frame; a later value replaces one that still waits."""
        self._single[field] = value
        self.wake()

    def clear(self) -> None:
        """Drop everything that waits."""
        self._fields.clear()
        self._single.clear()
        self._items = 0
        self._bytes = 0

    async def wait(self) -> None:
        """Return when there is something to drain that must not wait. One at a time waits."""
        if not self._urgent:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def wake(self) -> None:
        """Let `wait` return, at once until the outbox was found empty."""
        self._urgent = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def drain(self) -> Packed | None:
        """The next frame, or `None` when empty: at most `frame_messages_max` messages, and `frame_bytes_max` bytes unless one
        message alone is larger."""
        if not (self._items or self._single):
            self._urgent = False
            return None
        head, singular = self._drain_single()
        told = b"" if self._position is None else self._tell_position(self._position())
        parts = [head]
        counts: dict[str, int] = {}
        room, places = self._bytes_max - len(head) - len(told), self._messages_max
        for field in sorted(self._fields, key=_begins_work):
            before = self._bytes
            if moved := self._move(field, room, places, parts):
                counts[field] = moved
            room -= before - self._bytes
            places -= moved
            if field in self._fields:
                break  # the frame is full: no other field may overtake the rest of this one
        if not self._items:
            self._urgent = False
        return Packed(b"".join(parts) + told, counts, singular)

    def _tell_position(self, position: int) -> bytes:
        """The field that tells how far the log is, if that is news. What waits here was released by records that are durable: the
        position covers them."""
        if position <= self._told:
            return b""
        self._told = position
        return POSITION_TAG + varint(position)

    def _drain_single(self) -> tuple[bytes, tuple[str, ...]]:
        if not self._single:
            return b"", ()
        frame = self._make_frame()
        singular = tuple(self._single)
        for field, value in self._single.items():
            _set(frame, field, value)
        self._single.clear()
        return frame.SerializeToString(), singular

    def _move(self, field: str, room: int, places: int, parts: list[bytes]) -> int:
        """Move what fits of one field; returns how many messages."""
        waiting = self._fields[field]
        empty = len(parts) == 1 and not parts[0]
        count = len(waiting) if self._bytes <= room else self._fitting(waiting, room, empty=empty)
        count = min(count, places)
        moved = waiting[:count]
        parts.extend(moved)
        self._bytes -= sum(map(len, moved))
        self._items -= count
        if count == len(waiting):
            del self._fields[field]
        else:
            del waiting[:count]
        return count

    @staticmethod
    def _fitting(waiting: list[bytes], room: int, *, empty: bool) -> int:
        used = 0
        for count, part in enumerate(waiting):
            used += len(part)
            # A frame holds at least one message, however large: an empty frame would never make progress.
            if used > room and (count or not empty):
                return count
        return len(waiting)


def _begins_work(field: str) -> bool:
    return field not in ENDINGS


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
        write: Callable[[Packed], Awaitable[None]],
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
        self._outbox.wake()

    async def run(self) -> None:
        """Run until the peer ends the stream, `end` was called, or the transport fails (its error is raised).

        A peer that has said its last word may still read: what waits when both end is written, unless the peer is gone.
        """
        reader = asyncio.create_task(self._read(), name=f"troth-link-read-{self._role}")
        writer = asyncio.create_task(self._send(), name=f"troth-link-write-{self._role}")
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            both_end = self._ending and reader.done() and reader.exception() is None
            if both_end:
                await asyncio.wait((writer,))
        finally:
            for task in (reader, writer):
                task.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
        for result in results[:1] if both_end else results:
            if isinstance(result, Exception):
                raise result

    async def _read(self) -> None:
        async for frame in self._incoming:
            self._hit("on-receive", frame)
            self._receive(frame)

    async def _send(self) -> None:
        clock = asyncio.get_running_loop().time
        gap_ends = 0.0
        while True:
            if not self._ending:
                await self._outbox.wait()
                if (gap := gap_ends - clock()) > 0.0:
                    await asyncio.sleep(gap)
            frame = self._outbox.drain()
            if frame is not None:
                gap_ends = clock() + min(FRAME_GAP_SECONDS_MAX, sum(frame.counts.values()) * MESSAGE_GAP_SECONDS)
                self._hit_packed("before-send", frame)
                await self._write(frame)
                self._hit_packed("after-send", frame)
            elif self._ending:
                return

    def _hit(self, moment: str, frame: Message) -> None:
        if failpoints.armed:
            for descriptor, _ in frame.ListFields():
                failpoints.hit(self._role, moment, descriptor.name)

    def _hit_packed(self, moment: str, frame: Packed) -> None:
        if failpoints.armed:
            for name in (*frame.singular, *frame.counts):
                failpoints.hit(self._role, moment, name)
