"""The session with the coordinator: dial, greet, move frames, and dial again with back-off for as long as the participant lives.

A coordinator that is away never stops a participant. What does is a Goodbye that says that dialling again cannot help: the
name belongs to another log, a newer process took over, the versions have nothing in common.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from participant_sdk.causes import error_of
from participant_sdk.seat import Seat
from participant_sdk.silence import Silence
from troth import forks
from troth.address import addresses_of
from troth.backoff import Backoff
from troth.channel import dialled
from troth.errors import ProtocolError, Reason, RemoteProtocolError, RequestError, TrothError
from troth.features import PROTOCOL_VERSION
from troth.identity.tls import Tls
from troth.ids import check_name
from troth.link import FRAME_MESSAGES_MAX, Link, Outbox, Packed, from_wire, paced, to_wire
from troth.logs import get_logger
from troth.tasks import is_cancelling
from troth.v1 import common_pb2, participant_pb2

ROLE = "participant"
METHOD = "/troth.v1.ParticipantService/Session"
COMPLETE = participant_pb2.SessionRequest(reports_complete=True).SerializeToString()
"""Added to the frame that carries the last of the reports."""
PROTOCOL = common_pb2.ProtocolRange(lowest=PROTOCOL_VERSION, highest=PROTOCOL_VERSION)
"""The versions of the protocol that this software speaks."""
GREETING_SECONDS = 10.0
"""How long the coordinator may take to answer Hello."""
REDIAL = Backoff(first_seconds=0.05, cap_seconds=5.0)
"""The wait between two attempts to connect; between two rounds, where there are several addresses."""
FRAME_BYTES_DEFAULT = 1024 * 1024
"""The size of frames to a coordinator that announces none."""
REPORT_OVERHEAD_BYTES = 1024
"""Of a frame, beside the one report that it carries."""
DETAIL_CHARACTERS_MAX = 1_000
"""Of a report that had to be cut."""

_log = get_logger("participant_sdk.session")


class Owner(Protocol):
    """What the session serves."""

    def hello(self) -> participant_pb2.Hello:
        """How to introduce ourselves."""

    def position(self) -> int:
        """The seq of the newest record of our log that is durable."""

    async def accept(self, welcome: participant_pb2.Welcome, position: int) -> bool:
        """Check Welcome and make its epoch durable; the coordinator's log is at `position`. False when Hello only asked: then there
        is another Hello to be said.

        Raises `ProtocolError` (STALE_EPOCH), and we dial again later; or `LogError`, which ends `run`.
        """

    def opened(self, stream: int, welcome: participant_pb2.Welcome, position: int) -> None:
        """The stream stands, and may be sent to."""

    def received(self, stream: int, frame: participant_pb2.SessionResponse) -> None:
        """A frame came in."""

    def closed(self, stream: int) -> None:
        """The stream is gone. Another attempt follows."""

    def backlog(self) -> int:
        """Events that wait."""


class _Farewell(Exception):
    """The coordinator said goodbye."""

    def __init__(self, cause: common_pb2.Cause) -> None:
        super().__init__(f"{cause.reason}: {cause.message}")
        self.cause = cause


class Session:
    """Holds at most one stream to the coordinator at `address`, and tells `owner` what becomes of it. In a cell `seat` says to
    which shard."""

    def __init__(self, name: str, address: str, owner: Owner, tls: Tls | None = None, seat: Seat | None = None) -> None:
        self.seat = seat or Seat()
        self._name = name
        self._address, self._tls = address, tls
        self._nodes = len(addresses_of(address))
        self._owner = owner
        loop = asyncio.get_running_loop()
        self._silence = Silence(_log, loop.time, participant=name, coordinator=address)
        self._generation = forks.generation()
        self._streams = 0
        self._opened = False
        self._may_begin = False
        self._outbox: Outbox[participant_pb2.SessionRequest] | None = None
        self._link: Link[participant_pb2.SessionRequest] | None = None
        self._farewell: common_pb2.Cause | None = None
        self._dropped: TrothError | None = None
        self._ending = False
        self._reports_waiting = 0
        self._report_bytes_max = 0
        self._complete_due = False

    @property
    def stream(self) -> int:
        """The number of the stream that stands, or was the last."""
        return self._streams

    @property
    def cell(self) -> frozenset[str]:
        """See `SessionLike`."""
        return frozenset(self.seat.seats.places.names)

    # ---- sending

    def send(self, stream: int, field: str, message: Message, *, patient: bool = False) -> None:
        """Put a message into the next frame; dropped when the stream is no longer this one."""
        if self._outbox is not None and stream == self._streams:
            if field == "reports":
                self._reports_waiting += 1
                message = _fitting(message, self._report_bytes_max)
            self._outbox.put(field, message, patient=patient)

    def send_reports_complete(self, stream: int) -> None:
        """Mark the frame that carries the last of the reports that were sent before."""
        if self._outbox is None or stream != self._streams:
            return
        if self._reports_waiting:
            self._complete_due = True
        else:
            self._outbox.set("reports_complete", True)

    def drop(self, stream: int, error: TrothError) -> None:
        """End a stream whose coordinator is not to be listened to; another attempt follows."""
        if self._link is not None and stream == self._streams:
            self._dropped = error
            self._link.end()

    def end(self) -> None:
        """Write what waits, then let `run` return."""
        self._ending = True
        if self._link is not None:
            self._link.end()

    # ---- dialling

    async def run(self) -> None:
        """Connect, and connect again, until ended or cancelled. Raises the error of a Goodbye that is for good."""
        async with dialled(self._address, METHOD, to_wire, self._tls, lambda: self.seat.address) as connect:
            attempt = 0
            while not self._ending:
                why = await self._stream(connect)
                if self._ending:
                    return
                if self._may_begin:
                    continue
                # Who is sent away each time it has been welcomed must not come back at once each time.
                attempt = 0 if self._opened and self._farewell is None else attempt + 1
                delay = REDIAL.delay_seconds(attempt // self._nodes, self._name)
                self._silence.goes_on(why)
                _log.debug("not connected", participant=self._name, coordinator=self._address, why=why, next_try=delay)
                await self.seat.pause(delay)

    async def _stream(self, connect: Any) -> str:
        """One stream from its first frame to its last; returns why it ended."""
        self._streams = next(self.seat.seats.numbers)
        self._opened = self._may_begin = False
        self._farewell = self._dropped = None
        call = connect()
        try:
            await self._greet_and_run(call)
            why = "the stream ended"
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name}: {error.details()}"
        except (TimeoutError, asyncio.InvalidStateError, _Farewell, ProtocolError) as error:
            why = str(error) or "no answer to Hello"
        except asyncio.CancelledError:
            # grpc.aio raises this also when the *other* side cancelled the call; then nobody has cancelled this task.
            if is_cancelling():
                raise
            why = "the coordinator cancelled the stream"
        finally:
            self._close(call)
        if self._farewell is not None and not self._farewell.retryable:
            raise error_of(self._farewell)
        return str(self._dropped or why)

    def _close(self, call: Any) -> None:
        if forks.generation() == self._generation:
            call.cancel()  # in a forked child it is the parent's
        self._outbox = self._link = None
        if self._opened:
            self._owner.closed(self._streams)

    async def _greet_and_run(self, call: Any) -> None:
        async with asyncio.timeout(GREETING_SECONDS):
            hello = self._owner.hello()
            hello.coordinator = self.seat.shard
            await call.write(participant_pb2.SessionRequest(hello=hello, position=self._owner.position()))
            first = await _read(call)
        if first is not None and first.HasField("directory"):
            self.seat.hear(first.directory)
        welcome = self._welcome(first)
        assert first is not None
        self.seat.welcomed(welcome.coordinator, first.directory)
        # Who only asked is not let in by the answer, also when it has begun meanwhile by that of another shard.
        if not await self._owner.accept(welcome, first.position) or hello.asks:
            self._may_begin = True
            return
        outbox = self._make_outbox(welcome)
        link = Link(ROLE, outbox, self._writer(call), paced(_frames(call), self._owner.backlog), self._receive)
        self._outbox, self._link, self._opened = outbox, link, True
        self._silence.ends()
        self._owner.opened(self._streams, welcome, first.position)
        # Welcome is handled; whatever else the first frame brought is not to be lost.
        self._receive(first)
        if self._ending:
            link.end()
        with self.seat.held(call.cancel):
            await link.run()

    def _welcome(self, frame: participant_pb2.SessionResponse | None) -> participant_pb2.Welcome:
        if frame is not None and frame.HasField("goodbye"):
            self._farewell = frame.goodbye.cause
            raise _Farewell(frame.goodbye.cause)
        if frame is None or not frame.HasField("welcome"):
            raise RemoteProtocolError("the first frame was not Welcome")
        welcome: participant_pb2.Welcome = frame.welcome
        if not PROTOCOL.lowest <= welcome.protocol_version <= PROTOCOL.highest:
            raise RemoteProtocolError(
                f"the coordinator chose version {welcome.protocol_version}; this participant speaks "
                f"{PROTOCOL.lowest} to {PROTOCOL.highest}",
                reason=Reason.VERSION_MISMATCH,
            )
        try:
            check_name("coordinator", welcome.coordinator)
        except RequestError as error:
            raise RemoteProtocolError(error.message) from None
        return welcome

    def _make_outbox(self, welcome: participant_pb2.Welcome) -> Outbox[participant_pb2.SessionRequest]:
        self._reports_waiting = 0
        self._complete_due = False
        limits = welcome.limits
        frame_bytes_max = limits.frame_bytes_max or FRAME_BYTES_DEFAULT
        self._report_bytes_max = frame_bytes_max - REPORT_OVERHEAD_BYTES
        messages_max = limits.frame_messages_max or FRAME_MESSAGES_MAX
        return Outbox(participant_pb2.SessionRequest, frame_bytes_max, messages_max, self._owner.position)

    # ---- frames

    def _writer(self, call: Any) -> Any:
        async def write(frame: Packed) -> None:
            self._reports_waiting -= frame.counts.get("reports", 0)
            if self._complete_due and not self._reports_waiting:
                self._complete_due = False
                frame.data += COMPLETE
            await call.write(frame)

        return write

    def _receive(self, frame: Message) -> None:
        assert isinstance(frame, participant_pb2.SessionResponse)
        if frame.HasField("directory"):
            self.seat.hear(frame.directory)
        self._owner.received(self._streams, frame)
        if frame.HasField("goodbye"):
            self._farewell = frame.goodbye.cause


def _fitting(report: Message, bytes_max: int) -> Message:
    """A report that fits into a frame. The coordinator's limits may be lower than those under which the branch was prepared; if it
    could not be listed for its results, Hello would never be complete, and the participant never come back."""
    if report.ByteSize() <= bytes_max:
        return report
    assert isinstance(report, participant_pb2.BranchReport)
    return participant_pb2.BranchReport(
        transaction_id=report.transaction_id, order=report.order, state=report.state,
        results_lost=bool(report.results),
        detail=report.detail[:DETAIL_CHARACTERS_MAX],
    )  # fmt: skip


async def _frames(call: Any) -> AsyncIterator[Message]:
    while (frame := await _read(call)) is not None:
        yield frame


async def _read(call: Any) -> participant_pb2.SessionResponse | None:
    """The next frame; `None` at the end of the stream."""
    raw = await call.read()
    return None if raw is grpc.aio.EOF else from_wire(participant_pb2.SessionResponse, raw)
