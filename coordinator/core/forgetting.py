"""Forgetting a participant: its name is free, and its place among those that are known.

Only one that is away, and with which nothing is open, can be forgotten: of everything else its name is a part (rule 18). The orders
of its branches go on where they were, should it come back in this life: its log may remember a watermark of it.

What it has done is not forgotten by that. A commit in one phase has no record here, and who asks what became of one names the
service: all are asked who may have it, and ABORTED is told when nobody has. Who is not known any more cannot be asked; so for the
retention its name stays in the log, with its log and the epoch in which it was forgotten, and until that log comes back (then it is
asked) a question about what may have been its own is answered IN_DOUBT. Another log may have the name meanwhile: what it does not
have proves nothing of what was before it, as after `troth participants replace`.
"""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf.message import Message

from coordinator.core.book import Book, cause_of
from coordinator.core.model import Participant
from troth.errors import Reason
from troth.ids import service_of
from troth.v1 import admin_pb2, common_pb2, record_pb2


def forget_participant(book: Book, request: admin_pb2.ForgetParticipantRequest) -> Message:
    """Forget a name that nobody needs any more."""
    participant = book.participants.get(request.participant)
    refusal = _why_not(book, participant, request)
    if refusal is not None or participant is None:
        return admin_pb2.ForgetParticipantResponse(refusal=refusal)
    record = book.record_of(participant_bound=record_pb2.ParticipantBound(
        participant=participant.name, who=request.who, why=request.why, forgotten=True, before_epoch=book.epoch,
        before_order=participant.next_order, log_id=_only_log(book, participant),
    ))  # fmt: skip
    kept = record_pb2.CoordinatorRecord()
    kept.CopyFrom(record)
    book.append(f"participant/{participant.name}", record, force=True)
    book.past_orders[participant.name] = participant.next_order
    drop(book, participant, kept)
    return admin_pb2.ForgetParticipantResponse()


def _only_log(book: Book, participant: Participant) -> str:
    """The log that can say all that was done under a name; empty where there were several, and one would not know of the others."""
    if participant.before != (0, 0):
        return ""
    earlier = book.gone.get(participant.name)
    if earlier is None:
        return participant.log_id
    known = earlier.participant_bound.log_id
    return known if participant.log_id in ("", known) else ""


def has_the_name(book: Book, participant: Participant) -> None:
    """A log has the name now: the one that was forgotten with it can be asked again, and another one knows nothing of that one."""
    record = book.gone.get(participant.name)
    if record is not None and participant.log_id:
        forgotten = record.participant_bound
        if forgotten.log_id == participant.log_id:
            del book.gone[participant.name]
        else:
            participant.before = max(participant.before, (forgotten.before_epoch, forgotten.before_order))


def _why_not(book: Book, participant: Participant | None, request: admin_pb2.ForgetParticipantRequest) -> common_pb2.Cause | None:
    if not (request.who.strip() and request.why.strip()):
        return cause_of(Reason.INVALID_ARGUMENT, "who and why must not be empty: they are recorded")
    if participant is None:
        return cause_of(Reason.UNKNOWN_PARTICIPANT, f"no participant {request.participant[:80]!r} is known")
    if participant.stream:
        return cause_of(Reason.NOT_ACTIVE, f"{participant.name} is connected", hint="Stop it first, then forget it.")
    if len(book.gone) >= book.settings.known_participants_max:
        message = f"{len(book.gone)} participants were forgotten within the retention (known_participants_max)"
        return cause_of(Reason.OVERLOADED, message, hint="Their names are kept for as long.")
    if participant.name in book.losses:
        message = f"{participant.name} has heard what the log does not say"
        return cause_of(Reason.NOT_ACTIVE, message, hint="Accept the loss first: `troth participants accept-loss`.")
    if any(participant.name in txn.branches for txn in book.live.values()):
        message = f"{participant.name} has branches in transactions that are open"
        return cause_of(Reason.NOT_ACTIVE, message, hint="`troth txn list --participant` shows them; abandon or forget them first.")
    return None


def expire(book: Book) -> None:
    """Of what the retention has passed nobody is told anything from absence."""
    oldest_ms = book.clock_ms - (book.settings.retention_seconds + book.settings.skew_seconds) * 1000
    for name in [name for name, record in book.gone.items() if record.at_ms < oldest_ms]:
        del book.gone[name]


def gone_of(book: Book, names: Collection[str], epoch: int) -> tuple[str, bool] | None:
    """Who was forgotten, and may have a branch in a transaction of an epoch, of the participants and services that are named; and
    whether one log could tell when it comes back."""
    return next((
        (name, bool(record.participant_bound.log_id)) for name, record in book.gone.items()
        if (name in names or service_of(name) in names) and epoch <= (record.participant_bound.before_epoch or epoch)
    ), None)  # fmt: skip


def drop(book: Book, participant: Participant, record: record_pb2.CoordinatorRecord) -> None:
    """It is not known any more; the record says since when."""
    book.gone[participant.name] = record
    del book.participants[participant.name]
    book.dropped.forget(participant.name)
    slots = book.slots.get(service_of(participant.name))
    if slots is not None and participant in slots:
        slots.remove(participant)
        if not slots:  # there is no service of that name any more, and nobody to route to
            del book.slots[service_of(participant.name)]
    book.heard.pop(participant.name, None)
    book.unheard.discard(participant.name)
    book.awaited.discard(participant.name)
