"""What participants say of their own invariants, for operators. Nothing of it is durable, and no transaction hangs on it.

What was told last stays while the participant is away, since nobody mends anything by going away; the next Hello tells anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.core.book import Book
from coordinator.core.model import Participant
from troth.errors import RequestError
from troth.ids import check_name
from troth.v1 import admin_pb2, participant_pb2

INVARIANTS_MAX = 50
"""Invariants that are kept of a participant."""
DETAIL_CHARACTERS_MAX = 300
"""Of the participant's own words about one."""

_KEPT = {
    participant_pb2.INVARIANT_STATE_HOLDS: "HOLDS",
    participant_pb2.INVARIANT_STATE_VIOLATED: "VIOLATED",
    participant_pb2.INVARIANT_STATE_UNCHECKED: "UNCHECKED",
}


def told(_: Book, participant: Participant, what: participant_pb2.InvariantReport) -> None:
    """Keep what is told of an invariant. What cannot be kept is passed over: only people read it."""
    try:
        check_name("invariant", what.name)
    except RequestError:
        return
    if what.state == participant_pb2.INVARIANT_STATE_ELSEWHERE:
        participant.invariants.pop(what.name, None)
    elif what.state in _KEPT and (what.name in participant.invariants or len(participant.invariants) < INVARIANTS_MAX):
        participant.invariants[what.name] = participant_pb2.InvariantReport(
            name=what.name, state=what.state, since_ms=what.since_ms, detail=what.detail[:DETAIL_CHARACTERS_MAX]
        )


def listed(participant: Participant, clock_ms: int) -> Iterator[admin_pb2.InvariantSummary]:
    """What is known of them, by name, at a reading of the coordinator's clock."""
    for name, kept in sorted(participant.invariants.items()):
        seconds = max(0.0, (clock_ms - kept.since_ms) / 1000) if kept.since_ms > 0 else 0.0
        yield admin_pb2.InvariantSummary(name=name, state=_KEPT[kept.state], for_seconds=seconds, detail=kept.detail)
