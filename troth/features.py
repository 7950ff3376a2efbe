"""Features: what was added to the wire and to the log since the last release, by name, so that neighbouring versions work together.

A version runs beside the one before it and the one after it: nodes, participants and clients are replaced one by one, in any order,
and put back in any order. Fields and messages that a peer does not know it passes over, so most additions need nothing. A feature
is what needs more:

- on the **wire**, a message that waits for an answer, or what its sender relies on. Hello offers the names, Welcome tells which of
  them both sides use on this stream, and who is not told so does not send it.
- in the **log**, a record of a new kind. An older version refuses a log that has one (LOG_TOO_NEW), so once one is written
  there is no way back. An operator who wants one holds the feature back until every node is upgraded, and stays so.

What every supported version speaks is no feature any more, and leaves the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from troth.errors import Reason, RequestError

PROTOCOL_VERSION = 1
"""The only version of the wire as a whole so far. The sides of a stream must share one; it changes when features do not do."""


class Where(Enum):
    """What a feature adds to."""

    WIRE = "wire"
    """Messages that the other side has to understand."""
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
    """The fields that it adds to frames, and the kinds that it adds to records, each as MESSAGE.FIELD. Fields further down need not
    be named: whoever does not know them passes them over."""


CALLERS = "callers"
KEY_RESULTS = "key_results"
PAYLOAD_KEYS = "payload_keys"
REVIEWS = "reviews"
FEATURES = (
    Feature(
        CALLERS, Where.WIRE, "a participant asks the coordinator who began the transaction in which it is called",
        ("SessionRequest.callers", "SessionResponse.callers"),
    ),
    Feature(
        KEY_RESULTS, Where.WIRE, "a transaction leaves a result under its key, for whoever comes with the key again", (),
    ),
    Feature(
        PAYLOAD_KEYS, Where.LOG, "payload keys seal what is in logs, which an older version would take for clear",
        ("CoordinatorRecord.sealed_with", "ParticipantRecord.sealed_with"),
    ),
    Feature(
        REVIEWS, Where.LOG, "an order waits in the coordinator's log until a second person approves it",
        ("CoordinatorRecord.review",),
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


def check_used(name: str, held: str) -> None:
    """Raise `RequestError` (VERSION_MISMATCH) for a feature that is held back."""
    if name in held_back(held):
        raise RequestError(
            Reason.VERSION_MISMATCH, f"this needs the feature {name}, which is held back here (features_held_back)",
            hint="Once every node is upgraded, take it out of that setting, and `troth config reload`.",
        )  # fmt: skip
