"""Who may speak under a name: Hello, and the binding of the name to one process of one log.

A name belongs to one log, to that log's highest incarnation, and to the one process that drew this incarnation's nonce. All of
it is durable before the participant is welcomed, whoever of it asks and however often: otherwise work could be done, and a
client be told COMMITTED, under a binding that a crash takes back.

Logs can go back in time (rule 21). Each side says how far it has heard the other's log, and what its own log knows of its lives and
of where they ended (`troth.lives`). Whoever has lost what the other has heard is found out here, before anything more is said.
"""

from __future__ import annotations

from coordinator.core import effects, events, hearing
from coordinator.core.arrivals import heard_out
from coordinator.core.book import Book, cause_of
from coordinator.core.forgetting import has_the_name
from coordinator.core.model import Beginning, Identity, Participant
from coordinator.core.plausible import implausible
from coordinator.core.recovery import bound_record
from troth.errors import Reason, RequestError
from troth.ids import check_participant
from troth.seals import seal_key
from troth.v1 import common_pb2, participant_pb2, record_pb2

NAME_BYTES = 100
"""What a name takes besides its characters."""


def hello(book: Book, event: events.HelloReceived) -> None:
    """Accept a participant's stream, or refuse it."""
    cause = _refusal(book, event)
    if cause is not None:
        _remember_refused(book, event, cause)
        book.ready.effects.append(effects.Rejected(event.participant, event.stream, cause))
        return
    if event.hello.asks:
        # Nothing is bound, and whoever has the name keeps its stream.
        known = book.participants.get(event.participant)
        heard = known.heard if known is not None else 0
        book.ready.effects.append(effects.MayBegin(event.participant, event.stream, heard))
        return
    participant, said = book.participant(event.participant), event.hello
    if participant.stream:
        reason = Reason.STALE_INCARNATION if said.incarnation > participant.incarnation else Reason.SUPERSEDED_STREAM
        message = f"a newer stream of {event.participant!r} took over"
        book.ready.effects.append(effects.Rejected(event.participant, participant.stream, cause_of(reason, message)))
    participant.hang_up()
    participant.stream, participant.invariants = event.stream, {}
    participant.went_back = participant.refused_log_id = participant.awaited = ""
    participant.log_id, participant.incarnation, participant.nonce = said.log_id, said.incarnation, said.nonce
    has_the_name(book, participant)
    if event.position > participant.heard:
        book.hear(participant, event.position)
    participant.software, participant.loosely_coupled = said.software, said.loosely_coupled
    _keep_names(book, participant, frozenset(said.operations))
    if participant.bound == participant.identity:
        _welcome(book, participant)
    else:
        done = events.Durable("bound", participant.name, (event.stream, participant.identity))
        record = book.record_of(participant_bound=bound_record(participant))
        book.append(f"participant/{participant.name}", record, force=True, event=done)


_OF_A_LOG = frozenset({Reason.FOREIGN_LOG.name, Reason.STALE_INCARNATION.name, Reason.LOG_WENT_BACK.name})
"""Refusals of which an operator may have to know the log."""


def _remember_refused(book: Book, event: events.HelloReceived, cause: common_pb2.Cause) -> None:
    """Let operators read which log it was: they name it when it is to take the name over."""
    known = book.participants.get(event.participant)
    if known is not None and cause.reason in _OF_A_LOG:
        known.refused_log_id = event.hello.log_id


def _keep_names(book: Book, participant: Participant, offered: frozenset[str]) -> None:
    """Keep the operations that it offers, if there is room for their names; otherwise it says itself what it does not offer."""
    size = sum(map(len, offered)) + NAME_BYTES * len(offered)
    if size + sum(one.names_bytes for one in book.participants.values()) <= book.settings.operation_names_bytes_max:
        participant.operations, participant.names_bytes = offered, size


def _refusal(book: Book, event: events.HelloReceived) -> common_pb2.Cause | None:
    cause = why_refused(book, event)
    if cause is None and book.beginning is Beginning.REFUSED:
        lost = next(loss for loss in book.losses.values() if not loss.accepted_in)
        return cause_of(Reason.LOG_WENT_BACK, what_was_lost(book, lost))
    return cause


