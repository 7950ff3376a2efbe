"""Streams and calls between lives: what gRPC's channel, call and server are to the code, on frames of bytes in virtual time.

A stream keeps order and loses nothing while it stands, as TCP does; a cut holds frames back. When it breaks, what is in flight is
lost or delivered, and each end learns of the break at its own time: the dialler by `AioRpcError`, the server's handler by
cancellation, as grpc.aio has it. Writing waits when too much is unread (flow control).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio

from tests.sim_engine.loop import LIFE, OUTSIDE, EngineWorld, Life

WINDOW_FRAMES = 8
DIALS_SECONDS, DIALS_MAX = 2.0, 20
"""The runs' back-off (0.02 s to 0.5 s, shortened by up to two thirds) dials some 17 times in that time; without one, a hundred."""

OVERHEARD_MAX = 200


class Network:
    """Who listens, what stands, and how bad the weather is."""

    def __init__(self, world: EngineWorld) -> None:
        self.world = world
        self.servers: dict[str, Server] = {}
        self.streams: dict[Stream, None] = {}
        self.cuts: dict[tuple[str, str], float] = {}
        """Directed pairs between which nothing passes, and until when."""
        self.mean_delay = 0.0005
        self.break_chance = 0.0
        self.overheard: deque[tuple[str, str, bytes]] = deque(maxlen=OVERHEARD_MAX)
        """What was said to the coordinator lately: by whom, to which method."""
        self.dials: dict[tuple[Life, str], deque[float]] = {}
        """By who dials and what: when it was dialled lately, since the other side was heard last."""

    def dialled(self, life: Life, method: str) -> None:
        """Whoever is not answered dials ever more rarely: the checker of back-off."""
        dials = self.dials.setdefault((life, method), deque())
        dials.append(self.world.now)
        while dials[0] < self.world.now - DIALS_SECONDS:
            dials.popleft()
        if len(dials) > DIALS_MAX:
            what = f"dialled {len(dials)} times in {DIALS_SECONDS} s, and nobody answered"
            self.world.unexpected.append(f"back-off: {life.name} {what}")

    def heard(self, life: Life, method: str) -> None:
        """The other side said something."""
        self.dials.pop((life, method), None)

    def arrival(self, source: str, target: str) -> float:
        """When something sent now arrives."""
        now = self.world.now
        return max(now, self.cuts.get((source, target), 0.0)) + self.world.random.expovariate(1 / self.mean_delay)

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        """Let something happen outside of all processes."""
        self.world.loop.call_at(when, action, *arguments, context=OUTSIDE)

    def cut(self, source: str, target: str, seconds: float) -> None:
        """Let nothing pass in one direction for a while."""
        self.cuts[source, target] = self.world.now + seconds

    def heal(self) -> None:
        """Good weather from now on; what a cut holds back comes when that cut would have ended."""
        self.mean_delay, self.break_chance = 0.0005, 0.0
        self.cuts.clear()

    def notice_at(self, *, late: bool = True) -> float:
        """When an end learns that the other one is gone."""
        random = self.world.random
        return self.world.now + random.uniform(0.0, 2.0 if late and random.random() < 0.1 else 0.01)

    # ---- what the code calls

    def insecure_channel(self, address: str, **options: Any) -> Channel:
        """In place of `grpc.aio.insecure_channel`."""
        return Channel(self, address)

    def server(self, **options: Any) -> Server:
        """In place of `grpc.aio.server`."""
        life = LIFE.get()
        assert life is not None
        return Server(self, life, options["interceptors"])


