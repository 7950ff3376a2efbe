"""A TCP proxy that does to a connection what networks do: for testing a service against a real coordinator.

    async with FaultProxy("127.0.0.1:7420") as proxy:
        bank = Participant("payments", ..., coordinator=proxy.address)
        ...
        proxy.cut(DOWN)         # what the bank says arrives, what it is told does not
        ...
        proxy.heal()            # what was held back arrives now, late and in order

Faults apply to the connections that are open and to those that come. Each has a direction: `UP` from whoever connected to the
target, `DOWN` back, or `BOTH`.

| method | what peers see |
|---|---|
| `delay(seconds, jitter)` | everything arrives later, in order |
| `throttle(bytes_per_second)` | a slow line |
| `cut(direction)` | nothing arrives; what was held back does after `heal`, as TCP repeats what was not acknowledged |
| `drop(direction)` | bytes vanish. TCP never lets that happen to a connection that goes on, so `heal` resets those that lost some |
| `half_open(direction)` | that end sees the connection closed; the other one hears nothing, ever |
| `reset()` | all connections end with RST, now |
| `refuse()` | and new ones too, until `heal` |

It listens on loopback, on a port of the kernel's choice.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

CHUNK_BYTES = 16_384
CHUNKS_HELD_MAX = 64
"""What one direction of one connection holds back, before the sender's own window fills."""
_LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a RST."""


class Direction(enum.Enum):
    """Where a fault applies."""

    UP = "up"
    """From whoever connected, to the target."""
    DOWN = "down"
    """From the target, to whoever connected."""
    BOTH = "both"


UP, DOWN, BOTH = Direction.UP, Direction.DOWN, Direction.BOTH


@dataclass
class _Way:
    """The faults of one direction, for all connections."""

    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    bytes_per_second: float = 0.0
    drop: bool = False
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear while it is cut."""
    carried_bytes: int = 0

    def __post_init__(self) -> None:
        self.open.set()

    def heal(self) -> None:
        self.delay_seconds = self.jitter_seconds = self.bytes_per_second = 0.0
        self.drop = False
        self.open.set()


