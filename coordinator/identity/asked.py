"""What each call and each message asks for, as actions and objects of a policy.

`CALLS` has every unary call and the opening of every stream; `CONNECT` and `SESSION` have every field of the frames that come in
over the two streams. A test compares them with the contract: what is not here is refused, so a call or a field that is added
and forgotten here works for nobody.

Whose a transaction is, is asked where that is known (`coordinator.services`): of what is about a transaction there is only said
here what its caller needs at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from coordinator.identity.policy import EVERYTHING
from troth.ids import service_of

Asked = tuple[str, str]
"""An action and its object."""
Ask = Callable[[Any], Iterable[Asked]]

ANY = ""
"""The object of what is allowed to whoever may do the action to anything."""


def nothing(_: Any) -> Iterable[Asked]:
    """Everybody may."""
    return ()


def about_own(_: Any) -> Iterable[Asked]:
    """Of one transaction: its owner may, and to whom that is given; the services know whose it is."""
    return ()


def runs(request: Any) -> Iterable[Asked]:
    """One-shot work: each operation."""
    return [("begin", f"{branch.participant}/{one.name}") for branch in request.branches for one in branch.operations]


def begins(_: Any) -> Iterable[Asked]:
    """Interactive work, with nobody named yet."""
    return (("begin", ANY),)


def commits(request: Any) -> Iterable[Asked]:
    """Interactive work that ends: each participant of it that is named."""
    asked = [("begin", interactive(one.participant)) for one in request.acknowledged if one.participant]
    return asked or begins(request)


def interactive(participant: str) -> str:
    """The object of interactive work of a participant: it may be any of its operations."""
    return f"{service_of(participant)}/*"


def resolves(request: Any) -> Iterable[Asked]:
    """Forcing a branch, or a whole transaction."""
    return (("resolve", service_of(request.participant) or EVERYTHING),)


def administers(request: Any) -> Iterable[Asked]:
    """What is done to a participant's name."""
    return (("administer", service_of(request.participant) or EVERYTHING),)


def always(action: str, object_name: str) -> Ask:
    """The same, whatever the request says."""
    return lambda _: ((action, object_name),)


_TRANSACTIONS, _PARTICIPANTS = (f"/troth.v1.{name}Service/" for name in ("Transaction", "Participant"))
ADMINISTRATION = "/troth.v1.AdminService/"
"""What the methods of the admin service begin with."""

CALLS: Mapping[str, Ask] = {
    _TRANSACTIONS + "Connect": nothing,  # each of its messages is asked about
    _TRANSACTIONS + "Run": runs,
    _TRANSACTIONS + "Begin": begins,
    _TRANSACTIONS + "Commit": about_own,
    _TRANSACTIONS + "Abort": about_own,
    _TRANSACTIONS + "Get": about_own,
    _TRANSACTIONS + "Watch": about_own,
    _PARTICIPANTS + "Session": nothing,  # as Connect
    ADMINISTRATION + "ListTransactions": always("read", EVERYTHING),
    ADMINISTRATION + "Explain": always("read", EVERYTHING),
    ADMINISTRATION + "Resolve": resolves,
    ADMINISTRATION + "ForgetTransaction": always("forget", EVERYTHING),
    ADMINISTRATION + "ListParticipants": always("read", EVERYTHING),
    ADMINISTRATION + "ListParticipantDetails": always("read", EVERYTHING),
    ADMINISTRATION + "ReplaceParticipant": administers,
    ADMINISTRATION + "ForgetParticipant": administers,
    ADMINISTRATION + "ListReviews": always("read", EVERYTHING),
    ADMINISTRATION + "DecideReview": always("review", EVERYTHING),
    ADMINISTRATION + "AcceptLoss": always("administer", "loss"),
    ADMINISTRATION + "Drain": always("drain", EVERYTHING),
    ADMINISTRATION + "ReloadConfig": always("administer", "config"),
    ADMINISTRATION + "GetStatus": always("status", EVERYTHING),
    ADMINISTRATION + "GetCell": always("status", EVERYTHING),
    "/grpc.health.v1.Health/Check": nothing,
    "/grpc.health.v1.Health/Watch": nothing,
    "/grpc.health.v1.Health/List": nothing,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": nothing,  # it tells what stands in protos/
}
"""What a call asks for, by its method."""

HELLO = ("begin", "read", "watch", "end")
"""A client may say hello who may do one of these to anything."""

CONNECT: Mapping[str, Ask] = {
    "hello": nothing,  # HELLO, any of them
    "runs": runs,
    "begins": begins,
    "commits": commits,
    "aborts": about_own,
    "gets": about_own,
    "answered_below": nothing,  # of the stream's own session
}
"""What a message of a client's frame asks for, by its field."""

SESSION: Mapping[str, str] = {
    "hello": "participate", "reports": "participate", "reports_complete": "participate", "enlists": "participate",
    "votes": "participate", "acknowledgements": "participate", "inquiries": "participate", "settlements": "participate",
    "undeclared": "participate", "callers": "participate", "invariants": "participate", "position": "participate",
    "timestamp": "participate",
}  # fmt: skip
"""The action that a field of a participant's frame needs, on the name that its Hello gave. Whether an Enlist is welcome is a
question about the transaction's owner: may it have this participant work?"""
