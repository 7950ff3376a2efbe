"""Tests of the tests: known-bad changes to the protocol, each a small named patch. The checkers must catch every one.

A mutant replaces one entry of a table or one function of a core. It names the rule of DESIGN section 4 that it breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coordinator.core import (
    arrivals,
    beginning,
    book,
    core,
    deciding,
    finishing,
    model,
    one_phase,
    phase_two,
    recovery,
    requests,
    steps,
)  # fmt: skip
from coordinator.core.book import ABORT, Book, cause_of
from coordinator.core.model import BranchStep, State, Transaction
from coordinator.core.transitions import TABLE as C
from coordinator.core.transitions import Input
from participant_sdk.core import core as participant_core
from participant_sdk.core import finishing as f
from participant_sdk.core import interactive, locks, machine, records, voting
from participant_sdk.core import recovery as participant_recovery
from participant_sdk.core.branches import Kind
from participant_sdk.core.branches import State as P
from participant_sdk.core.transitions import TABLE as T
from tests.sim import process
from tests.sim.mutant import Mutant, adder, nothing, to
from tests.sim.mutants_back import BACK
from tests.sim.mutants_bounds import BOUNDS
from tests.sim.mutants_deferred import DEFERRED
from tests.sim.mutants_early import EARLY
from tests.sim.mutants_kept import KEPT
from tests.sim.mutants_more import MORE
from tests.sim.mutants_wayback import WAYBACK
from troth.errors import Reason
from troth.v1 import common_pb2, participant_pb2

MUTANTS: list[Mutant] = [*MORE, *BOUNDS, *KEPT, *DEFERRED, *EARLY, *WAYBACK, *BACK]

_mutant = adder(MUTANTS)


# ---- rule 1: persist, then speak


def _decide_and_tell(original: Any) -> Any:
    def decide(b: Book, txn: Transaction) -> None:
        original(b, txn)
        if txn.state is State.DECIDING:
            phase_two_begins(b, txn, None)

    phase_two_begins = deciding.decided
    return decide


def _decide_and_answer(original: Any) -> Any:
    def decide(b: Book, txn: Transaction) -> None:
        original(b, txn)
        if txn.state is State.DECIDING:
            txn.state = State.COMMITTING
            b.answer_all(txn)
            txn.state = State.DECIDING

    return decide


def _no_event(what: str) -> Callable[[Any], Any]:
    """Let an append's event happen at once instead of when it is durable."""

    def change(original: Any) -> Any:
        def append(self: Any, record: Any, branch: Any, step: str = "", **options: Any) -> None:
            original(self, record, branch, step, **options)
            if step == what and options.get("apply") is not None:
                T[branch.state][Kind.DURABLE_COMMITTED](self, branch, None)
                last = self.ready.appends[-1]
                self.ready.appends[-1] = replace(last, event=None)

        return append

    return change


_mutant(
    "speak COMMIT before the decision is durable", "1",
    (deciding, "_decide", _decide_and_tell), (C, (State.COMMITTING, Input.DECIDED), to(steps.late)),
)  # fmt: skip
_mutant("answer the client before the decision is durable", "1", (deciding, "_decide", _decide_and_answer))
_mutant("acknowledge before the outcome is durable", "1", (machine.Machine, "append", _no_event("committed")))


def _released_at_once(original: Any) -> Any:
    def begin(self: process.Process) -> None:
        batch = list(self._queued)
        original(self)
        for append in batch:
            if append.event is not None and append.apply is None:
                self._inbox.append(append.event)

    return begin


_mutant(
    "release what waits for durability when the write begins", "1",
    (process.Process, "_begin_write", _released_at_once),
    *((C, (state, Input.DECIDED), to(steps.late)) for state in State if state is not State.DECIDING),
)  # fmt: skip


# ---- rule 2: one decision


def _abort_again(b: Book, txn: Transaction, cause: Any) -> None:
    txn.state = State.PREPARING
    cause = cause or cause_of(Reason.TIMEOUT, "mutant")
    steps.abort(b, txn, cause)


_mutant("a timer decides against a decision that is being written", "2", (C, (State.DECIDING, Input.TIMER), to(_abort_again)))
_mutant("a client's abort reverses a decision that is being written", "2", (C, (State.DECIDING, Input.ABORT), to(_abort_again)))
_mutant("a timer decides what was handed over", "2", (C, (State.HANDED_OVER, Input.TIMER), to(_abort_again)))
_mutant("a client's abort decides what was handed over", "2", (C, (State.HANDED_OVER, Input.ABORT), to(_abort_again)))
_mutant("one missing vote is overlooked", "2", (deciding, "_voted", lambda original: _count_to_one(original)))


