"""Whom branches in doubt hold up, as their participants tell it with their questions (Inquiry), for operators.

Nothing of it is durable, and no transaction hangs on it. Of each branch only what was told last is kept, while the participant is
there. Of more branches than are kept those go first that hold nobody up. What is over, or was not told again for long, is dropped
when somebody looks, or when there is no room: so what ends costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.core.book import Book
from coordinator.core.model import BranchStep, Participant, ToldBlocks
from troth.v1 import admin_pb2, common_pb2, participant_pb2

BLOCKING_MAX = 100
"""Branches of one participant of which it is kept."""
LISTED_MAX = 10
"""Of them in the participant's row."""
NAMES_MAX = 3
"""Keys, and tables, of one branch."""
NAME_CHARACTERS_MAX = 80
"""Of one of these."""
TOLD_SECONDS = 90.0
"""What was not told again for so long is dropped: whoever is in doubt asks every 30 seconds, or more often."""


def told(book: Book, participant: Participant, what: participant_pb2.Inquiry) -> None:
    """Keep what came with a question, if anything did."""
    if what.HasField("blocks"):
        kept = _kept(what.blocks)
        before = participant.blocking.pop(what.transaction_id, None)
        since_ms = (before.since_ms if before is not None else 0) or book.clock_ms if holds_up(kept) else 0
        if before is not None or _has_room(book, participant, since_ms):
            participant.blocking[what.transaction_id] = ToldBlocks(kept, since_ms, book.now.monotonic)


def holds_up(blocks: common_pb2.Blocks) -> bool:
    """Whether it holds anybody up, or has."""
    return bool(blocks.waiting or blocks.turned_away or blocks.database.sessions)


def _kept(told: common_pb2.Blocks) -> common_pb2.Blocks:
    """A copy that keeps no frame, and no more than people read."""
    kept = common_pb2.Blocks(
        lock_keys=told.lock_keys, keys=_names(told.keys), waiting=told.waiting, turned_away=told.turned_away
    )
    if told.HasField("database"):
        found = told.database
        kept.database.sessions, kept.database.waited_ms = found.sessions, found.waited_ms
        kept.database.asked_ago_ms = found.asked_ago_ms
        kept.database.tables.extend(_names(found.tables))
    return kept


def _names(told: Sequence[str]) -> list[str]:
    return [name[:NAME_CHARACTERS_MAX] for name in told[:NAMES_MAX]]


def _has_room(book: Book, participant: Participant, since_ms: int) -> bool:
    """Whether one more is kept: in the place of what is over, of one that holds nobody up, or of the one that was told first."""
    if len(participant.blocking) < BLOCKING_MAX:
        return True
    _drop(book, participant)
    kept = participant.blocking
    if len(kept) >= BLOCKING_MAX and since_ms:
        del kept[next((name for name, one in kept.items() if not one.since_ms), next(iter(kept)))]
    return len(kept) < BLOCKING_MAX


def _drop(book: Book, participant: Participant) -> None:
    """Drop what is over, and what is old."""
    for name, one in list(participant.blocking.items()):
        if book.now.monotonic - one.at > TOLD_SECONDS or not _is_open(book, participant, name):
            del participant.blocking[name]


def _is_open(book: Book, participant: Participant, name: str) -> bool:
    txn = book.live.get(name)
    branch = txn.branches.get(participant.name) if txn is not None else None
    return name in participant.stranded or (branch is not None and branch.step is not BranchStep.OVER)


def of_branch(book: Book, participant: Participant, name: str) -> admin_pb2.BranchBlocks | None:
    """What was told last of one branch; `None` where nothing was."""
    _drop(book, participant)
    one = participant.blocking.get(name)
    if one is None:
        return None
    return admin_pb2.BranchBlocks(
        transaction_id=name, blocks=one.blocks, since_ms=one.since_ms, told_seconds=max(0.0, book.now.monotonic - one.at)
    )


def of_participant(book: Book, participant: Participant) -> list[admin_pb2.BranchBlocks]:
    """All of its branches that hold somebody up, those that do so for longest first."""
    _drop(book, participant)
    names = [(one.since_ms, name) for name, one in participant.blocking.items() if one.since_ms]
    return [one for _, name in sorted(names) if (one := of_branch(book, participant, name)) is not None]
