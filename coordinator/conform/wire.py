"""The wire: the participant service, which only carries what a case says and keeps what the participant says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from troth.errors import Reason, TrothError
from troth.v1 import participant_pb2

SERVICE = "troth.v1.ParticipantService"
FRAME_BYTES_MAX = 64 * 1024 * 1024


class Stream:
    """One session of the participant, from its dialling to its end."""

    def __init__(self) -> None:
        self._down: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._up: asyncio.Queue[participant_pb2.SessionRequest | None] = asyncio.Queue()
        self.frame_sizes: list[tuple[int, int]] = []
        """Of each frame that came up: its bytes, and its messages."""
        self.ended = False
        """Whether the participant, or the case, has ended it."""
        self.garbled = ""
        """What was wrong with a frame that could not be read."""

    def say(self, frame: participant_pb2.SessionResponse | bytes) -> None:
        """Send a frame, or bytes in the place of one."""
        self._down.put_nowait(frame if isinstance(frame, bytes) else frame.SerializeToString())

    def end(self) -> None:
        """End it from this side."""
        self.ended = True
        self._down.put_nowait(None)

    async def read(self) -> participant_pb2.SessionRequest | None:
        """The next frame; `None` at the end."""
        return await self._up.get()

    async def frames_down(self) -> AsyncIterator[bytes]:
        """What is said, up to the end."""
        while (frame := await self._down.get()) is not None:
            yield frame

    def came_up(self, raw: bytes) -> None:
        """The participant sent a frame."""
        try:
            frame = participant_pb2.SessionRequest.FromString(raw)
        except DecodeError:
            self.garbled = f"a frame of {len(raw)} bytes is no SessionRequest"
            self.end()
            return
        messages = sum(len(value) for field, value in frame.ListFields() if field.is_repeated)
        self.frame_sizes.append((len(raw), messages))
        self._up.put_nowait(frame)

    def closed(self) -> None:
        """The participant is gone."""
        self.ended = True
        self._up.put_nowait(None)
        self._down.put_nowait(None)


class Wire:
    """Listens for the participant; `accept` gives its streams in the order in which they came."""

    def __init__(self) -> None:
        self._streams: asyncio.Queue[Stream] = asyncio.Queue()
        self._server: Any = None
        self.address = ""

    @classmethod
    async def listening(cls, address: str) -> Self:
        """Begin to listen. Raises `TrothError` (PORT_TAKEN)."""
        wire = cls()
        wire._server = grpc.aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", FRAME_BYTES_MAX)))
        session: Any = grpc.stream_stream_rpc_method_handler(wire._session)
        wire._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Session": session}),))
        try:
            port = wire._server.add_insecure_port(address)
        except RuntimeError as error:
            raise TrothError(Reason.PORT_TAKEN, f"cannot listen on {address}: {error}") from None
        wire.address = f"{address.rpartition(':')[0]}:{port}"
        await wire._server.start()
        return wire

    async def stop(self) -> None:
        """Listen no more."""
        await self._server.stop(None)

    async def accept(self) -> Stream:
        """The next stream."""
        return await self._streams.get()

    async def _session(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        stream = Stream()
        self._streams.put_nowait(stream)
        reader = asyncio.create_task(self._read(stream, requests))
        try:
            async for frame in stream.frames_down():
                yield frame
        finally:
            stream.closed()
            reader.cancel()

    async def _read(self, stream: Stream, requests: Any) -> None:
        try:
            async for raw in requests:
                stream.came_up(raw)
        except (grpc.RpcError, asyncio.CancelledError):
            pass  # the participant went away
        finally:
            stream.closed()