def _count_to_one(original: Any) -> Any:
    def voted(b: Book, txn: Transaction, branch: Any, step: BranchStep, results: bytes) -> None:
        branch.step, branch.results = step, results
        txn.missing -= 1
        if txn.missing == 1 or (txn.missing == 0 and txn.state is State.PREPARING):
            for branch in txn.branches.values():
                if branch.step is BranchStep.VOTE_OWED:
                    branch.step = BranchStep.YES
            deciding._decide(b, txn)

    return voted


def _no_is_yes(original: Any) -> Any:
    def vote(b: Book, txn: Transaction, argument: Any) -> None:
        participant, message = argument
        if message.kind == participant_pb2.VOTE_KIND_NO:
            changed = participant_pb2.Vote(transaction_id=txn.id, kind=participant_pb2.VOTE_KIND_READ_ONLY)
            original(b, txn, (participant, changed))
        else:
            original(b, txn, argument)

    return vote


_mutant("a NO counts as READ_ONLY", "2", (C, (State.PREPARING, Input.VOTE), _no_is_yes))

# ---- rules 3 and 4: enlisting, incarnations, half branches


def _no_incarnation(original: Any) -> Any:
    def append_owner(m: Any, b: Any, e: Any) -> None:
        e.message.incarnation = m.incarnation
        original(m, b, e)

    return append_owner


def _count_ignored(original: Any) -> Any:
    def vote(m: Any, b: Any, succeeded: int) -> None:
        original(m, b, b.prepare.message.operation_count)

    return vote


def _restart_overlooked(original: Any) -> Any:
    def returned(b: Book, txn: Transaction, argument: Any) -> None:
        participant, _ = argument
        branch = steps.branch_of(txn, participant)
        branch.incarnation = participant.incarnation
        original(b, txn, argument)

    return returned


_mutant(
    "unprepared work is not bound to its incarnation, and operations are not counted", "3, 4",
    (voting, "_vote_on_calls", _count_ignored),
    (C, (State.PREPARING, Input.RETURNED), _restart_overlooked), (C, (State.ACTIVE, Input.RETURNED), _restart_overlooked),
)  # fmt: skip
_mutant("a repeated call runs again", "4", (interactive, "_known", to(lambda m, b, e: False)))
_mutant(
    "Prepare overtakes a running operation", "4",
    (T[P.EXECUTING], Kind.PREPARE, to(voting.prepare_calls)),
)  # fmt: skip
_mutant(
    "a count that differs is overlooked by the coordinator and the participant", "4",
    (voting, "_vote_on_calls", _count_ignored), (C, (State.ACTIVE, Input.COMMIT), lambda original: _lenient_commit(original)),
    (interactive, "_known", to(lambda m, b, e: False)),
)  # fmt: skip


def _lenient_commit(original: Any) -> Any:
    def commit(b: Book, txn: Transaction, request: Any) -> None:
        for item in list(request.acknowledged):
            if item.participant not in txn.branches:
                request.acknowledged.remove(item)
        original(b, txn, request)

    return commit


# ---- rule 5: never seen, rolled back, superseded


def _any_stream(original: Any) -> Any:
    def take(self: Any, event: Any) -> None:
        original(self, replace(event, stream=self._m.sessions.newest))

    return take


# ---- rules 6 and 8: not knowing


def _always_abort(b: Book, participant: Any, txn: Any, what: Any) -> None:
    b.send_decision(participant, what.transaction_id, what.order, ABORT)


def _abort_while_live(original: Any) -> Any:
    def inquiry(b: Book, participant: Any, txn: Any, what: Any) -> None:
        if txn is not None and txn.state in (State.PREPARING, State.DECIDING):
            _always_abort(b, participant, txn, what)
        else:
            original(b, participant, txn, what)

    return inquiry


