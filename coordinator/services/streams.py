"""One open stream to a peer: bounded, and ended with a Goodbye that says why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, Generic, Protocol

from google.protobuf.message import Message

from coordinator.identity.who import CALLER
from coordinator.services import status
from coordinator.services.context import Context
from coordinator.services.guard import Malformed
from coordinator.shell_settings import ShellSettings
from troth.errors import ProtocolError, Reason, RemoteProtocolError, RequestError, TrothError
from troth.features import PROTOCOL_VERSION
from troth.link import Frame, Link, Outbox, Packed, paced
from troth.logs import get_logger
from troth.v1 import common_pb2

COMES_BACK = frozenset({Reason.FORBIDDEN, Reason.TOKEN_EXPIRED})
"""Why a peer is sent away and yet may dial again: a mistake in a policy, once it is mended, must not leave services ended."""
EXPIRY_SECONDS_MAX = 86_400.0
"""A stream lasts no longer than a day on what was shown at its beginning, if that expires at all: timers of years are none."""

log = get_logger("troth.streams")


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
        position: Callable[[], int] | None = None,
    ) -> None:
        self._context = context
        self._goodbye = goodbye
        self._receive = receive
        shell = context.config.shell
        self.outbox = Outbox(make_frame, shell.frame_bytes_max, shell.frame_messages_max, position)
        self._items_max = shell.outbox_items_max
        self._write = write
        self._link = Link("coordinator", self.outbox, self._move, paced(incoming, context.backlog), self._take)
        self._moving_since: float | None = None
        """When the frame that the transport has not taken yet was handed to it."""
        self._moving_bytes = 0
        self._limit = asyncio.timeout(None)
        self._running = False
        self.caller = CALLER.get()
        self.ending = False

    def put(self, field: str, message: Message, *, patient: bool = False) -> None:
        """Queue a message; a peer for which too many wait is sent away."""
        if self.ending:
            return
        before = self.outbox.held_bytes
        self.outbox.put(field, message, patient=patient)
        self._context.outboxes.queued(self.outbox.held_bytes - before)
        if self._moving_since is not None and self._is_stuck(self._moving_since):
            self.send_away(RequestError(Reason.OVERLOADED, f"{len(self.outbox)} messages wait for this peer, which does not read"))

    def _is_stuck(self, since: float) -> bool:
        if len(self.outbox) <= self._items_max:
            return False
        return asyncio.get_running_loop().time() - since > self._context.config.shell.goodbye_seconds

    async def _move(self, frame: Packed) -> None:
        self._moving_since = asyncio.get_running_loop().time()
        self._moving_bytes = len(frame.data)
        await self._write(frame)
        self._moving_since = None
        self._moving_bytes = 0

    def held_bytes(self) -> int:
        """See `outboxes.Holder`."""
        return self.outbox.held_bytes + self._moving_bytes

    def held_items(self) -> int:
        """See `outboxes.Holder`."""
        return len(self.outbox)

    def send_away(self, error: RequestError) -> None:
        """See `outboxes.Holder`."""
        self._context.counters.overloaded_streams += 1
        self.end(status.cause_of(error))

    def end(self, cause: common_pb2.Cause) -> None:
        """Drop what waits, say Goodbye, and end the stream; a peer that does not read gets `goodbye_seconds`."""
        if not self.ending:
            self.outbox.clear()
            self.outbox.set("goodbye", self._goodbye(cause=cause))
            self.tell_directory()
            self.finish()

    def finish(self) -> None:
        """Write what waits, and end the stream."""
        if self.ending:
            return
        self.ending = True
        self._link.end()
        if self._running:
            self._limit_farewell()

    def tell_directory(self) -> None:
        """Let the next frame say where the shards of the cell are."""
        directory = self._context.common.directory
        if directory is not None:
            self.outbox.set("directory", directory)

    async def run(self) -> None:
        """Move frames until the stream is over. Never raises for what the peer or the network did."""
        self._context.outboxes.add(self)
        expiry = self._expiry()
        try:
            async with self._limit:
                self._running = True
                if self.ending:
                    self._limit_farewell()
                await self._link.run()
        except TimeoutError:
            self._context.quiet.tell(log.warning, "a peer did not take its Goodbye")
        except Exception as error:
            # Whatever else comes out of the link comes from the transport; how it names that differs between versions.
            log.debug("stream broken", error=repr(error))
        finally:
            self._context.outboxes.remove(self)
            if expiry is not None:
                expiry.cancel()

    def _expiry(self) -> asyncio.TimerHandle | None:
        """End the stream when what the peer has shown expires; it comes back with something newer."""
        if self.caller.until is None:
            return None
        told = status.cause(Reason.TOKEN_EXPIRED, f"the {self.caller.shown_by} of {self.caller} has expired")
        told.retryable = True
        delay = min(self.caller.until - time.time(), EXPIRY_SECONDS_MAX)
        return asyncio.get_running_loop().call_later(delay, self.end, told)

    def _limit_farewell(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time() + self._context.config.shell.goodbye_seconds)

    def _take(self, frame: Any) -> None:
        self.handle(self._receive, frame)

    def handle(self, receive: Callable[[Any], None], frame: Any) -> None:
        """Let `receive` take a frame; what is wrong with it ends the stream."""
        if self.ending:
            return
        try:
            check_frame(frame)
            receive(frame)
        except RemoteProtocolError as error:
            self.violated(error)
        except TrothError as error:
            cause = status.cause_of(error)
            cause.retryable |= error.reason in COMES_BACK
            self.end(cause)
        except Exception as error:
            self._context.counters.internal_errors += 1
            self._context.quiet.tell(log.error, "internal error on a stream", exc_info=error)
            self.end(status.cause(Reason.INTERNAL, "internal error on this stream"))

    def violated(self, error: ProtocolError) -> None:
        """The peer sent what it must not send: count it, and end the stream."""
        self._context.counters.malformed_frames += 1
        self._context.quiet.tell(log.warning, "malformed frame", error=error.message)
        self.end(status.cause_of(error))

    def broke(self, error: ProtocolError) -> None:
        """The peer broke a rule of the protocol: tell it which, and end the stream. The core has not changed, and a new stream
        brings both to the same state again; so the peer may come back."""
        self._context.quiet.tell(log.warning, "protocol violation", error=error.message)
        cause = status.cause_of(error)
        cause.retryable = True
        self.end(cause)


def check_frame(frame: Any) -> None:
    """Raise `RemoteProtocolError` for what the guard has found to be no frame, or one too large."""
    if isinstance(frame, Malformed):
        raise frame.error


async def write_farewell(write: Callable[[Any], Awaitable[None]], frame: Message, shell: ShellSettings) -> None:
    """Say Goodbye to a peer that was not let in, for `goodbye_seconds` at most. One that has left already needs none, and is no
    error of ours."""
    try:
        async with asyncio.timeout(shell.goodbye_seconds):
            await write(frame)
    except Exception as error:
        # What the transport raises then differs between versions; `Stream.run` takes it in the same way.
        log.debug("a peer left before its Goodbye", error=repr(error))


def check_protocol(offered: common_pb2.ProtocolRange) -> int:
    """The version for a stream; raises `RemoteProtocolError` (VERSION_MISMATCH)."""
    if offered.lowest <= PROTOCOL_VERSION <= offered.highest:
        return PROTOCOL_VERSION
    raise RemoteProtocolError(
        f"the peer speaks protocol versions {offered.lowest} to {offered.highest}, this coordinator {PROTOCOL_VERSION}",
        reason=Reason.VERSION_MISMATCH,
    )


async def first_frame(incoming: AsyncIterable[Any], shell: ShellSettings) -> Any:
    """The first frame of a stream; raises `RemoteProtocolError` when none comes, or none that can be read."""
    seconds = shell.hello_seconds
    try:
        async with asyncio.timeout(seconds):
            async for frame in incoming:
                check_frame(frame)
                return frame
    except TimeoutError:
        raise RemoteProtocolError(f"no Hello within {seconds:g} seconds") from None
    raise RemoteProtocolError("the stream ended without a Hello")
