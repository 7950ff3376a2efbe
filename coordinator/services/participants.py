"""The participant session: frames in become events of the core, effects of the core become frames out.

A stream has a number that grows with each stream of the process. The core speaks to a number; what it says to one that is
gone is dropped, since Hello settles everything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import Message

from coordinator.core import effects, events
from coordinator.identity.who import CALLER
from coordinator.services.context import Context
from coordinator.services.streams import Stream, check_protocol
from troth import features
from troth.errors import ProtocolError, Reason, RemoteProtocolError
from troth.ids import check_participant
from troth.logs import get_logger
from troth.v1 import common_pb2, participant_pb2

log = get_logger("troth.participants")

LOG_ID_CHARACTERS_MAX = 64
SOFTWARE_CHARACTERS_MAX = 200
HELLO_ENTRIES_MAX = 10_000
"""Of each list in a Hello."""
OPERATION_NAMES_CHARACTERS_MAX = 1_048_576
"""Characters of all names of operations together."""


Answer = Callable[[str, participant_pb2.CallerQuestion], participant_pb2.CallerAnswer]
"""Says to a participant who began a transaction."""


class ParticipantStream:
    """One participant's stream."""

    def __init__(
        self, context: Context, number: int, hello: participant_pb2.Hello, version: int, call: Any, incoming: Any, answer: Answer
    ) -> None:
        self._context = context
        self._answer = answer
        self.number = number
        self.name, self.incarnation = hello.participant, hello.incarnation
        self.version, self.offered = version, tuple(hello.capabilities)
        self.stream: Stream[participant_pb2.SessionResponse] = Stream(
            context, participant_pb2.SessionResponse, participant_pb2.Goodbye, call.write, incoming, self.receive, context.position
        )
        self.put = self.stream.put
        """Queue a message."""
        self.welcomed = False
        """Whether it was answered."""

    def receive(self, frame: participant_pb2.SessionRequest) -> None:
        """Hand one frame to the core, field by field in the order of their numbers."""
        if frame.HasField("hello"):
            raise RemoteProtocolError("a second Hello on one stream")
        self.submit(frame)

    def submit(self, frame: participant_pb2.SessionRequest) -> None:
        """Hand what a frame has besides Hello to the core."""
        name, number, position = self.name, self.number, frame.position
        self._context.common.gate.participant_frame(self.stream.caller, name, frame)
        batch: list[Any] = []
        if frame.reports or frame.reports_complete:
            batch.append(events.ReportsReceived(name, number, frame.reports, frame.reports_complete))
        for field in (
            frame.enlists, frame.votes, frame.acknowledgements, frame.inquiries, frame.settlements, frame.undeclared,
            frame.invariants,
        ):  # fmt: skip
            if field:
                batch += [events.FromParticipant(name, number, message, position) for message in field[:]]
        self._context.submit_all(batch)
        for question in frame.callers[:]:
            self.put("callers", self._answer(name, question))

    def set_once(self, field: str, message: Message) -> None:
        """Have the next frame carry Welcome, or the watermark."""
        if not self.stream.ending:
            self.stream.outbox.set(field, message)

    def welcome(self, heard: int, seal_key: bytes) -> None:
        """Answer Hello. The core says nothing to the stream before this."""
        self._context.quiet.tell(log.info, "participant connected", participant=self.name)
        self._context.common.auditing.participant(self.stream.caller, self.name, self.incarnation)
        self._welcome(heard, seal_key)

    def let_begin(self, heard: int) -> None:
        """Answer a Hello that only asks, and end the stream."""
        self._welcome(heard)
        self.stream.finish()

    def _welcome(self, heard: int, seal_key: bytes = b"") -> None:
        context = self._context
        answer = participant_pb2.Welcome(
            protocol_version=self.version,
            coordinator=context.config.shell.name,
            epoch=context.core.epoch,
            nonce=context.nonce,
            limits=context.config.limits(),
            log_id=context.core.log_id,
            heard=heard,
            seal_key=seal_key,
            capabilities=features.agreed(self.offered, context.common.shell.features_held_back),
        )
        self.set_once("welcome", answer)
        self.welcomed = True
        self.stream.tell_directory()