class Half:
    """One direction of a stream."""

    def __init__(self, network: Network, source: str, target: str) -> None:
        self._network = network
        self._names = (source, target)
        self._frames: deque[bytes] = deque()
        self._flying = 0
        self._last_arrival = 0.0
        self._reader: asyncio.Future[None] | None = None
        self._writers: deque[asyncio.Future[None]] = deque()
        self._ended = False
        self._read_error: BaseException | None = None
        self.write_error: BaseException | None = None
        self.torn = False
        """Whether what flies never arrives."""

    async def write(self, data: bytes) -> None:
        """Send one frame; waits while too many are unread."""
        while len(self._frames) + self._flying >= WINDOW_FRAMES and self.write_error is None:
            self._network.world.reach("writer waited for the reader")
            room = self._network.world.loop.create_future()
            self._writers.append(room)
            await room
        if self.write_error is not None:
            raise self.write_error
        self._flying += 1
        at = max(self._last_arrival, self._network.arrival(*self._names))
        self._last_arrival = at + 1e-9
        self._network.at(at, self._arrive, data)
        await asyncio.sleep(0)

    def end(self) -> None:
        """Nothing more is sent: the reader finds the end after the last frame."""
        self._network.at(max(self._last_arrival, self._network.arrival(*self._names)), self._finish)

    def fail_reader(self, error: BaseException) -> None:
        """The reader finds it broken, whatever is unread."""
        self._read_error = error
        self._frames.clear()
        self._wake()

    def fail_writer(self, error: BaseException) -> None:
        """The writer finds it broken."""
        self.write_error = error
        while self._writers:
            _set(self._writers.popleft())

    async def read(self) -> bytes | None:
        """The next frame; `None` at the end."""
        while True:
            if self._read_error is not None:
                raise self._read_error
            if self._frames:
                data = self._frames.popleft()
                if self._writers:
                    _set(self._writers.popleft())
                return data
            if self._ended:
                return None
            self._reader = self._network.world.loop.create_future()
            await self._reader

    def _arrive(self, data: bytes) -> None:
        self._flying -= 1
        if not self.torn and self._read_error is None:
            self._frames.append(data)
            self._wake()

    def _finish(self) -> None:
        if not self.torn:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None:
            _set(self._reader)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _unavailable(details: str) -> grpc.aio.AioRpcError:
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, empty, empty, details=details)


class Stream:
    """One call of a streaming method, from its dialling to its end on both sides."""

    def __init__(self, network: Network, dialler: Life, address: str) -> None:
        self.network = network
        self.dialler = dialler
        self.address = address
        self.up = Half(network, dialler.name, address)
        self.down = Half(network, address, dialler.name)
        self.server_life: Life | None = None
        self.task: asyncio.Task[None] | None = None
        self.over = False
        network.streams[self] = None
        dialler.on_end.append(self.dialler_gone)

    def break_(self, *, late: bool = True) -> None:
        """The network breaks it; with `late` an end may learn of it much later."""
        if self.over:
            return
        self.network.world.reach("stream broken")
        self._over()
        self.network.at(self.network.notice_at(late=late), self._tell_dialler, "the connection broke")
        self.network.at(self.network.notice_at(late=late), self._tell_server)

    def dialler_gone(self) -> None:
        """The dialler cancelled, or died."""
        if not self.over:
            self._over()
            self.network.at(self.network.notice_at(), self._tell_server)

    def server_gone(self) -> None:
        """The server's process died."""
        if not self.over:
            self._over()
            self.network.at(self.network.notice_at(), self._tell_dialler, "the peer is gone")

    def handler_done(self, error: grpc.aio.AioRpcError | None) -> None:
        """The server's handler returned, or failed."""
        if self.over:
            return
        if error is None:
            self.down.end()
            self.up.torn = True
        else:
            self._over()
            self.network.at(self.network.arrival(self.address, self.dialler.name), self._tell_dialler, error)

    def _over(self) -> None:
        self.over = True
        self.network.streams.pop(self, None)
        if self.dialler_gone in self.dialler.on_end:
            self.dialler.on_end.remove(self.dialler_gone)
        if self.network.world.random.random() < 0.5:
            self.up.torn = self.down.torn = True

    def _tell_dialler(self, why: str | grpc.aio.AioRpcError) -> None:
        error = _unavailable(why) if isinstance(why, str) else why
        self.down.fail_reader(error)
        self.up.fail_writer(error)

    def _tell_server(self) -> None:
        if self.task is not None and self.server_life is not None and self.server_life.alive:
            self.task.cancel()

    # ---- dialling

    def knock(self, method: str) -> None:
        """The connection arrives at the server's machine."""
        server = self.network.servers.get(self.address)
        if self.over:
            return
        if server is None or not server.life.alive:
            self._over()
            self._tell_dialler("connection refused")
            return
        self.server_life = server.life
        server.life.on_end.append(self.server_gone)
        self.task = self.network.world.loop.spawn(server.life, server.serve(self, method))


