"""When a life of the coordinator begins.

A process that has read a log does not know whether that is the log that it should have: it may be an older copy that was put back.
Those who know are the participants, who say in Hello what they have heard of it. So they are *heard* before a life begins, that is,
before anything is written and anything is said: all whom the log has bound, but no longer than `hearing_seconds`, for whoever is
away must not hold up the others.

    HEARING   events wait; of a Hello only that is taken what it has heard. Nothing is written.
              each bound participant was heard, or time is up     -> BEGUN: EpochStarted is forced, then everybody is answered
              one has heard what the log does not say             -> REFUSED, above every epoch that was heard
    REFUSED   the start is refused, and the log stays as it was, however often a supervisor repeats that. No participant is let in,
              nothing begins, nothing is dropped; operators can look, and no order of theirs is taken but to accept the loss: what
              is written before EpochStarted would count as the life's before. The way out is the right log, or
              an operator accepts the loss                        -> BEGUN, with the record of the loss behind EpochStarted
    BEGUN     what is found out only now is recorded as it is found (`Loss`): others have been told something in this life, and a
              restart must know what this process knows.

A log that *stands in* for one that is lost (`troth log stand-in`) has that one's identity and nothing else. Its starts are refused
until an operator accepts the loss: meanwhile those come who have heard the lost one, and raise the life above it.

A log that has bound nobody has nobody to hear. A life is above every life that was heard of this log, those too that it has lost:
who has heard those follows no lower one. So a loss that is found out when a life has begun that is not above it is accepted in
the next one: the coordinator has to be started again first.
"""

from __future__ import annotations

from coordinator.core import effects, events, waiting
from coordinator.core.book import Book
from coordinator.core.model import Beginning
from coordinator.core.recovery import epoch_record
from troth.lives import Life

HEARING_TIMER = "hearing"
STANDS_IN = ""
"""Whose loss it is that a log begins with which stands in for another: no participant's."""
WAITING_EVENTS_MAX = 100_000
"""Events that wait at most; more of them end the hearing, as time does."""


def start(book: Book, life: Life) -> None:
    """The log is read: hear those whom it has bound, if any."""
    book.lives.add(life)
    book.unheard = {participant.name for participant in book.participants.values() if participant.log_id}
    book.awaited = {participant.name for participant in book.participants.values() if participant.log_id} | book.losses.keys()
    book.awaited.discard(STANDS_IN)
    book.grace_until = book.now.monotonic + book.settings.recovery_grace_seconds
    if STANDS_IN in book.losses and not book.losses[STANDS_IN].accepted_in:
        book.beginning, book.serving = Beginning.REFUSED, True
        book.ready.effects.append(effects.LossChanged())
    elif book.unheard and book.settings.hearing_seconds > 0:
        book.timers.set(HEARING_TIMER, book.now.monotonic + book.settings.hearing_seconds)
    else:
        begin(book)


def begin(book: Book) -> None:
    """Begin the life. Nothing of it is said before its record is durable: until then events wait."""
    assert book.beginning is not Beginning.BEGUN
    book.beginning, book.serving = Beginning.BEGUN, False
    book.unheard = set()
    book.timers.cancel(HEARING_TIMER)
    life = book.lives.newest()
    record = book.record_of(epoch_started=epoch_record(book, life))
    book.append("epoch", record, force=True, event=events.Durable("epoch", "epoch"))
    waiting.write(book)


def heard(book: Book, name: str) -> None:
    """A participant has said Hello. When it knows better the start is refused; when it is the last one the life begins."""
    book.unheard.discard(name)
    if book.has_lost and name in book.losses and not book.losses[name].accepted_in:
        book.beginning, book.serving = Beginning.REFUSED, True
        rise(book)
        book.unheard = set()
        book.timers.cancel(HEARING_TIMER)
    elif not book.unheard:
        begin(book)


def rise(book: Book) -> None:
    """Take a number above every life that was heard, for the life that may begin when the loss is accepted."""
    number = highest_heard(book) + 1
    if number > book.epoch:
        book.epoch = number
        book.lives.renumber(number)


def highest_heard(book: Book) -> int:
    """The highest life that was heard and is lost."""
    return max((loss.epoch for loss in book.losses.values()), default=0)
