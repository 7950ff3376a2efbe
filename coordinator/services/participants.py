"""The participant session: frames in become events of the core, effects of the core become frames out.

A stream has a number that grows with each stream of the process. The core speaks to a number; what it says to one that is
gone is dropped, since Hello settles everything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from google.protobuf.message import Message

from coordinator.core import effects, events
from coordinator.services import status
from coordinator.services.context import Context
from coordinator.services.streams import Stream, check_protocol, first_frame
from troth.errors import Reason, RemoteProtocolError, TrothError
from troth.ids import check_name
from troth.v1 import common_pb2, participant_pb2, participant_pb2_grpc

log = structlog.get_logger("troth.participants")

LOG_ID_CHARACTERS_MAX = 64
SOFTWARE_CHARACTERS_MAX = 200
OPERATION_NAMES_MAX = 10_000


class ParticipantStream:
    """One participant's stream."""

    def __init__(self, context: Context, number: int, name: str, version: int, call: Any, incoming: Any) -> None:
        self._context = context
        self.number = number
        self.name = name
        self.version = version
        self.welcomed = False
        self._held: list[tuple[str, Message]] = []
        self._held_watermark: participant_pb2.Watermark | None = None
        self.stream: Stream[participant_pb2.SessionResponse] = Stream(
            context, participant_pb2.SessionResponse, participant_pb2.Goodbye, call.write, incoming, self.receive
        )
        self.put: Callable[..., None] = self._hold
        """Queue a message: as `Stream.put` does, but not before Welcome."""

    def receive(self, frame: participant_pb2.SessionRequest) -> None:
        """Hand one frame to the core, field by field in the order of their numbers."""
        if frame.HasField("hello"):
            raise RemoteProtocolError("a second Hello on one stream")
        self.submit(frame)

    def submit(self, frame: participant_pb2.SessionRequest) -> None:
        """Hand what a frame has besides Hello to the core."""
        name, number = self.name, self.number
        batch: list[Any] = []
        if frame.reports or frame.reports_complete:
            batch.append(events.ReportsReceived(name, number, frame.reports, frame.reports_complete))
        for field in (frame.enlists, frame.votes, frame.acknowledgements, frame.inquiries, frame.settlements):
            if field:
                batch += [events.FromParticipant(name, number, message) for message in field[:]]
        self._context.submit_all(batch)

    def _hold(self, field: str, message: Message, *, patient: bool = False) -> None:
        """The first frame carries Welcome, so what comes before it is held back."""
        if not self.stream.ending:
            self._held.append((field, message))

    def put_watermark(self, watermark: participant_pb2.Watermark) -> None:
        """Have the next frame carry the watermark, but none before Welcome."""
        if self.welcomed and not self.stream.ending:
            self.stream.outbox.set("watermark", watermark)
        else:
            self._held_watermark = watermark

    def welcome(self) -> None:
        """Answer Hello, and let go what was held back."""
        context = self._context
        answer = participant_pb2.Welcome(
            protocol_version=self.version,
            coordinator=context.config.shell.name,
            epoch=context.core.epoch,
            nonce=context.nonce,
            limits=context.config.limits(),
        )
        if self.stream.ending or self.welcomed:
            return
        self.welcomed = True
        self.put = self.stream.put
        self.stream.outbox.set("welcome", answer)
        if self._held_watermark is not None:
            self.stream.outbox.set("watermark", self._held_watermark)
        held, self._held = self._held, []
        for field, message in held:
            self.stream.put(field, message)


class ParticipantService(participant_pb2_grpc.ParticipantServiceServicer):
    """What participants dial."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._streams: dict[int, ParticipantStream] = {}
        self._last_number = 0

    async def Session(self, request_iterator: AsyncIterator[Any], context: Any) -> None:  # type: ignore[override]  # writes to the context
        """Carry one participant's session."""
        try:
            frame = await first_frame(request_iterator, self._context.config.shell.hello_seconds)
            version = _check_hello(frame)
        except TrothError as error:
            self._context.counters.malformed_frames += isinstance(error, RemoteProtocolError)
            goodbye = participant_pb2.Goodbye(cause=status.cause_of(error))
            await context.write(participant_pb2.SessionResponse(goodbye=goodbye))
            return
        await self._serve(frame, version, request_iterator, context)

    async def _serve(
        self, frame: participant_pb2.SessionRequest, version: int, incoming: AsyncIterator[Any], call: Any
    ) -> None:
        self._last_number += 1
        self._context.counters.participant_streams += 1
        name = frame.hello.participant
        one = ParticipantStream(self._context, self._last_number, name, version, call, incoming)
        self._streams[one.number] = one
        self._context.submit(events.HelloReceived(name, one.number, frame.hello))
        one.submit(frame)
        try:
            await one.stream.run()
        finally:
            self._streams.pop(one.number, None)
            self._context.stream_ended.set()
            self._context.submit(events.ParticipantLost(name, one.number))

    # ---- effects

    def send(self, effect: effects.Send) -> None:
        """Put a message into a participant's outbox."""
        one = self._streams.get(effect.stream)
        if one is not None:
            one.put(effect.field, effect.message, patient=effect.patient)

    def send_watermark(self, effect: effects.SendWatermark) -> None:
        """Put the watermark into the next frame."""
        one = self._streams.get(effect.stream)
        if one is not None:
            one.put_watermark(effect.watermark)

    def welcomed(self, effect: effects.Welcomed) -> None:
        """Answer Hello."""
        one = self._streams.get(effect.stream)
        if one is not None:
            one.welcome()

    def rejected(self, effect: effects.Rejected) -> None:
        """Answer with Goodbye, and end the stream."""
        one = self._streams.get(effect.stream)
        if one is not None:
            log.warning("participant rejected", participant=effect.participant, reason=effect.cause.reason)
            one.stream.end(effect.cause)

    # ---- life cycle

    def end_all(self, cause: common_pb2.Cause) -> None:
        """Say Goodbye to everybody."""
        for one in list(self._streams.values()):
            one.stream.end(cause)

    def open_streams(self) -> int:
        """Streams that are not over."""
        return len(self._streams)


def _check_hello(frame: participant_pb2.SessionRequest) -> int:
    """The protocol version of a session; raises `TrothError` for a Hello that cannot be accepted."""
    if not frame.HasField("hello"):
        raise RemoteProtocolError("the first frame carries no Hello")
    hello = frame.hello
    version = check_protocol(hello.protocol)
    check_name("participant", hello.participant)
    if not 0 < len(hello.log_id) <= LOG_ID_CHARACTERS_MAX or hello.incarnation == 0:
        raise RemoteProtocolError("Hello needs a log_id and an incarnation above 0", reason=Reason.INVALID_ARGUMENT)
    if len(hello.software) > SOFTWARE_CHARACTERS_MAX or len(hello.operations) > OPERATION_NAMES_MAX:
        raise RemoteProtocolError("Hello is too long", reason=Reason.INVALID_ARGUMENT)
    return version