class FaultProxy:
    """Passes connections on to `target` (HOST:PORT), with faults. Use it as an async context manager.

    `seed` is that of the jitter, the only chance in it.
    """

    def __init__(self, target: str, *, seed: int = 0) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host.strip("[]"), int(port))
        self._chance = random.Random(seed)
        self._ways = {UP: _Way(), DOWN: _Way()}
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._server: asyncio.Server | None = None
        self.address = ""
        """Where it listens, HOST:PORT; set when it was entered."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=CHUNK_BYTES)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    # ---- looking

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def carried_bytes(self, direction: Direction = BOTH) -> int:
        """How many bytes were passed on so far."""
        return sum(way.carried_bytes for way in self._of(direction))

    # ---- faults

    def delay(self, seconds: float, jitter: float = 0.0, direction: Direction = BOTH) -> None:
        """Let everything arrive `seconds` later, and up to `jitter` seconds more; in order."""
        for way in self._of(direction):
            way.delay_seconds, way.jitter_seconds = seconds, jitter

    def throttle(self, bytes_per_second: float, direction: Direction = BOTH) -> None:
        """Let at most so much through, per connection."""
        for way in self._of(direction):
            way.bytes_per_second = bytes_per_second

    def cut(self, direction: Direction = BOTH) -> None:
        """Let nothing through until `heal`; with one direction it is a one-way partition."""
        for way in self._of(direction):
            way.open.clear()

    def drop(self, direction: Direction = BOTH) -> None:
        """Let bytes vanish until `heal`."""
        for way in self._of(direction):
            way.drop = True

    def half_open(self, direction: Direction = UP) -> None:
        """End every connection at one end only: `UP` at the target, `DOWN` at whoever connected. The other end hears nothing
        any more, as when its peer lost power; only a timeout of its own tells."""
        for connection in list(self._connections):
            connection.half_open(direction)

    def reset(self) -> None:
        """End every connection with RST."""
        for connection in list(self._connections):
            connection.reset()

    def refuse(self) -> None:
        """End every connection, and every new one as soon as it comes."""
        self._refusing = True
        self.reset()

    def heal(self) -> None:
        """End all faults. Connections that lost bytes, or one of whose ends is gone, are reset."""
        self._refusing = False
        for way in self._ways.values():
            way.heal()
        for connection in list(self._connections):
            if connection.spoilt:
                connection.reset()

    # ---- connections

    def _of(self, direction: Direction) -> Iterator[_Way]:
        return (way for name, way in self._ways.items() if direction in (name, BOTH))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            _reset(writer)  # the proxy ends; asyncio would report a cancelled handler as an error

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target, limit=CHUNK_BYTES)
        except OSError:
            _reset(writer)  # nobody listens there, and nobody here either
            return
        connection = _Connection(writer, target_writer)
        self._connections.add(connection)
        try:
            if not self._refusing:
                await connection.run(
                    _Pump(connection, self._ways[UP], reader, target_writer, self._chance),
                    _Pump(connection, self._ways[DOWN], target_reader, writer, self._chance),
                )
        finally:
            self._connections.discard(connection)
            connection.reset()


class _Connection:
    """One connection through the proxy: two sockets."""

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self._ends = {UP: target, DOWN: client}
        self._over = asyncio.Event()
        self._gone: set[asyncio.StreamWriter] = set()
        self.spoilt = False
        """Whether bytes are missing, or an end."""

    async def run(self, *pumps: _Pump) -> None:
        """Pass bytes on until both directions have ended, or the connection was reset."""
        tasks = [asyncio.create_task(pump.run()) for pump in pumps]
        over = asyncio.create_task(self._over.wait())
        both = asyncio.gather(*tasks)
        try:
            await asyncio.wait((both, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, over):
                task.cancel()
            await asyncio.gather(*tasks, over, both, return_exceptions=True)

    def half_open(self, direction: Direction) -> None:
        """End one side without a word to the other."""
        self.spoilt = True
        for name, writer in self._ends.items():
            if direction in (name, BOTH):
                self._gone.add(writer)
                _reset(writer)

    def is_gone(self, writer: asyncio.StreamWriter) -> bool:
        """Whether that end was taken away silently: what is meant for it vanishes."""
        return writer in self._gone

    def reset(self) -> None:
        """End both sides."""
        for writer in self._ends.values():
            _reset(writer)
        self._over.set()


class _Pump:
    """Passes one direction of one connection on."""

    def __init__(
        self,
        connection: _Connection,
        way: _Way,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        chance: random.Random,
    ) -> None:
        self._connection = connection
        self._way = way
        self._reader = reader
        self._writer = writer
        self._chance = chance
        self._held: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(CHUNKS_HELD_MAX)

    async def run(self) -> None:
        """Until the sender has ended and all of it was passed on."""
        taking = asyncio.create_task(self._take())
        try:
            await self._give()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _take(self) -> None:
        now = asyncio.get_running_loop().time
        data: bytes | None = b"anything"
        while data:
            try:
                data = await self._reader.read(CHUNK_BYTES)
            except OSError:
                data = None  # a reset, which travels as everything else does
            late = self._way.delay_seconds + self._chance.random() * self._way.jitter_seconds
            await self._held.put((now() + late, data))

    async def _give(self) -> None:
        data: bytes | None = b"anything"
        while data:
            due, data = await self._held.get()
            await self._wait(due, len(data or b""))
            if data:
                await self._pass_on(data)
        await self._end(reset=data is None)

    async def _pass_on(self, data: bytes) -> None:
        if self._way.drop or self._connection.is_gone(self._writer):
            self._connection.spoilt = True
            return
        try:
            self._writer.write(data)
            await self._writer.drain()
            self._way.carried_bytes += len(data)
        except OSError:
            await self._end(reset=True)

    async def _wait(self, due: float, size: int) -> None:
        now = asyncio.get_running_loop().time
        if self._way.bytes_per_second:
            await asyncio.sleep(size / self._way.bytes_per_second)
        if due > now():
            await asyncio.sleep(due - now())
        await self._way.open.wait()

    async def _end(self, *, reset: bool) -> None:
        """The sender has nothing more to say. When one of the ends is gone, the other must not learn it that way."""
        if self._connection.spoilt:
            await asyncio.Event().wait()  # until the connection is reset
        if reset:
            self._connection.reset()
        with contextlib.suppress(OSError, RuntimeError):
            if self._writer.can_write_eof():
                self._writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL)
    transport.abort()
