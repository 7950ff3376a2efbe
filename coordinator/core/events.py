"""What goes into the coordinator's core.

Most events carry the message that came over the wire. `session` is a client session's name, the prefix of the ids of its
transactions; unary calls share one session, whose numbers the shell hands out. `ticket` is whatever the shell needs to find
the caller again; it comes back in the matching effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from troth.errors import RequestError
from troth.ready import frozen
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A client's stream began a session, or resumed one: what it is owed is answered again."""

    session: str
    client: str = ""
    """Who it is, for people."""
    owner: str = ""
    """The identity whose session it is; empty where nobody is asked for his."""


@dataclass(frozen=True, slots=True)
class SessionLost:
    """A client's stream ended. The session stays for `session_linger_seconds`, then its undecided transactions abort."""

    session: str


@frozen
class AnswersSeen:
    """The client has every answer to a number below this one."""

    session: str
    below: int


@frozen
class Run:
    """A one-shot transaction. The number is `request.number`; the id is `SESSION.NUMBER`."""

    session: str
    request: client_pb2.RunRequest
    refusal: RequestError | None = None
    """Why it is refused, by the policy or for its caller's haste; `None` when it is not."""
    caller: str = ""
    """The identity of a unary call; a stream's is its session's. Empty where nobody is asked for his."""


@dataclass(frozen=True, slots=True)
class Begin:
    """An interactive transaction begins."""

    session: str
    request: client_pb2.BeginRequest
    refusal: RequestError | None = None
    """As of `Run`."""
    caller: str = ""
    """As of `Run`."""


@dataclass(frozen=True, slots=True)
class Commit:
    """An interactive transaction commits."""

    session: str
    request: client_pb2.CommitRequest
    caller: str = ""
    """In whose name a unary call is made: the caller's, or the owner's where the policy lets him act on what is another's."""


@dataclass(frozen=True, slots=True)
class Abort:
    """An interactive transaction is rolled back by its client."""

    session: str
    request: client_pb2.AbortRequest
    caller: str = ""
    """As of `Commit`."""


@dataclass(frozen=True, slots=True)
class Get:
    """What is known of a transaction? Answered by the effect `Got` with the same ticket."""

    ticket: Any
    request: client_pb2.GetRequest
    caller: str = ""
    """As of `Commit`, of a stream too: the identity whose keys are meant, and whose transactions are told of."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Tell each state of a transaction, by effects `Watched` with the same ticket, until it is finished."""

    ticket: Any
    transaction_id: str


@dataclass(frozen=True, slots=True)
class Unwatch:
    """The watcher of a transaction is gone."""

    ticket: Any
    transaction_id: str


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """A participant opened a stream. Answered by `Welcomed` or `Rejected` with the same stream."""

    participant: str
    stream: int
    """Grows with each stream of the process; frames of a lower one are dropped."""
    hello: participant_pb2.Hello
    position: int = 0
    """Of the participant's log, as its frame told it; 0 from software that tells none."""


@dataclass(frozen=True, slots=True)
class ReportsReceived:
    """Unfinished branches that Hello lists."""

    participant: str
    stream: int
    reports: Sequence[participant_pb2.BranchReport]
    complete: bool


@dataclass(frozen=True, slots=True)
class ParticipantLost:
    """A participant's stream ended."""

    participant: str
    stream: int


@frozen
class FromParticipant:
    """One message of a participant: Enlist, Vote, Acknowledgement, Inquiry, Settlement, an Operation without lock keys, or what an
    invariant was found to be."""

    participant: str
    stream: int
    message: (
        participant_pb2.Enlist
        | participant_pb2.Vote
        | participant_pb2.Acknowledgement
        | participant_pb2.Inquiry
        | participant_pb2.Settlement
        | common_pb2.Operation
        | participant_pb2.InvariantReport
    )
    position: int = 0
    """Of the participant's log, as the message's frame told it; 0 where it had not grown."""


@dataclass(frozen=True, slots=True)
class Administer:
    """An operator's request; answered by the effect `Administered` with the same ticket."""

    ticket: Any
    request: (
        admin_pb2.ListTransactionsRequest
        | admin_pb2.ExplainRequest
        | admin_pb2.ResolveRequest
        | admin_pb2.ForgetTransactionRequest
        | admin_pb2.ListParticipantsRequest
        | admin_pb2.ListParticipantDetailsRequest
        | admin_pb2.ReplaceParticipantRequest
        | admin_pb2.AcceptLossRequest
        | admin_pb2.ForgetParticipantRequest
        | admin_pb2.DrainRequest
    )


@frozen
class Durable:
    """Made by the core itself and given back by the engine: what hung on an append is now durable."""

    what: str
    """`epoch`, `decided`, `narrowed`, `opened`, `ended`, `bound`, `heuristic`, `forgotten`, `horizon`,
    `recalled`, and `ordered`, an operator's order, whose detail is one of the others, or `None`."""
    subject: str
    """The transaction, or the participant."""
    detail: Any = None
