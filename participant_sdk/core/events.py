"""What goes into the participant's core; the answers of the resource are in `work`.

A *stream* is a number that the shell gives to each session with the coordinator, growing in one process. Frames of a
stream that is not the current one are dropped by the core. A `ticket` is whatever the shell needs to find its caller again;
it must be hashable, is used once, and comes back in the matching effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from troth.ready import frozen
from troth.v1 import common_pb2, participant_pb2


@dataclass(frozen=True, slots=True)
class Start:
    """The process may serve as this incarnation. First event after recovery; answered by the effect `Started`.

    With `Config.keeps_identity` the core makes the incarnation durable first; otherwise the shell has done so.
    """

    incarnation: int


@dataclass(frozen=True, slots=True)
class Connected:
    """A session is open: Welcome came, and its epoch is not lower than one that was seen of this coordinator.

    The core answers with its reports. With `Config.keeps_identity` it also writes EpochSeen; otherwise the shell has made the
    epoch durable before this event. A lower epoch than the core has seen is a ProtocolError (STALE_EPOCH).
    """

    stream: int
    coordinator: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session ended."""

    stream: int


@frozen
class FromCoordinator:
    """One message of the coordinator, other than Prepare, Welcome and Goodbye."""

    stream: int
    message: (
        participant_pb2.Enlisted
        | participant_pb2.Decision
        | participant_pb2.RollbackIfUnseen
        | participant_pb2.Watermark
        | participant_pb2.Force
    )


@frozen
class PrepareReceived:
    """A Prepare, whose operations the shell has looked up and decoded."""

    stream: int
    message: participant_pb2.Prepare
    operations: Sequence[common_pb2.Operation]
    """Those of the message, taken out once."""
    keys: tuple[str, ...] = ()
    """The declared lock keys of all its operations; `("*",)` for the whole resource."""
    refusal: common_pb2.Cause | None = None
    """Why it cannot run (UNKNOWN_OPERATION, BAD_ARGUMENTS): the vote is then NO."""


@frozen
class Call:
    """One operation of an interactive transaction, called inside a service. Answered by `Reply` with the same ticket.

    The first call of a transaction enlists its branch; it waits until the coordinator has accepted. A call_id that was seen
    before gets the answer of then, or joins the call that still runs.
    """

    ticket: Any
    transaction_id: str
    call_id: str
    first_attempt_ms: int
    operation: common_pb2.Operation
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LocalWork:
    """`participant.local` or `participant.read`. Answered by `LocalReply` with the same ticket.

    Waits for its keys like everybody else, but never dies: it times out after `Config.local_wait_seconds`.
    """

    ticket: Any
    function: Callable[..., Any]
    write: bool
    keys: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A change of the schema. Waits until nothing is undecided, and holds everything else up. Answered by `LocalReply`."""

    ticket: Any
    function: Callable[..., Any]
    statement: str
    """For people."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The caller of a Call, LocalWork or SchemaChange is gone. What has not begun is dropped; what runs goes on, unanswered.

    Never touches the vote or the outcome of a branch (rule 15).
    """

    ticket: Any


@dataclass(frozen=True, slots=True)
class Stop:
    """The process is going down: what waits is refused with SHUTTING_DOWN, what runs finishes, nothing new begins."""


@frozen
class Durable:
    """Made by the core itself and given back by the engine: the record of a step is durable."""

    transaction_id: str
    step: str
    """`prepared`, `one_phase`, `committed`, `aborted`, `parked`, `forgotten`; without a branch `watermark` or `incarnation`."""