_mutant("abort is presumed of a live transaction", "6", (arrivals, "_inquiry", _abort_while_live))
_mutant("abort is presumed of every transaction that is asked about", "6", (arrivals, "_inquiry", to(_always_abort)))
_mutant(
    "a decision is dropped at the first acknowledgement", "6",
    (phase_two, "count_acknowledgement", to(lambda b, txn: finishing.finish(b, txn, State.COMMITTED))),
)  # fmt: skip
_mutant(
    "abort is answered to a client from absence", "7",
    (requests, "_judge_unknown", to(lambda b, p, r: (common_pb2.OUTCOME_ABORTED, cause_of(Reason.COORDINATOR_RESTARTED, "m")))),
)  # fmt: skip
_mutant(
    "RollbackIfUnseen does not wait for the running operation", "7",
    (T[P.ONE_PHASE], Kind.SETTLE, to(lambda m, b, e: m.settle(b, participant_pb2.SETTLEMENT_KIND_ROLLED_BACK))),
    (T[P.PREPARING], Kind.SETTLE, to(lambda m, b, e: m.settle(b, participant_pb2.SETTLEMENT_KIND_ROLLED_BACK))),
)  # fmt: skip
_mutant(
    "RollbackIfUnseen leaves no tombstone, and frames of a superseded stream are taken", "5, 7",
    (T[P.UNSEEN], Kind.SETTLE, to(lambda m, b, e: m.settle(b, participant_pb2.SETTLEMENT_KIND_ROLLED_BACK))),
    (participant_core.ParticipantCore, "_prepare_received", lambda original: _any_stream(original)),
)  # fmt: skip
_mutant(
    "a committed branch is told as rolled back", "7",
    (T[P.COMMITTED], Kind.SETTLE, to(lambda m, b, e: m.settle(b, participant_pb2.SETTLEMENT_KIND_ROLLED_BACK))),
)  # fmt: skip
_mutant(
    "a participant in doubt decides alone", "8",
    (T[P.PREPARED], Kind.ASK, to(lambda m, b, e: f.roll_back(m, b, m.cause(Reason.TIMEOUT, "mutant")))),
)  # fmt: skip


def _active_too(original: Any) -> Any:
    def resume(m: Any, branch: Any) -> None:
        if branch.state is P.PREPARED:
            branch.state = P.ACTIVE
        original(m, branch)

    return resume


_mutant("a prepared branch is undone at recovery", "3, 8", (participant_recovery, "_resume", _active_too))
_mutant(
    "a participant in doubt does not ask, and does not report", "8",
    (T[P.PREPARED], Kind.ASK, to(nothing)), (records, "report", to(lambda branch: None)),
)  # fmt: skip
_mutant("inquiries are not answered, reports neither", "8", (arrivals, "presume", to(nothing)))

# ---- rule 9: fences

_mutant(
    "an earlier incarnation's unprepared work survives its restart",
    "9",
    (participant_recovery, "_resume", lambda o: _not_undone(o)),
)


def _not_undone(original: Any) -> Any:
    def resume(m: Any, branch: Any) -> None:
        if branch.state is P.ACTIVE:
            m.finish(branch, P.ABORTED)
        else:
            original(m, branch)

    return resume


# ---- rules 10 to 12: keys


def _without_record(b: Book, txn: Transaction) -> None:
    (branch,) = txn.branches.values()
    if branch.participant.ready and branch.incarnation == branch.participant.incarnation:
        one_phase.hand_over(b, txn)
    else:
        steps.away(b, txn, branch.participant)


_mutant(
    "one-phase commit without the key's record", "11",
    (one_phase, "open_or_hand_over", to(_without_record)), (deciding, "open_or_hand_over", to(_without_record)),
)  # fmt: skip


def _claim_dropped(original: Any) -> Any:
    def decided_record(self: Book, txn: Transaction) -> Any:
        record = original(self, txn)
        record.decided.ClearField("claim")
        return record

    return decided_record


_mutant("the decision does not carry the key", "10", (book.Book, "decided_record", _claim_dropped))
_mutant("a retry does not join", "10", (requests, "join", to(lambda b, session, event, claim: False)))
_mutant(
    "a retry does not wait for the settlement of its key", "11",
    (requests, "join", lambda original: _impatient(original)),
)  # fmt: skip


def _impatient(original: Any) -> Any:
    def join(b: Book, session: Any, event: Any, claim: Any) -> bool:
        entry = b.keys.get(claim.key)
        if entry is not None and entry.live is not None and entry.live.state is State.SETTLING:
            return False
        joined: bool = original(b, session, event, claim)
        return joined

    return join


_mutant("recovery forgets keys that were opened", "11", (recovery.Replay, "_conclude_opened", to(nothing)))
_mutant(
    "a key is taken from a holder whose decision was handed over", "10",
    (beginning, "outcome_of_holder", to(lambda b, claim: None)), (beginning, "supersede", to(nothing)),
    (requests, "join", lambda original: _never_handed(original)),
)  # fmt: skip


def _never_handed(original: Any) -> Any:
    def join(b: Book, session: Any, event: Any, claim: Any) -> bool:
        entry = b.keys.get(claim.key)
        if entry is not None and entry.live is not None and entry.live.state is State.HANDED_OVER:
            return False
        joined: bool = original(b, session, event, claim)
        return joined

    return join


