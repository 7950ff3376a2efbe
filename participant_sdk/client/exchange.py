"""What one transaction of a session is to the client: its number, the request that waits for an answer, and how it ended."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from enum import Enum

from troth.errors import Reason
from troth.v1 import client_pb2

Request = client_pb2.RunRequest | client_pb2.BeginRequest | client_pb2.CommitRequest | client_pb2.AbortRequest


class Lost(Enum):
    """Why there is no answer."""

    NEVER_SENT = "the session went away before the request was put on the wire"
    SESSION_GONE = "the session went away after the request may have been put on the wire"
    DEADLINE = "no answer came in time"
    DEADLINE_NEVER_SENT = "the request could not be put on the wire in time"


Reply = client_pb2.Answer | client_pb2.BeginResponse | Lost


@dataclass(slots=True, eq=False)
class Exchange:
    """One transaction of this session: its number, and the one request that waits for an answer."""

    number: int
    transaction_id: str
    deadline: float
    """When the caller stops waiting, in the loop's time."""
    field: str = ""
    """The repeated field of ConnectRequest that `request` belongs to."""
    request: Request | None = None
    reply: asyncio.Future[Reply] | None = None
    sent: bool = False
    """Whether a stream that is gone may have carried the request. What waits in the present outbox is not looked at."""
    resends: int = 0
    due: float = math.inf
    """When to send the request again, or to give up: in the loop's time."""
    unsaid: client_pb2.BeginRequest | None = None
    """What Begin would say, until it is answered: the commit says it too."""
    over: client_pb2.Answer | Reason | None = None
    """For an idle interactive transaction: how it ended without having been asked to."""