def why_refused(book: Book, event: events.HelloReceived) -> common_pb2.Cause | None:
    """Why whoever says Hello is refused, before a life has begun or in it; what it has heard that the log does not say is noted."""
    try:
        check_participant(event.participant)
    except RequestError as error:
        return cause_of(error.reason, error.message)
    known = book.participants.get(event.participant)
    if not event.hello.log_id or not event.hello.incarnation:
        return cause_of(Reason.INVALID_ARGUMENT, "Hello needs log_id and incarnation")
    if (cannot := implausible(book, known, event.hello)) is not None:
        return cannot
    if known is None:
        if len(book.participants) >= book.settings.known_participants_max:
            return cause_of(Reason.OVERLOADED, f"{len(book.participants)} participants are known")
    elif (cause := _not_its_own(known, event) if known.log_id else _not_the_awaited(known, event.hello)) is not None:
        return cause
    return _knows_better(book, event)


def _knows_better(book: Book, event: events.HelloReceived) -> common_pb2.Cause | None:
    """Whether a participant has followed another log of this coordinator's name, or has heard of this log what it does not say."""
    name = event.participant
    heard = next((one for one in event.hello.heard if one.coordinator == book.coordinator and one.log_id), None)
    if heard is None:
        return None
    if heard.log_id != book.lives.log_id:
        logs = f"of the log {heard.log_id[:8]}..., not of {book.lives.log_id[:8]}..."
        message = f"{name!r} has followed the coordinator {book.coordinator!r} {logs}"
        return cause_of(Reason.FOREIGN_COORDINATOR, message)
    if not book.lives.lacks(heard.epoch, heard.nonce, heard.position):
        return None
    loss, before = book.losses.get(name), (heard.epoch, heard.nonce, heard.position)
    if loss is None or (loss.epoch, loss.nonce, loss.position) != before:
        loss = record_pb2.Loss(participant=name, epoch=heard.epoch, nonce=heard.nonce, position=heard.position)
        _accept_with_others(book, loss)
        book.participant(name)  # to be listed
        book.losses[name] = loss
        book.awaited.add(name)
        if book.beginning is Beginning.REFUSED:
            hearing.rise(book)
        elif book.beginning is Beginning.BEGUN:
            # In the log, so that a restart answers nothing either, be this participant there or not.
            book.append(f"loss/{name}", book.record_of(loss=loss), force=True)
        book.ready.effects.append(effects.LossChanged())
    if not loss.accepted_in:
        return cause_of(Reason.LOG_WENT_BACK, what_was_lost(book, loss))
    if book.beginning is Beginning.BEGUN and loss.epoch >= book.epoch and not book.lives.began(loss.epoch, loss.nonce):
        # It follows no life that is not above the one that it has heard.
        lost, hint = what_was_lost(book, loss), "Restart the coordinator: its next epoch is above."
        return cause_of(Reason.LOG_WENT_BACK, f"{lost}; that is accepted, but this epoch is {book.epoch}", hint=hint)
    return None


def _accept_with_others(book: Book, loss: record_pb2.Loss) -> None:
    """Of epochs before an acceptance nothing is presumed any more, whoever has heard of them: it holds for all who have."""
    for other in book.losses.values():
        lost_whole = not book.lives.began(loss.epoch, loss.nonce)
        if other.accepted_in > loss.epoch or (lost_whole and other.accepted_in == loss.epoch):
            loss.who, loss.why, loss.accepted_in = other.who, other.why, other.accepted_in


def what_was_lost(book: Book, loss: record_pb2.Loss) -> str:
    """What a participant has heard that the log does not say, for people."""
    if loss.participant == hearing.STANDS_IN:
        return f"the log of the coordinator {book.coordinator!r} is lost, and this one stands in for it"
    if not book.lives.began(loss.epoch, loss.nonce):
        heard, found = "", "which its log never began"
    else:
        heard, found = f" to position {loss.position}", f"which ended at position {book.lives.ended_at(loss.epoch)} of its log"
    return (
        f"{loss.participant!r} has heard epoch {loss.epoch} ({loss.nonce}) of the coordinator {book.coordinator!r}{heard}, "
        f"{found}: the log is an older copy, or has lost its end"
    )


