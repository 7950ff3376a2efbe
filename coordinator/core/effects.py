"""What comes out of the coordinator's core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from troth.ready import frozen
from troth.v1 import client_pb2, common_pb2, participant_pb2


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


@dataclass(frozen=True, slots=True)
class Rejected:
    """Answer with Goodbye and end the stream."""

    participant: str
    stream: int
    cause: common_pb2.Cause


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