class Channel:
    """In place of a gRPC channel."""

    def __init__(self, network: Network, address: str) -> None:
        self._network = network
        self._address = address

    async def close(self) -> None:
        """Nothing is held."""

    def stream_stream(self, method: str, serialize: Callable[[Any], bytes], deserialize: Callable[[bytes], Any] = bytes) -> Any:
        """The multi-callable of a method."""

        def dial() -> Call:
            life = LIFE.get()
            assert life is not None
            stream = Stream(self._network, life, self._address)
            self._network.dialled(life, method)
            at = self._network.arrival(life.name, self._address)
            self._network.at(at, stream.knock, method)
            return Call(stream, method, serialize, deserialize)

        return dial


class Call:
    """The dialler's side."""

    def __init__(
        self, stream: Stream, method: str, serialize: Callable[[Any], bytes], deserialize: Callable[[bytes], Any]
    ) -> None:
        self._stream = stream
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize

    async def write(self, message: Any) -> None:
        """Send one frame."""
        stream, network = self._stream, self._stream.network
        if network.break_chance and network.world.random.random() < network.break_chance:
            stream.break_()
        data = self._serialize(message)
        network.overheard.append((stream.dialler.name, self._method, data))
        await stream.up.write(data)

    async def read(self) -> Any:
        """The next frame, or EOF."""
        data = await self._stream.down.read()
        self._stream.network.heard(self._stream.dialler, self._method)
        return grpc.aio.EOF if data is None else self._deserialize(data)

    def cancel(self) -> None:
        """Give it up."""
        self._stream.dialler_gone()


class ServerCall:
    """The server's side: the servicer context."""

    def __init__(self, stream: Stream, serialize: Callable[[Any], bytes]) -> None:
        self._stream = stream
        self._serialize = serialize

    async def write(self, message: Any) -> None:
        """Send one frame."""
        network = self._stream.network
        if network.break_chance and network.world.random.random() < network.break_chance:
            self._stream.break_()
        await self._stream.down.write(self._serialize(message))

    def auth_context(self) -> dict[str, list[bytes]]:
        """Nobody has a certificate."""
        return {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Nobody has a token."""
        return ()

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Headers are nothing here."""

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        """End the call with a status."""
        empty = grpc.aio.Metadata()
        raise Ended(grpc.aio.AioRpcError(code, empty, grpc.aio.Metadata(*trailing_metadata), details=details))


class Ended(grpc.aio.AbortError):  # type: ignore[misc]  # the stubs do not have it
    """A handler ended its call with a status."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(str(error))
        self.error = error


class Server:
    """In place of a gRPC server."""

    def __init__(self, network: Network, life: Life, interceptors: Any) -> None:
        self._network = network
        self._interceptors = interceptors
        self._address = ""
        self._handlers: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.life = life

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The registered ones are enough."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Take the handlers of a service."""
        self._handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    def add_insecure_port(self, address: str) -> int:
        """Take the address."""
        self._address = address
        return 7420

    async def start(self) -> None:
        """Listen."""
        self._network.servers[self._address] = self

    async def stop(self, grace: float | None) -> None:
        """Listen no more, and cancel what runs."""
        if self._network.servers.get(self._address) is self:
            del self._network.servers[self._address]
        for stream in self._streams():
            if stream.task is not None:
                stream.task.cancel()
        await asyncio.sleep(0)

    def _streams(self) -> list[Stream]:
        return [stream for stream in self._network.streams if stream.server_life is self.life]

    async def find(self, method: str) -> Any:
        """The handler of a method, inside of the interceptors."""

        async def continuation(details: Any) -> Any:
            return self._handlers[details.method]

        for interceptor in reversed(self._interceptors):
            continuation = _within(interceptor, continuation)
        return await continuation(SimpleNamespace(method=method, invocation_metadata=()))

    async def serve(self, stream: Stream, method: str) -> None:
        """Carry one streaming call."""
        handler = await self.find(method)
        call = ServerCall(stream, handler.response_serializer)
        try:
            await handler.stream_stream(_requests(stream, handler.request_deserializer), call)
        except Ended as ended:
            stream.handler_done(ended.error)
        except asyncio.CancelledError:
            stream.server_gone()
        else:
            stream.handler_done(None)


def _within(interceptor: Any, continuation: Any) -> Any:
    async def intercepted(details: Any) -> Any:
        return await interceptor.intercept_service(continuation, details)

    return intercepted


async def _requests(stream: Stream, deserialize: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    while (data := await stream.up.read()) is not None:
        yield deserialize(data)