def _not_its_own(known: Participant, event: events.HelloReceived) -> common_pb2.Cause | None:
    """Why whoever says Hello may not have a name that is bound."""
    said = event.hello
    if known.log_id != said.log_id:
        # Told in part: whoever knows a log's whole id can pose as its participant.
        message = f"the name {known.name!r} belongs to the log {known.log_id[:8]}..., not to {said.log_id[:8]}..."
        return cause_of(Reason.FOREIGN_LOG, message)
    # Who asks is a start of its log: what its log does not know it has lost. Who does not ask may be a process from before.
    if said.asks and (lost := _went_back(known, event)) is not None:
        return lost
    if said.incarnation < known.incarnation:
        message = f"incarnation {said.incarnation} of {known.name!r} is older than {known.incarnation}"
        return cause_of(Reason.STALE_INCARNATION, message)
    if said.incarnation == known.incarnation and known.nonce and said.nonce and said.nonce != known.nonce:
        message = f"another process of {known.name!r} has incarnation {said.incarnation}: one of them runs on a copy of the log"
        return cause_of(Reason.STALE_INCARNATION, message)
    return _went_back(known, event)


def _went_back(known: Participant, event: events.HelloReceived) -> common_pb2.Cause | None:
    """Whether the log has lost what was heard of it."""
    lost = _what_it_lost(known, event.hello, event.position)
    if lost:
        known.went_back = (
            f"the log of {known.name!r} {lost}: it was put back from an older copy, and has lost what it had promised since"
        )
        return cause_of(Reason.LOG_WENT_BACK, known.went_back)
    return None


def _not_the_awaited(known: Participant, said: participant_pb2.Hello) -> common_pb2.Cause | None:
    """Why a log may not have a name that nobody has: an operator has named the one that may."""
    if known.awaited in ("", said.log_id):
        return None
    message = f"the name {known.name!r} waits for the log {known.awaited[:8]}..., as an operator wants it; not {said.log_id[:8]}..."
    return cause_of(Reason.FOREIGN_LOG, message)


def _what_it_lost(known: Participant, said: participant_pb2.Hello, position: int) -> str:
    """What was heard of a participant's log that it does not know any more; empty when it has lost nothing."""
    bound, starts, after = f"{known.incarnation}/{known.nonce}", said.starts[:], said.starts_after[:]
    ended = position
    if known.nonce and starts:
        if bound not in starts:
            return f"does not know its start {known.incarnation}, which was welcomed here"
        unknown = len(starts) - len(after)  # the oldest ones, by software that kept no positions
        # Where the starts are kept elsewhere, the log with the branches may have gone back behind several of them.
        ended = min([position, *after[max(0, starts.index(bound) + 1 - unknown) :]])
    tells = bool(after) or position > 0  # a log may be empty again, and its position 0
    if tells and ended < known.heard:
        return f"was heard to position {known.heard}, and start {known.incarnation} ended at position {ended} of it"
    return ""


def bound(book: Book, name: str, stream: int, identity: Identity) -> None:
    """The binding is durable: welcome the participant, if it is still there, and was not forgotten meanwhile."""
    participant = book.participants.get(name)
    if participant is not None and participant.identity == identity:
        participant.bound = identity
        if participant.stream == stream:
            _welcome(book, participant)


def _welcome(book: Book, participant: Participant) -> None:
    participant.welcomed = True
    key = seal_key(book.secret, participant.name, participant.log_id)
    book.ready.effects.append(effects.Welcomed(participant.name, participant.stream, participant.heard, key))
    if participant.listed:
        heard_out(book, participant)


def lost(book: Book, event: events.ParticipantLost) -> None:
    """A stream ended. Its branches stay as they are: the participant may come back in time."""
    participant = book.participants.get(event.participant)
    if participant is not None and participant.stream == event.stream:
        participant.hang_up()
