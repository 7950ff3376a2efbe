"""Known-bad changes to what is believed of a log that has taken a name over, and to orders that wait for a second person."""

from __future__ import annotations

from typing import Any

from coordinator.core import hello, one_phase, phase_two, recovery, replaced, waiting
from coordinator.core import operator as orders
from tests.sim.mutant import Mutant, adder, to
from troth.v1 import admin_pb2, record_pb2

MUTANTS: list[Mutant] = []

_mutant = adder(MUTANTS)

ABSENCE = "no abort from absence"
TAKEN = "an order that waits is taken once"


# ---- another log


def _nobodys(*arguments: Any) -> bool:
    return False


_mutant(
    "what the log before may have committed alone is rolled back by its successor's word", ABSENCE,
    (one_phase, "is_of_log_before", to(_nobodys)), (phase_two, "is_of_log_before", to(_nobodys)),
)  # fmt: skip


def _of_an_open_key_alone(original: Any) -> Any:
    return lambda txn, branch: original(txn, branch) and txn.claim is not None


def _of_a_question_alone(original: Any) -> Any:
    return lambda txn, branch: original(txn, branch) and txn.claim is None


_mutant("a question believes the log that has the name now", ABSENCE, (one_phase, "is_of_log_before", _of_an_open_key_alone))
_mutant("an open key believes the log that has the name now", ABSENCE, (one_phase, "is_of_log_before", _of_a_question_alone))


def _freed(original: Any) -> Any:
    """What was handed over is in doubt as what is only asked about is, and closed."""

    def conclude(book: Any, txn: Any) -> bool:
        book.asking.add(txn.id)
        done: bool = original(book, txn)
        if done and txn.claim is not None:
            book.keys.pop(replaced_key(txn), None)
        return done

    return conclude


def replaced_key(txn: Any) -> str:
    """The key of a transaction, as the book has it."""
    return f"{txn.claim.owner}\n{txn.claim.key}" if txn.claim.owner else str(txn.claim.key)


_mutant("a key is free when nobody can tell what became of it", "a key commits once in a cell", (replaced, "conclude", _freed))


def _from_now_on(original: Any) -> Any:
    """The next owner takes whoever has a name for who has always had it."""

    def bound(self: Any, record: record_pb2.ParticipantBound, at_ms: int) -> str:
        owner: str = original(self, record, at_ms)
        if record.participant in self.book.participants:
            self.book.participants[record.participant].before = (0, 0)
        return owner

    return bound


_mutant(
    "the next owner does not read that a log was replaced", ABSENCE, (recovery._READERS, "participant_bound", _from_now_on)
)  # fmt: skip


def _any_log(original: Any) -> Any:
    def not_its_own(known: Any, event: Any) -> Any:
        return None if known.log_id != event.hello.log_id else original(known, event)

    return not_its_own


_mutant("another log has a name without an order", ABSENCE, (hello, "_not_its_own", _any_log))


def _of_the_next(original: Any) -> Any:
    """Whose orders begin behind what the log before had, so that of one life nothing is the log before's."""

    def replace(book: Any, request: admin_pb2.ReplaceParticipantRequest) -> Any:
        response = original(book, request)
        participant = book.participants.get(request.participant)
        if participant is not None:
            participant.before = (book.epoch, 0)
        return response

    return replace


_mutant(
    "what was handed over in this life is the present log's", ABSENCE,
    (orders._HANDLERS, admin_pb2.ReplaceParticipantRequest, _of_the_next),
)  # fmt: skip


# ---- a second person


def _reads_none(self: Any, review: record_pb2.Review, at_ms: int) -> str:
    return f"review/{review.review}"


def _taken_unwritten(original: Any) -> Any:
    def change(book: Any, review: record_pb2.Review) -> Any:
        known = original(book, review)
        if review.over:
            book.ready.appends[:] = [one for one in book.ready.appends if not one.record.review.over]
        return known

    return change


_mutant("the next owner does not read what waits for a second person", TAKEN, (recovery._READERS, "review", to(_reads_none)))
_mutant(
    "that an order was taken is not written down", TAKEN, (waiting, "change", _taken_unwritten),
    (orders._HANDLERS, record_pb2.Review, _taken_unwritten),
)  # fmt: skip
