"""What a client's session keeps of the stream that it has, and of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from participant_sdk.client.checks import Limits
from troth.link import Outbox
from troth.v1 import client_pb2


@dataclass(slots=True)
class SessionCounters:
    """What the session did since it began."""

    frames_sent: int = 0
    frames_received: int = 0
    resent: int = 0
    streams: int = 0
    sessions: int = 0


@dataclass(slots=True)
class StreamState:
    """What belongs to the stream that stands now."""

    outbox: Outbox[client_pb2.ConnectRequest]
    answered_below_sent: int = 1


@dataclass(slots=True)
class Identity:
    """The session as the coordinator named it."""

    name: str = ""
    epoch: int = 0
    limits: Limits = field(default_factory=Limits)
    token: bytes = b""
    """What shows that it is ours."""
