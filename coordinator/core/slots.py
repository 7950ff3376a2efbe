"""Slots: a service that runs as several processes on one database, each of which owns a part of the service's branches.

A slot `payments/2` is a participant in every respect: it has a log, incarnations and branches of its own, is bound by its own name,
and stands under it in records. What is different is only how it is found, and that is all in this file.

- Clients name the *service*. One-shot work goes to the slot with the fewest unfinished branches, of those that are connected; a
  repeated transaction may well go to another one, because it is another branch.
- Whoever asks what became of a transaction names the service too, and nobody knows any more where it was: all slots are asked.
- Calls of one interactive transaction that reach two slots are two branches on two connections, which do not see each other's work
  and may wait for each other's locks for ever (X/Open's loosely coupled branches). The second one is refused, unless the service
  has said that it is made for that.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.core.book import Book
from coordinator.core.model import Participant, Transaction
from troth.ids import service_of


def route(book: Book, name: str) -> Participant | None:
    """Who does the work of a participant that a client names; `None` when nobody of that name has ever connected."""
    if name not in book.slots:
        return book.participants.get(name) if service_of(name) == name else None
    return min((book.participants[one] for one in members(book, name)), key=_reluctance)


def _reluctance(slot: Participant) -> tuple[bool, int, int]:
    """The least goes first; of equals the one that was given the fewest branches so far."""
    return not slot.ready, len(slot.unended) + len(slot.recovered), slot.next_order


def members(book: Book, name: str) -> Sequence[str]:
    """Who may have a branch, of a participant, a service or a slot that is named; empty when nobody of that name is known. A
    service that has come to run in slots may have been one process before."""
    alone = [name] if name in book.participants else []
    slots = book.slots.get(name)
    return alone if slots is None else alone + [slot.name for slot in slots]


def other_slot(txn: Transaction, participant: Participant) -> str | None:
    """The slot of the same service that has a branch already, and must not get company."""
    service = service_of(participant.name)
    if service == participant.name or participant.loosely_coupled:
        return None
    return next((name for name in txn.branches if service_of(name) == service and name != participant.name), None)


def of_another_slot(txn: Transaction, participant: Participant, other: str) -> str:
    """Why a second slot is refused, for people."""
    return (
        f"transaction {txn.id} has a branch in {other}; one in {participant.name} would not see its work, and could wait "
        "for it for ever"
    )
