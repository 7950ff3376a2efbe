"""What goes into the participant's core; the answers of the resource are in `work`.

A *stream* is a number that the shell gives to each session with a coordinator, growing in one process. Frames of
a stream that is not the current one of its coordinator are dropped by the core. A `ticket` is whatever the shell needs to find its
caller again; it must be hashable, is used once, and comes back in the matching effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from participant_sdk.core.work import NO_KEYS, WHOLE, Keys
from troth.ready import frozen
from troth.v1 import common_pb2, participant_pb2


@dataclass(frozen=True, slots=True)
class Start:
    """The process may serve as this incarnation. First event after recovery; answered by the effect `Started`.

    With `Config.keeps_identity` the core makes the incarnation durable first; otherwise the shell has done so.
    """

    incarnation: int
    nonce: str = ""
    """Drawn at random for this process."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A session is open: Welcome came, and its epoch is not lower than one that was seen of this coordinator.

    The core answers with its reports. With `Config.keeps_identity` it also writes EpochSeen; otherwise the shell has made the
    epoch durable before this event. A lower epoch than the core has seen is a ProtocolError (STALE_EPOCH).
    """

    stream: int
    coordinator: str
    epoch: int
    log_id: str = ""
    nonce: str = ""
    cell: frozenset[str] = frozenset()
    """All coordinators of its cell, of each of which a session may stand beside this one; empty for one that is alone."""
    position: int = 0
    """Of the coordinator's log, as the frame with Welcome told it; 0 from software that tells none."""


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
    position: int = 0
    """Of the coordinator's log, as the message's frame told it; 0 where it had not grown."""


@frozen
class PrepareReceived:
    """A Prepare, whose operations the shell has looked up and decoded."""

    stream: int
    message: participant_pb2.Prepare
    operations: Sequence[common_pb2.Operation]
    """Those of the message, taken out once."""
    keys: Keys = NO_KEYS
    """The declared lock keys of all its operations."""
    refusal: common_pb2.Cause | None = None
    """Why it cannot run (UNKNOWN_OPERATION, BAD_ARGUMENTS): the vote is then NO."""
    position: int = 0
    """See `FromCoordinator`."""
    undeclared: tuple[str, ...] = ()
    """Those of its operations that have the whole resource because they declare no keys."""


@frozen
class Call:
    """One operation of an interactive transaction, called inside a service. Answered by `Reply` with the same ticket.

    A call_id that was seen before gets the answer of then, or joins the call that still runs.
    """

    ticket: Any
    transaction_id: str
    call_id: str
    first_attempt_ms: int
    operation: common_pb2.Operation
    keys: Keys
    told: bool = False
    """Whether its caller learns with the answer who did the work, in which incarnation. Otherwise the branch is enlisted first."""
    undeclared: tuple[str, ...] = ()
    """The operation, if it has the whole resource because it declares no keys."""


@dataclass(frozen=True, slots=True)
class LastCall:
    """A call of the service has ended that was its caller's last one in the transaction. Answered by `EarlyVoted`.

    It asks for nothing that the protocol needs: whatever the branch is, nothing gets lost when it is not prepared now.
    """

    ticket: Any
    transaction_id: str


@dataclass(frozen=True, slots=True)
class LocalWork:
    """`participant.local` or `participant.read`. Answered by `LocalReply` with the same ticket.

    Waits for its keys like everybody else, but never dies: it times out after `Config.local_wait_seconds`.
    """

    ticket: Any
    function: Callable[..., Any]
    write: bool
    keys: Keys = WHOLE
    inside: str = ""
    """The transaction in which its caller works, who would wait for himself if that holds what this needs."""


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A change of the schema. Waits until nothing is undecided, and holds everything else up. Answered by `LocalReply`."""

    ticket: Any
    function: Callable[..., Any]
    statement: str
    """For people."""
    inside: str = ""
    """See `LocalWork`."""


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
    coordinator: str = ""
    """Whose watermark."""
