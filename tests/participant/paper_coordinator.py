"""A coordinator made of paper: it speaks the participant session on loopback, and says only what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.message import Message

from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.v1 import common_pb2, participant_pb2, participant_pb2_grpc
from troth.values import encode_arguments

EPOCH_OF_ASKED = 1 << 12
"""Who asks writes nothing down of who answers, and is not to take it for a stale one."""


class Stream:
    """One session: what the participant said, field by field, and what the test answers."""

    def __init__(self) -> None:
        self._to_participant: asyncio.Queue[participant_pb2.SessionResponse | None] = asyncio.Queue()
        self._heard: dict[str, asyncio.Queue[Any]] = {}
        self.hello = participant_pb2.Hello()
        self.frames: list[participant_pb2.SessionRequest] = []
        self.ended = asyncio.Event()

    def say(self, **fields: Any) -> None:
        """Send one frame."""
        self._to_participant.put_nowait(participant_pb2.SessionResponse(**fields))

    def welcome(self, epoch: int = 1, *, version: int = 1, frame_bytes_max: int = 1_000_000) -> None:
        """Accept the participant."""
        self.say(
            welcome=participant_pb2.Welcome(
                protocol_version=version,
                coordinator="c1",
                epoch=epoch,
                nonce="00112233",
                limits=common_pb2.Limits(frame_bytes_max=frame_bytes_max),
            )
        )

    def goodbye(self, reason: str, *, retryable: bool) -> None:
        """Send the participant away."""
        self.say(goodbye=participant_pb2.Goodbye(cause=common_pb2.Cause(reason=reason, retryable=retryable, message="go")))

    def end(self) -> None:
        """End the stream."""
        self._to_participant.put_nowait(None)

    def queue(self, field: str) -> asyncio.Queue[Any]:
        """What the participant said in a field."""
        return self._heard.setdefault(field, asyncio.Queue())

    async def heard(self, field: str) -> Any:
        """The next message of a field."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.queue(field).get()

    async def until_ended(self) -> None:
        """Wait until the participant is gone."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.ended.wait()

    def listen(self, frame: participant_pb2.SessionRequest) -> None:
        """Sort a frame."""
        self.frames.append(frame)
        for descriptor, value in frame.ListFields():
            items = [value] if isinstance(value, Message | int) else list(value)
            for item in items:
                self.queue(descriptor.name).put_nowait(item)

    async def frames_to_send(self) -> AsyncIterator[participant_pb2.SessionResponse]:
        """What the test said, until it ended the stream."""
        while (frame := await self._to_participant.get()) is not None:
            yield frame


class PaperCoordinator(participant_pb2_grpc.ParticipantServiceServicer):
    """Listens on a free port of loopback; `accept` gives the next stream after its Hello."""

    def __init__(self) -> None:
        self._streams: asyncio.Queue[Stream] = asyncio.Queue()
        self._server: Any = None
        self.lets_begin = True
        """Whether who only asks is let in at once, and not given to the test."""
        self.address = ""

    async def __aenter__(self) -> Self:
        await self.listen(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def listen(self, port: int) -> None:
        """Begin to listen; 0 is any free port."""
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        participant_pb2_grpc.add_ParticipantServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        await self._server.start()

    async def accept(self) -> Stream:
        """The next stream."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._streams.get()

    async def welcomed(self, epoch: int = 1) -> Stream:
        """The next stream, after Welcome and all reports, which are answered."""
        stream = await self.accept()
        stream.welcome(epoch)
        await stream.heard("reports_complete")
        stream.say(watermark=participant_pb2.Watermark())
        return stream

    async def Session(self, request_iterator: Any, context: Any) -> AsyncIterator[participant_pb2.SessionResponse]:
        """The service."""
        stream = Stream()
        reader = asyncio.create_task(self._read(stream, request_iterator))
        try:
            async for frame in stream.frames_to_send():
                yield frame
        finally:
            reader.cancel()
            stream.ended.set()

    async def _read(self, stream: Stream, requests: Any) -> None:
        try:
            async for frame in requests:
                if frame.hello.asks and self.lets_begin:
                    stream.welcome(EPOCH_OF_ASKED)
                    stream.end()
                    continue
                if frame.HasField("hello"):
                    stream.hello = frame.hello
                    self._streams.put_nowait(stream)
                stream.listen(frame)
        except (grpc.RpcError, asyncio.CancelledError):
            pass  # the participant went away
        finally:
            stream.ended.set()
            stream.end()


def operation(name: str, /, **arguments: object) -> common_pb2.Operation:
    """An operation as it travels."""
    return common_pb2.Operation(name=name, arguments=encode_arguments(arguments))


def transaction(number: int, epoch: int = 1) -> str:
    """The id of a transaction of this coordinator."""
    return f"c1.{epoch}.00112233.1.{number}"
