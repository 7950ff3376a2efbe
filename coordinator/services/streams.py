"""One open stream to a peer: bounded, and ended with a Goodbye that says why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, Generic, Protocol

import structlog
from google.protobuf.message import Message

from coordinator.services import status
from coordinator.services.context import Context
from coordinator.services.guard import Malformed
from troth.errors import Reason, RemoteProtocolError, TrothError
from troth.link import Frame, Link, Outbox, Packed
from troth.v1 import common_pb2

PROTOCOL_VERSION = 1
"""The only version of the wire protocol so far."""

log = structlog.get_logger("troth.streams")


class Contextual(Protocol):
    """What a stream needs of gRPC's context."""

    def write(self, message: Any) -> Awaitable[None]:
        """Send one frame."""


class Stream(Generic[Frame]):
    """Frames both ways until the peer leaves, or `end` was called.

    A peer that does not read is not waited for: when more than `outbox_items_max` messages wait and none has moved for
    `goodbye_seconds`, its stream is ended, and what it was owed is derived from the core's state when it comes back. Many
    messages alone end no stream: after a long absence a peer is owed whatever it is owed, and ending the stream would only
    make the same again.
    """

    def __init__(
        self,
        context: Context,
        make_frame: type[Frame],
        goodbye: Callable[..., Message],
        write: Callable[[Any], Awaitable[None]],
        incoming: AsyncIterable[Any],
        receive: Callable[[Any], None],
    ) -> None:
        self._context = context
        self._goodbye = goodbye
        self._receive = receive
        self.outbox = Outbox(make_frame, context.config.shell.frame_bytes_max)
        self._items_max = context.config.shell.outbox_items_max
        self._write = write
        self._link = Link("coordinator", self.outbox, self._move, incoming, self._take)
        self._moving_since: float | None = None
        """When the frame that the transport has not taken yet was handed to it."""
        self._limit = asyncio.timeout(None)
        self._running = False
        self.ending = False

    def put(self, field: str, message: Message, *, patient: bool = False) -> None:
        """Queue a message; a peer for which too many wait is sent away."""
        if self.ending:
            return
        self.outbox.put(field, message, patient=patient)
        if self._moving_since is not None and self._is_stuck(self._moving_since):
            self._context.counters.overloaded_streams += 1
            self.end(status.cause(Reason.OVERLOADED, f"{len(self.outbox)} messages wait for this peer, which does not read"))

    def _is_stuck(self, since: float) -> bool:
        if len(self.outbox) <= self._items_max:
            return False
        return asyncio.get_running_loop().time() - since > self._context.config.shell.goodbye_seconds

    async def _move(self, frame: Packed) -> None:
        self._moving_since = asyncio.get_running_loop().time()
        await self._write(frame)
        self._moving_since = None

    def end(self, cause: common_pb2.Cause) -> None:
        """Drop what waits, say Goodbye, and end the stream; a peer that does not read gets `goodbye_seconds`."""
        if self.ending:
            return
        self.ending = True
        self.outbox.clear()
        self.outbox.set("goodbye", self._goodbye(cause=cause))
        self._link.end()
        if self._running:
            self._limit_farewell()

    async def run(self) -> None:
        """Move frames until the stream is over. Never raises for what the peer or the network did."""
        try:
            async with self._limit:
                self._running = True
                if self.ending:
                    self._limit_farewell()
                await self._link.run()
        except TimeoutError:
            log.warning("a peer did not take its Goodbye")
        except Exception as error:
            # Whatever else comes out of the link comes from the transport; how it names that differs between versions.
            log.debug("stream broken", error=repr(error))

    def _limit_farewell(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time() + self._context.config.shell.goodbye_seconds)

    def _take(self, frame: Any) -> None:
        self.handle(self._receive, frame)

    def handle(self, receive: Callable[[Any], None], frame: Any) -> None:
        """Let `receive` take a frame; what is wrong with it ends the stream."""
        if self.ending:
            return
        try:
            if isinstance(frame, Malformed):
                raise frame.error
            receive(frame)
        except RemoteProtocolError as error:
            self.violated(error)
        except TrothError as error:
            self.end(status.cause_of(error))
        except Exception as error:
            self._context.counters.internal_errors += 1
            log.error("internal error on a stream", exc_info=error)
            self.end(status.cause(Reason.INTERNAL, "internal error on this stream"))

    def violated(self, error: RemoteProtocolError) -> None:
        """The peer sent what it must not send: count it, and end the stream."""
        self._context.counters.malformed_frames += 1
        log.warning("malformed frame", error=error.message)
        self.end(status.cause_of(error))


def check_protocol(offered: common_pb2.ProtocolRange) -> int:
    """The version for a stream; raises `RemoteProtocolError` (VERSION_MISMATCH)."""
    if offered.lowest <= PROTOCOL_VERSION <= offered.highest:
        return PROTOCOL_VERSION
    raise RemoteProtocolError(
        f"the peer speaks protocol versions {offered.lowest} to {offered.highest}, this coordinator {PROTOCOL_VERSION}",
        reason=Reason.VERSION_MISMATCH,
    )


async def first_frame(incoming: AsyncIterable[Any], seconds: float) -> Any:
    """The first frame of a stream; raises `RemoteProtocolError` when none comes, or none that can be read."""
    try:
        async with asyncio.timeout(seconds):
            async for frame in incoming:
                if isinstance(frame, Malformed):
                    raise frame.error
                return frame
    except TimeoutError:
        raise RemoteProtocolError(f"no Hello within {seconds:g} seconds") from None
    raise RemoteProtocolError("the stream ended without a Hello")
