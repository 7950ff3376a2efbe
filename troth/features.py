"""Features: what was added to the wire and to the log since the last release, by name, so that neighbouring versions work together.

A version runs beside the one before it and the one after it: nodes, participants and clients are replaced one by one, in any order,
and put back in any order. Fields and messages that a peer does not know it passes over, so most additions need nothing. A feature
is what needs more:

- on the **wire**, a message that waits for an answer, or what its sender relies on. Hello offers the names, Welcome tells which of
  them both sides use on this stream, and who is not told so does not send it.
- in an **order**, a field of a call without which an older version, which passes it over, would carry out another order than was
  given: at once what was to wait for somebody, of everything what was meant of one. A call has no Hello, so who gives such an order
  asks first what the other side has: a command asks `GetStatus`, and a node that passes a call on knows it of the others from the
  store.
- in the **log**, a record of a new kind. An older version refuses a log that has one (LOG_TOO_NEW), so once one is written
  there is no way back. An operator who wants one holds the feature back until every node is upgraded, and stays so.

What every supported version speaks is no feature any more, and leaves the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from troth.errors import Reason, RequestError

PROTOCOL_VERSION = 1
"""The only version of the wire as a whole so far. The sides of a stream must share one; it changes when features do not do."""


class Where(Enum):
    """What a feature adds to."""

    WIRE = "wire"
    """Messages that the other side has to understand."""
    ORDER = "order"
    """Fields of calls without which they would mean something else."""
    LOG = "log"
    """Records that an older version refuses, or misunderstands."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature."""

    name: str
    where: Where
    what: str
    """What is not possible without it, for people."""
    adds: tuple[str, ...]
    """The fields that it adds to frames and to the requests of calls, and the kinds that it adds to records, each as MESSAGE.FIELD.
    Fields further down need not be named: whoever does not know them passes them over."""


CALLERS = "callers"
KEY_RESULTS = "key_results"
PARTICIPANT_LOSSES = "participant_losses"
PAYLOAD_KEYS = "payload_keys"
REVIEWS = "reviews"
TRACE_FILTER = "trace_filter"
FEATURES = (
    Feature(
        CALLERS, Where.WIRE, "a participant asks the coordinator who began the transaction in which it is called",
        ("SessionRequest.callers", "SessionResponse.callers"),
    ),
    Feature(
        KEY_RESULTS, Where.WIRE, "a transaction leaves a result under its key, for whoever comes with the key again",
        ("CommitRequest.result", "CommitRequest.result_optional"),
    ),
    Feature(
        PARTICIPANT_LOSSES, Where.ORDER, "what one participant's log may lack is accepted, and not what the coordinator's has lost",
        ("AcceptLossRequest.participant",),
    ),
    Feature(
        PAYLOAD_KEYS, Where.LOG, "payload keys seal what is in logs, which an older version would take for clear",
        ("CoordinatorRecord.sealed_with", "ParticipantRecord.sealed_with"),
    ),
    Feature(
        REVIEWS, Where.LOG, "an order waits in the coordinator's log until a second person approves it",
        ("CoordinatorRecord.review", "ResolveRequest.review"),
    ),
    Feature(
        TRACE_FILTER, Where.ORDER, "a listing is of what belongs to one trace, and not of everything",
        ("ListTransactionsRequest.trace_id",),
    ),
)
"""All of them, by name."""
SPOKEN = frozenset(one.name for one in FEATURES if one.where is Where.WIRE)
"""What this version offers in Hello."""
NAMES = frozenset(one.name for one in FEATURES)
"""What can be held back."""


ALL = "all"
"""In place of names: every feature, of whatever version. So one file of settings can be that of two versions."""


def held_back(text: str) -> frozenset[str]:
    """The features that a list with commas between its names holds back."""
    names = frozenset(filter(None, (one.strip() for one in text.split(","))))
    return NAMES if ALL in names else names


def unknown(text: str) -> list[str]:
    """Which names of such a list are no features of this version."""
    return sorted(held_back(text) - NAMES)


def agreed(offered: Iterable[str], held: str = "") -> list[str]:
    """What Welcome tells: features that both sides have, and that are not held back here."""
    return sorted(SPOKEN.intersection(offered) - held_back(held))


def used(held: str) -> frozenset[str]:
    """What is used here: all that is not held back."""
    return NAMES - held_back(held)


def needed(request: Any) -> frozenset[str]:
    """What a call needs, so that it is not taken for another one: the features whose fields its request has."""
    said = {f"{request.DESCRIPTOR.name}.{field.name}" for field, _ in request.ListFields()}
    return frozenset(one.name for one in FEATURES if not said.isdisjoint(one.adds))


def lacking(request: Any, used: Iterable[str]) -> str:
    """What a call needs that whoever is asked does not use, with commas between; empty where nothing is lacking."""
    return ", ".join(sorted(needed(request).difference(used)))


def check_used(name: str, held: str) -> None:
    """Raise `RequestError` (VERSION_MISMATCH) for a feature that is held back."""
    if name in held_back(held):
        raise RequestError(
            Reason.VERSION_MISMATCH, f"this needs the feature {name}, which is held back here (features_held_back)",
            hint="Once every node is upgraded, take it out of that setting, and `troth config reload`.",
        )  # fmt: skip
