"""What comes out of the participant's core.

For a resource that is LOGGED or EXTERNAL the requests of `work` are effects too: they go to its driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from troth.ready import frozen
from troth.v1 import common_pb2


@dataclass(frozen=True, slots=True)
class Started:
    """The incarnation is durable and everything unprepared of earlier ones is undone: the shell may connect and serve."""

    incarnation: int


@frozen
class Send:
    """Put a message into the outbox.

    `field` names the repeated field of SessionRequest. If the stream is no longer this one, the message is dropped: the
    reports of the next stream, and the core's own repeats, settle the rest.
    """

    stream: int
    field: str
    message: Message
    patient: bool = False
    """Nobody waits for it: it may wait a little for others to travel with."""


@dataclass(frozen=True, slots=True)
class UndeclaredWait:
    """For the first time somebody has waited for an operation that declares no lock keys, or it for somebody: tell its author."""

    operation: str


@dataclass(frozen=True, slots=True)
class ReportsComplete:
    """Set `reports_complete` behind all reports that were sent before."""

    stream: int


@frozen
class Reply:
    """Answer a Call: the result, or why it did not happen."""

    ticket: Any
    result: common_pb2.Value | None = None
    cause: common_pb2.Cause | None = None


@frozen
class EarlyVoted:
    """Answer a LastCall: the branch is prepared, durably, with so many operations; or it is not, and will be asked as ever (0)."""

    ticket: Any
    operation_count: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class LocalReply:
    """Answer LocalWork or SchemaChange: what the function returned or raised, or why it did not run."""

    ticket: Any
    value: Any = None
    error: BaseException | None = None
    cause: common_pb2.Cause | None = None