class Participants:
    """The streams of one shard's participants."""

    def __init__(self, context: Context, answer: Answer) -> None:
        self._context, self._answer = context, answer
        self._streams: dict[int, ParticipantStream] = {}
        self._last_number = 0

    async def serve(
        self, frame: participant_pb2.SessionRequest, version: int, incoming: AsyncIterator[Any], call: Any
    ) -> None:
        """Carry one participant's session; `frame` is the first, with a Hello that was checked. Raises `RequestError` (FORBIDDEN)
        before anything is said."""
        name = frame.hello.participant
        self._context.common.gate.participant_frame(CALLER.get(), name, frame)
        self._last_number += 1
        self._context.counters.participant_streams += 1
        one = ParticipantStream(self._context, self._last_number, frame.hello, version, call, incoming, self._answer)
        self._streams[one.number] = one
        self._context.submit(events.HelloReceived(name, one.number, frame.hello, frame.position))
        one.submit(frame)
        try:
            await one.stream.run()
        finally:
            self._context.quiet.tell(log.info, "participant disconnected", participant=name)
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
            one.set_once("watermark", effect.watermark)

    def welcomed(self, effect: effects.Welcomed) -> None:
        """Answer Hello."""
        one = self._streams.get(effect.stream)
        if one is not None:
            one.welcome(effect.heard, effect.seal_key)

    def may_begin(self, effect: effects.MayBegin) -> None:
        """Answer a Hello that only asks."""
        one = self._streams.get(effect.stream)
        if one is not None:
            one.let_begin(effect.heard)

    def rejected(self, effect: effects.Rejected) -> None:
        """Answer with Goodbye, and end the stream."""
        one = self._streams.get(effect.stream)
        if one is not None:
            quiet = self._context.quiet
            quiet.tell(log.warning, "participant rejected", participant=effect.participant, reason=effect.cause.reason)
            one.stream.end(effect.cause)

    def violated(self, number: int, error: ProtocolError) -> None:
        """The core refused what came over a stream: the first refusal ends it, and what came with it is heard no more."""
        one = self._streams.get(number)
        if one is None or one.stream.ending:
            return
        if error.reason is Reason.OVERLOADED:
            self._context.quiet.tell(log.warning, "no room for what a participant said", participant=one.name, error=error.message)
            return
        one.stream.broke(error)
        self._context.submit(events.ParticipantLost(one.name, number))

    # ---- life cycle

    def tell_directory(self) -> None:
        """Tell everybody where the shards of the cell are; who waits for Welcome is told with it, since nothing comes before."""
        for one in self._streams.values():
            if one.welcomed:
                one.stream.tell_directory()

    def end_all(self, cause: common_pb2.Cause) -> None:
        """Say Goodbye to everybody."""
        for one in list(self._streams.values()):
            one.stream.end(cause)

    def open_streams(self) -> int:
        """Streams that are not over."""
        return len(self._streams)


def check_hello(frame: participant_pb2.SessionRequest) -> int:
    """The protocol version of a session; raises `TrothError` for a Hello that cannot be accepted."""
    if not frame.HasField("hello"):
        raise RemoteProtocolError("the first frame carries no Hello")
    hello = frame.hello
    version = check_protocol(hello.protocol)
    check_participant(hello.participant)
    if not 0 < len(hello.log_id) <= LOG_ID_CHARACTERS_MAX or hello.incarnation == 0:
        raise RemoteProtocolError("Hello needs a log_id and an incarnation above 0", reason=Reason.INVALID_ARGUMENT)
    lists = (hello.operations, hello.capabilities, hello.heard, hello.starts, hello.starts_after)
    if len(hello.software) > SOFTWARE_CHARACTERS_MAX or max(map(len, lists)) > HELLO_ENTRIES_MAX:
        raise RemoteProtocolError("Hello is too long", reason=Reason.INVALID_ARGUMENT)
    if sum(map(len, hello.operations)) > OPERATION_NAMES_CHARACTERS_MAX:
        message = f"the names of operations have more than {OPERATION_NAMES_CHARACTERS_MAX} characters together"
        raise RemoteProtocolError(message, reason=Reason.INVALID_ARGUMENT)
    return version
