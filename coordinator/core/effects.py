"""What comes out of the coordinator's core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from coordinator.core.timeline import Moments
from troth.errors import Reason
from troth.ready import frozen
from troth.v1 import client_pb2, common_pb2, participant_pb2, record_pb2


@frozen
class Send:
    """Put a message into a participant's outbox.

    `field` names the repeated field of SessionResponse. If the stream is gone, or is no longer this one, the message is dropped:
    Hello settles the rest.
    """

    participant: str
    stream: int
    field: str
    message: Message
    patient: bool = False
    """Nobody waits for it: it may wait a little for others to travel with."""


@dataclass(frozen=True, slots=True)
class SendWatermark:
    """Put the watermark into the participant's next frame."""

    participant: str
    stream: int
    watermark: participant_pb2.Watermark


@dataclass(frozen=True, slots=True)
class Welcomed:
    """Answer Hello with Welcome; the shell fills in limits and capabilities."""

    participant: str
    stream: int
    heard: int = 0
    """How far the participant's log was heard."""
    seal_key: bytes = b""
    """Under which it seals its early votes."""


@dataclass(frozen=True, slots=True)
class Expired:
    """An order that waited for a second person has expired."""

    review: record_pb2.Review


@dataclass(frozen=True, slots=True)
class MayBegin:
    """Answer a Hello that only asks with Welcome, and end the stream: the participant may begin its incarnation."""

    participant: str
    stream: int
    heard: int = 0
    """See `Welcomed`."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Answer with Goodbye and end the stream."""

    participant: str
    stream: int
    cause: common_pb2.Cause


@dataclass(frozen=True, slots=True)
class LossChanged:
    """The log turned out to have lost what it had said, or an operator accepted that: `has_lost` says which."""


@dataclass(frozen=True, slots=True)
class Begun:
    """Answer Begin."""

    session: str
    response: client_pb2.BeginResponse


@frozen
class Answered:
    """Answer a run, commit or abort. May come again after the session was resumed; clients take repeats."""

    session: str
    answer: client_pb2.Answer


@dataclass(frozen=True, slots=True)
class Got:
    """Answer Get."""

    ticket: Any
    answer: client_pb2.Answer


@dataclass(frozen=True, slots=True)
class Watched:
    """Tell a watcher one state; with `last` there is no further one."""

    ticket: Any
    response: client_pb2.WatchResponse
    last: bool


@dataclass(frozen=True, slots=True)
class Administered:
    """Answer an operator with the response message that belongs to the request."""

    ticket: Any
    response: Message


@dataclass(frozen=True, slots=True)
class Contradicted:
    """A branch ended, or may have ended, otherwise than was decided: an operator is to hear of it."""

    report: record_pb2.Heuristic
    outcome: common_pb2.Outcome.ValueType


@dataclass(frozen=True, slots=True)
class Refused:
    """What was to begin was refused before it was a transaction: for those who count. The caller has an answer of its own. Not the
    error itself, whose traceback holds the request."""

    reason: Reason
    by_caller: bool
    """For a limit of the caller's own."""


@frozen
class Over:
    """A transaction is over, or an operator has dealt with how it ended: what people may want to know of it later."""

    transaction_id: str
    outcome: common_pb2.Outcome.ValueType
    first_attempt_ms: int
    at_ms: int
    """When, by the coordinator's clock."""
    participants: tuple[str, ...]
    cause: common_pb2.Cause | None
    key: str
    heuristic: str
    """What did not end as decided, in words."""
    client: str
    trace: common_pb2.TraceContext | None
    moments: Moments
    is_news: bool
    """Whether it takes the place of what was said of the transaction before; otherwise that stays."""
