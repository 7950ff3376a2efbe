"""Known-bad changes of what is done about a log that went back: the coordinator's own, and what its peers prove."""

from __future__ import annotations

from typing import Any

from coordinator.core import arrivals, finishing, hello, operator, proving, recalling
from coordinator.core.book import Book
from coordinator.core.model import State
from coordinator.core.recovery import _READERS
from coordinator.core.transitions import TABLE as C
from coordinator.core.transitions import Input
from participant_sdk.core import finishing as finishing_there
from participant_sdk.core import records
from participant_sdk.core.branches import Kind
from participant_sdk.core.branches import State as P
from participant_sdk.core.recovery import _REPLAY
from participant_sdk.core.transitions import TABLE as T
from tests.sim.mutant import SCRIPTED, Mutant, adder, nothing, to
from troth.v1 import participant_pb2, record_pb2

WAYBACK: list[Mutant] = []

_mutant = adder(WAYBACK)
_scripted = adder(SCRIPTED)


# ---- rule 21: a refusal changes nothing on disk


def _noted(original: Any) -> Any:
    def why_refused(book: Book, event: Any) -> Any:
        known = set(book.losses)
        cause = original(book, event)
        for name in book.losses.keys() - known:
            book.append(f"loss/{name}", book.record_of(loss=book.losses[name]), force=True)
        return cause

    return why_refused


_mutant("a start that is refused writes down why", "21", (hello, "why_refused", _noted))


# ---- what has been lost is proven, or stays in doubt. These are tried by `went_back`: there the log goes back.

PROVING: list[Mutant] = []


def _of_proofs(name: str, *patches: Any) -> None:
    PROVING.append(Mutant(name, "21", patches))


def _anything_proves(original: Any) -> Any:
    def settled(book: Book, txn: Any, argument: Any) -> None:
        participant, message = argument
        bold = participant_pb2.Settlement()
        bold.CopyFrom(message)
        bold.proves_abort = True
        original(book, txn, (participant, bold))

    return settled


def _read_proves(original: Any) -> Any:
    def settle_read_only(m: Any, b: Any, e: Any) -> None:
        b.proves_abort = True
        original(m, b, e)

    return settle_read_only


def _settled_as_committed(original: Any) -> Any:
    def settle_committed(m: Any, b: Any, e: Any) -> None:
        m.settle(b, participant_pb2.SETTLEMENT_KIND_COMMITTED)

    return settle_committed


def _in_no_record(original: Any) -> Any:
    def make(*of: Any) -> Any:
        record = original(*of)
        getattr(record, record.WhichOneof("kind")).by_hand = False
        return record

    return make


def _in_this_life(original: Any) -> Any:
    def replay(m: Any, record: Any) -> Any:
        owner = original(m, record)
        m.branches[owner].by_hand = ""
        return owner

    return replay


def _with_the_order(original: Any) -> Any:
    def close_committed(m: Any, b: Any, e: Any) -> None:
        b.forced = None
        original(m, b, e)

    return close_committed


def _whoever_committed(original: Any) -> Any:
    def acknowledged(book: Book, txn: Any, argument: Any) -> None:
        participant, message = argument
        if message.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT:
            kind = participant_pb2.SETTLEMENT_KIND_COMMITTED
            proving.settled(book, txn, (participant, participant_pb2.Settlement(transaction_id=txn.id, kind=kind)))
        else:
            original(book, txn, argument)

    return acknowledged


def _as_ever(self: Book, parsed: Any) -> bool:
    return parsed.coordinator == self.coordinator


def _as_any_commit(original: Any) -> Any:
    def handler(m: Any, b: Any, e: Any) -> None:
        words, b.by_hand = b.by_hand, ""
        original(m, b, e)
        b.by_hand = words

    return handler


def _parked_as_decided(original: Any) -> Any:
    def park(m: Any, b: Any, decided: Any, why: str) -> None:
        b.forced = None
        original(m, b, decided, why)

    return park


def _whoever_agrees(original: Any) -> Any:
    def close_committed(m: Any, b: Any, e: Any) -> None:
        original(m, b, participant_pb2.Force())

    return close_committed


def _of_one_phase_too(b: Any) -> str:
    return str(b.forced) if b.forced is not None else ""


# Resources that refuse an operator's commit, and orders for what is forgotten, are left to transcripts.
_scripted("an operator's commit that failed was decided", "21", (finishing_there, "_park", _parked_as_decided))
_scripted("that an operator's commit failed is in no record", "21", (records, "parked", _in_no_record))
_scripted("an operator's commit that failed was decided, after a restart", "21", (_REPLAY, "branch_parked", _in_this_life))
_scripted("a decision that agrees makes no commit of the protocol", "21", (T[P.FORCED_COMMIT], Kind.COMMIT, _whoever_agrees))
_scripted("one phase is ended by hand as well", "21", (finishing_there, "_by_hand", to(_of_one_phase_too)))
_scripted("a commit by hand is told to ABORT as one that cannot be told", "18", (T[P.COMMITTED], Kind.ABORT, _as_any_commit))
_scripted("a rollback by hand is told as the commit that had failed", "21", (T[P.PARKED], Kind.FORCE_ABORT, _as_any_commit))
_scripted("a commit by hand is told to an order as decided", "18", (T[P.COMMITTED], Kind.FORCE_ABORT, _as_any_commit))