# ---- rules 13 to 20: going on

_mutant(
    "COMMIT is not repeated", "14",
    (C, (State.COMMITTING, Input.TIMER), to(nothing)), (C, (State.COMMITTING, Input.RETURNED), to(nothing)),
    (arrivals, "_inquiry", to(nothing)),
)  # fmt: skip
_mutant("recovery forgets decisions", "14", (recovery.Replay, "_conclude_decided", to(nothing)))
_mutant("Prepare is not repeated, and no deadline ends it", "13", (C, (State.PREPARING, Input.TIMER), to(nothing)))
_mutant("a repeated one-phase Prepare runs again", "13", (T[P.COMMITTED], Kind.PREPARE, lambda original: _run_again))


def _run_again(m: Any, b: Any, e: Any) -> None:
    if b.one_phase:
        b.state = P.WAITING
        b.prepare = e
        m.unfinished += 1
        voting.run_prepare(m, b)


_mutant(
    "a number that was used runs again", "15",
    *((where, "is_repeat", to(lambda b, session, number, transaction_id: False)) for where in (beginning, requests)),
)  # fmt: skip
_mutant(
    "answers are not kept for a client that comes back", "15",
    (book.Book, "answer", lambda original: _not_kept(original)),
)  # fmt: skip


def _not_kept(original: Any) -> Any:
    def answer(self: Book, session: Any, message: Any) -> None:
        original(self, session, message)
        session.answers.pop(message.number, None)

    return answer


_mutant("the watermark passes what is not finished", "19", (model.Participant, "watermark", to(lambda self: self.next_order)))
_mutant(
    "Forget goes out before Ended is durable", "19",
    (finishing, "_record_end", lambda original: _forgotten_early(original)),
)  # fmt: skip


def _forgotten_early(original: Any) -> Any:
    def record_end(b: Book, txn: Transaction, was_decided: bool) -> None:
        b.end_branches(txn)  # and no record at all: the worst case of one that is lost

    return record_end


_mutant("a participant forgets branches in doubt with the watermark", "19", (machine.Machine, "forget_finished", lambda o: _all(o)))


def _all(original: Any) -> Any:
    def forget(self: Any, watermark: Any) -> None:
        original(self, watermark)
        for branch in list(self.branches.values()):
            if branch.state is P.PREPARED and self.expired(branch):
                del self.branches[branch.transaction_id]

    return forget


_mutant("the cleaner copies nothing", "20", (core.CoordinatorCore, "live_records", to(lambda self, owner: [])))
_mutant(
    "the cleaner of a participant copies nothing", "20", (participant_core.ParticipantCore, "live_records", to(lambda s, o: []))
)
_mutant("the decision names one participant too few", "20", (book.Book, "decided_record", lambda original: _one_less(original)))


def _one_less(original: Any) -> Any:
    def decided_record(self: Book, txn: Transaction) -> Any:
        record = original(self, txn)
        if len(record.decided.owing) > 1:
            del record.decided.owing[-1], record.decided.orders[-1]
        return record

    return decided_record


_mutant(
    "a one-phase commit that only its participant knows is not written down", "19",
    (arrivals, "_record_one_phase", to(nothing)),
)  # fmt: skip

# ---- section 6: the resource's promises

_mutant(
    "locks are not taken again at recovery", "6 (resource)",
    (participant_core.ParticipantCore, "recovered_rows", to(lambda self: [])), (locks.LockTable, "take", to(nothing)),
)  # fmt: skip
_mutant("locks are let go with the vote", "6 (resource)", (voting, "_vote_yes", lambda original: _let_go(original)))


def _let_go(original: Any) -> Any:
    def vote_yes(m: Any, b: Any) -> None:
        original(m, b)
        m.release_locks(b)

    return vote_yes


_mutant("work is undone oldest first", "6 (resource)", (f, "_works", to(lambda b: tuple(w for _, w in reversed(b.works)))))
_mutant("an abort undoes nothing", "6 (resource)", (f, "_works", to(lambda b: ())))
_mutant("a branch that changed rows votes READ_ONLY", "6 (resource)", (voting, "_vote_yes", to(voting._vote_read_only)))
_mutant(
    "an operation that refused is voted YES", "6 (resource)",
    (T[P.PREPARING], Kind.EXECUTE_REFUSED, to(lambda m, b, e: voting._vote_yes(m, b))),
)  # fmt: skip