_of_proofs("abort is presumed of what the log has lost", (Book, "may_presume", to(_as_ever)))
_of_proofs("whoever holds nothing proves abort", (C, (State.PROVING, Input.SETTLED), _anything_proves))
_of_proofs("a branch that was read and forgotten proves abort", (T[P.READ_ONLY], Kind.SETTLE, _read_proves))
_of_proofs("what others are in doubt about is forgotten in the meantime", (Book, "may_forget", to(property(lambda self: True))))
_of_proofs("nobody is asked what he knows", (arrivals, "prove", to(nothing)))
_of_proofs("a commit by hand proves COMMIT once people have forgotten it", (T[P.COMMITTED], Kind.SETTLE, _settled_as_committed))
_of_proofs("that a commit was by hand is in no record", (records, "finished", _in_no_record))
_of_proofs("a commit by hand is one of the protocol after a restart", (_REPLAY, "branch_finished", _in_this_life))
_of_proofs("a commit by hand is forgotten with the order", (T[P.FORCED_COMMIT], Kind.FORCE_FORGET, _with_the_order))
_of_proofs("the coordinator takes a commit by hand for a proof", (C, (State.PROVING, Input.ACKNOWLEDGED), _whoever_committed))
_of_proofs("a loss is accepted in a life that nobody follows", (operator, "_of_a_life_too_low", to(nothing)))


# ---- what a log lacks that took a name over is listed. These are tried by `restored`: there a participant's log goes back.

RECALLING: list[Mutant] = []


def _of_recalls(name: str, *patches: Any) -> None:
    RECALLING.append(Mutant(name, "21", patches))


def _without_order(original: Any) -> Any:
    def commits_before(book: Book, participant: Any) -> Any:
        return ((name, 0) for name, _ in original(book, participant))

    return commits_before


def _whoever_voted(original: Any) -> Any:
    def orders_of(txn: Any) -> tuple[int, ...]:
        return tuple(branch.order for branch in txn.branches.values())

    return orders_of


def _watermark_at_once(original: Any) -> Any:
    def say_heard(book: Book, participant: Any) -> None:
        participant.watermark_sent = participant.watermark()
        asked, participant.recalling = participant.recalling, False
        original(book, participant)
        participant.recalling = asked

    return say_heard


def _in_memory_alone(original: Any) -> Any:
    def bound_record(participant: Any) -> Any:
        record = original(participant)
        record.recalling = False
        return record

    return bound_record


def _of_what_began(original: Any) -> Any:
    def may_presume(book: Book, participant: Any, parsed: Any, order: int) -> bool:
        return book.may_presume(parsed)

    return may_presume


def _without_branches(original: Any) -> Any:
    def horizon(self: Any, record: Any, at_ms: int) -> str:
        silent = record_pb2.Horizon()
        silent.CopyFrom(record)
        del silent.branches[:]
        told: str = original(self, silent, at_ms)
        return told

    return horizon


def _watermark_unsaid(original: Any) -> Any:
    def go_on(book: Book, participant: Any) -> None:
        original(book, participant)
        participant.recall_unsaid = False

    return go_on


def _any_commit_shows_all(original: Any) -> Any:
    def answered(book: Book, participant: Any, what: Any) -> None:
        participant.forgotten_below = participant.before
        original(book, participant, what)

    return answered


_of_recalls("a log that took a name over is asked nothing", (recalling, "_commits_before", to(lambda book, participant: ())))
_of_recalls("it is asked without the orders of its branches", (recalling, "_commits_before", _without_order))
_of_recalls("it is asked about what it has only read", (finishing, "orders_of", _whoever_voted))
_of_recalls("it is told a watermark before it was asked", (arrivals, "_say_heard", _watermark_at_once))
_of_recalls("that it is asked is forgotten with the process", (hello, "bound_record", _in_memory_alone))
_of_recalls("what it lacks is recorded nowhere", (recalling, "_lacks", to(nothing)))
_of_recalls("of what the retention has dropped abort is presumed", (arrivals, "_may_presume", _of_what_began))
_of_recalls("what cannot be listed is passed over", (recalling, "unlisted", to(lambda book, participant: (0, 0, 0))))
_of_recalls("whose commits are dropped is forgotten with the process", (_READERS, "horizon", _without_branches))
_of_recalls("whoever has one commit has all that were before", (recalling, "answered", _any_commit_shows_all))
_of_recalls("it is told a watermark before the log says that all is asked", (recalling, "go_on", _watermark_unsaid))
