"""All transitions of a branch at its participant: the theory, then the table.

**Presumed abort.** The participant's half of two-phase commit (Gray, "Notes on Data Base Operating Systems", 1978) with the
presumption of Mohan, Lindsay & Obermarck, "Transaction Management in the R* Distributed Database Management System" (TODS
1986): a participant that asks about a transaction nobody remembers is told ABORT. So an abort needs no forced record and no
acknowledgement, and a NO vote no record at all. What must be durable before it is said: PREPARED before YES, the outcome
before the acknowledgement of a COMMIT (force-log-at-commit: Gray & Reuter, section 9.4). That is two forced records for a
committed branch, one for a one-phase commit, none for a branch that only read or was rolled back. The wait between a record and
its durability is a state of its own: PREPARING, ONE_PHASE, COMMITTING, ABORTING.

**The window of doubt.** Up to its YES a participant may roll back when it likes; after it, never alone (Skeen's result of 1981 is
that no commit protocol is without such a window). PREPARED therefore only asks, for ever, and is reported in each Hello; only a
decision or an operator ends it. An operator's order (R*'s and X/Open XA's *heuristic* outcome) is recorded with who and why
and stands against a later decision: the contradiction is told, never hidden. When the decision agrees, it is an ordinary outcome
again. What cannot be finished is PARKED with its locks, and nothing deletes itself.

**What people have forgotten.** When the operator forgets it (Force FORGET), a branch that people ended is finished, too: it is
listed no more, and the watermark may take it. But a commit of the protocol is knowledge that others may rest on, since nobody is
told COMMIT before it is decided for all; and this one is not. So the branch remembers, with its outcome and for as long, who
committed it, when and why (`by_hand`), and whoever asks what became of it (RollbackIfUnseen, ABORT, another order) is answered as
before: FORCED_COMMIT, which proves nothing. The same holds of an operator's commit that could not be carried out and was forgotten
as PARKED: nobody decided it. A COMMIT that comes later is acknowledged, and proves no more than before: that is the safe side. A
rollback needs none of this: to prove something it must say so (`proves_abort`). Nor does a one-phase commit: whoever ends the only
branch decides.

**One phase.** Handing the only participant a commit hands it the decision: from then on (ONE_PHASE) a restart of the
coordinator, an ABORT or a question waits for what the resource says.

**Read-only** (Mohan et al., section 4): a branch that changed nothing votes READ_ONLY, lets its locks go, and leaves phase two,
unless it is asked to hold them.

**No half branches.** Calls of one branch run one at a time, and what contradicts a running operation is deferred until it has
ended: Prepare never overtakes it, and rollbacks never undo it half done. Prepare names how many operations the client saw
succeed; another number is a NO. Calls that have not begun when the commit begins are refused.

**Deferred enlisting.** A call runs at once, and its answer tells who did the work: participant, incarnation, number of
operations; the commit names that, and so makes it a branch of the transaction. Until then nobody else need know of it, because it
can be prepared only by a Prepare. It runs only while the stream stands in the very life of the coordinator that the id names, and
only if its caller is told (`Call.told`); any other first call waits in ENLISTING until the coordinator has answered. What is
still unprepared after `Config.enlist_after_seconds` is announced, so that abort, timeout and a dead client find it. A refusal is
final: the branch is rolled back whole, and stays a tombstone. And whoever would die of a lock asks first (ENLISTING once more):
the decisions of all that ended before are on the stream before that answer, and with them the locks.

**Early prepare.** When the caller says that a call was its last one here (LAST_CALL), the branch is prepared when that call ends,
as if a Prepare with the present count had come, and the YES travels with the answer, sealed (`troth.seals`), by way of the client
to the coordinator. From then on it is PREPARED like any other: only a decision ends it. Nobody else may know of it yet, so it
announces itself, as unprepared work does, but as what it is: by an Inquiry that says PREPARED without an order, which a
coordinator answers by Enlisted, or by ABORT when the transaction can never commit with it. An Enlist that was sent before may
still be refused: that is as good, since whom a transaction has refused is in none of its commits. If the commit asks for its vote
all the same, the count is compared then; another one is a NO, but the branch stays in doubt until it is told ABORT, since its YES
is out. What has changed nothing is not prepared early: to let its locks go while its transaction still works elsewhere would not
be two-phase locking.

**Never seen, and no longer known.** ABORT for a branch never seen succeeds and is remembered, so that a rollback may overtake
the work; COMMIT for one is HAZARD. RollbackIfUnseen asks what is true: whatever is neither prepared nor finished becomes a
durable tombstone first, in the log in which the branch's outcome would be. Below the watermark nothing is known, so EXPIRED is
the answer, never "aborted".

**Repeats.** Each message may come again at any time: a vote is given again as it was, a call_id gets its first answer, a decision
is acknowledged again. A NO is remembered as well; a repeated Prepare must not get another vote.

**Locks** are held until the outcome (strict two-phase locking), and taken again at recovery; `locks` says who waits for whom. What
an operation has declared is locked before it runs. Keys that depend on data it finds while it runs (WANTED): nothing of that run
is left, and it runs again with them. Only the core grants locks, because only here is known who else asks, and in what order.

An event that the table does not have in a state is a protocol violation; nothing changes. The first line of each handler's
docstring says what it does, and the protocol page of the documentation is drawn from the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from participant_sdk.core import finishing as f
from participant_sdk.core import interactive as i
from participant_sdk.core import voting as v
from participant_sdk.core.branches import Branch, Kind, State
from participant_sdk.core.machine import Machine
from troth.errors import LocalProtocolError, RemoteProtocolError

Handler = Callable[[Machine, Branch, Any], None]

_DEFERRED: dict[Kind, Handler] = {
    Kind.ABORT: f.defer_abort,
    Kind.SETTLE: f.defer_settle,
    Kind.FORCE_ABORT: f.defer_force_abort,
}
_UNFORCED: dict[Kind, Handler] = {
    Kind.FORCE_COMMIT: f.force_finished,
    Kind.FORCE_ABORT: f.force_finished,
    Kind.FORCE_FORGET: f.acknowledge_again,
    Kind.ENLISTED: i.learn_order,
    Kind.LOST: f.ignore,
}

ROWS: dict[State, dict[Kind, Handler]] = {
    State.UNSEEN: {
        Kind.CALL: i.call_unseen,
        Kind.ENLISTED: f.ignore,
        Kind.PREPARE: v.prepare_unseen,
        Kind.COMMIT: f.commit_unseen,
        Kind.ABORT: f.abort_unseen,
        Kind.SETTLE: f.settle_unseen,
        Kind.FORCE_COMMIT: f.force_unseen,
        Kind.FORCE_ABORT: f.force_abort_unseen,
        Kind.FORCE_FORGET: f.acknowledge_again,
        Kind.DURABLE_ABORTED: f.ignore,
    },
    State.EXPIRED: {
        Kind.CALL: i.call_expired,
        Kind.ENLISTED: f.ignore,
        Kind.PREPARE: v.prepare_expired,
        Kind.COMMIT: f.commit_expired,
        Kind.ABORT: f.abort_expired,
        Kind.SETTLE: f.settle_expired,
        Kind.FORCE_COMMIT: f.commit_expired,
        Kind.FORCE_ABORT: f.commit_expired,
        Kind.FORCE_FORGET: f.acknowledge_again,
        Kind.DURABLE_ABORTED: f.ignore,
    },
    State.ENLISTING: {
        Kind.CALL: i.call_busy,
        Kind.ENLISTED: i.enlisted_in_line,
        Kind.PREPARE: v.prepare_calls,
        Kind.ABORT: f.abort,
        Kind.SETTLE: f.settle_unprepared,
        Kind.LOST: f.lost,
        Kind.FORCE_ABORT: f.force_abort_unprepared,
        Kind.ENLIST_TIMEOUT: i.enlist_timeout,
        Kind.ASK: i.ask_active,
    },
    State.WAITING: {
        Kind.CALL: i.call_busy,
        Kind.ENLISTED: i.enlisted,
        Kind.PREPARE: v.prepare_calls,
        Kind.ABORT: f.abort,
        Kind.SETTLE: f.settle_unprepared,
        Kind.LOST: f.lost,
        Kind.FORCE_ABORT: f.force_abort_unprepared,
        Kind.LOCKED: v.locked,
        Kind.LOCK_TIMEOUT: v.lock_timeout,
        Kind.ENLIST_TIMEOUT: i.announce,
        Kind.ASK: i.ask_active,
    },
    State.EXECUTING: {
        Kind.CALL: i.call_busy,
        Kind.ENLISTED: i.enlisted_behind_call,
        Kind.PREPARE: v.prepare_behind_call,
        **_DEFERRED,
        Kind.LOST: f.defer_lost,
        Kind.EXECUTED: i.call_executed,
        Kind.EXECUTE_REFUSED: i.call_refused,
        Kind.WANTED: i.call_wanted,
        Kind.ENLIST_TIMEOUT: i.announce,
        Kind.ASK: i.ask_active,
    },
    State.ACTIVE: {
        Kind.CALL: i.call_active,
        Kind.ENLISTED: i.enlisted,
        Kind.PREPARE: v.prepare_calls,
        Kind.ABORT: f.abort,
        Kind.SETTLE: f.settle_unprepared,
        Kind.LOST: f.lost,
        Kind.FORCE_ABORT: f.force_abort_unprepared,
        Kind.ENLIST_TIMEOUT: i.announce,
        Kind.ASK: i.ask_active,
        Kind.LAST_CALL: v.last_call,
    },
    State.PREPARING: {
        Kind.CALL: i.call_late,
        Kind.ENLISTED: i.enlisted_behind_call,
        Kind.PREPARE: v.prepare_repeated,
        **_DEFERRED,
        Kind.LOST: f.defer_lost,
        Kind.EXECUTED: v.prepare_executed,
        Kind.EXECUTE_REFUSED: v.prepare_refused,
        Kind.WANTED: v.prepare_wanted,
        Kind.DURABLE_PREPARED: v.prepared_durable,
        Kind.ASK: i.ask_active,
        Kind.LAST_CALL: v.last_call_again,
    },
    State.ONE_PHASE: {
        Kind.CALL: i.call_late,
        Kind.ENLISTED: i.learn_order,
        Kind.PREPARE: v.prepare_repeated,
        **_DEFERRED,
        Kind.LOST: f.ignore,
        Kind.EXECUTED: v.one_phase_executed,
        Kind.EXECUTE_REFUSED: v.prepare_refused,
        Kind.WANTED: v.prepare_wanted,
        Kind.DURABLE_COMMITTED: v.one_phase_durable,
    },
    State.PREPARED: {
        Kind.CALL: i.call_late,
        Kind.ENLISTED: f.enlisted_prepared,
        Kind.PREPARE: v.prepare_prepared,
        Kind.COMMIT: f.commit,
        Kind.ABORT: f.abort,
        Kind.SETTLE: f.settle_prepared,
        Kind.LOST: f.ignore,
        Kind.FORCE_COMMIT: f.force_commit,
        Kind.FORCE_ABORT: f.force_abort,
        Kind.ASK: f.ask_prepared,
        Kind.LAST_CALL: v.last_call_again,
    },
    State.COMMITTING: {
        Kind.CALL: i.call_late,
        Kind.ENLISTED: i.learn_order,
        Kind.PREPARE: v.prepare_prepared,
        Kind.COMMIT: f.defer_commit,
        **_DEFERRED,
        Kind.LOST: f.ignore,
        Kind.FORCE_COMMIT: f.defer_force_commit,
        Kind.FORCE_FORGET: f.defer_force_forget,
        Kind.RESOURCE_COMMITTED: f.resource_committed,
        Kind.COMMIT_FAILED: f.commit_failed,
        Kind.DURABLE_COMMITTED: f.committed_durable,
    },
    State.ABORTING: {
        Kind.CALL: i.call_rolled_back,
        Kind.ENLISTED: i.learn_order,
        Kind.PREPARE: v.prepare_rolled_back,
        Kind.COMMIT: f.defer_commit,
        **_DEFERRED,
        Kind.LOST: f.ignore,
        Kind.FORCE_COMMIT: f.defer_force_commit,
        Kind.FORCE_FORGET: f.defer_force_forget,
        Kind.UNDONE: f.undone,
        Kind.UNDO_FAILED: f.undo_failed,
        Kind.DURABLE_ABORTED: f.aborted_durable,
    },
    State.COMMITTED: {
        Kind.CALL: i.call_late,
        Kind.PREPARE: v.prepare_committed,
        Kind.COMMIT: f.acknowledge_again,
        Kind.ABORT: f.abort_committed,
        Kind.SETTLE: f.settle_committed,
        **_UNFORCED,
    },
    State.ABORTED: {
        Kind.CALL: i.call_rolled_back,
        Kind.PREPARE: v.prepare_rolled_back,
        Kind.COMMIT: f.commit_rolled_back,
        Kind.ABORT: f.abort_again,
        Kind.SETTLE: f.settle_aborted,
        Kind.DURABLE_ABORTED: f.tombstone_durable,
        Kind.ASK: i.ask_for_order,
        **_UNFORCED,
    },
    State.READ_ONLY: {
        Kind.CALL: i.call_late,
        Kind.PREPARE: v.prepare_read_only,
        Kind.COMMIT: f.acknowledge_again,
        Kind.ABORT: f.abort_read_only,
        Kind.SETTLE: f.settle_read_only,
        **_UNFORCED,
    },
    State.FORCED_COMMIT: {
        Kind.CALL: i.call_late,
        Kind.ENLISTED: i.learn_order,
        Kind.PREPARE: v.prepare_prepared,
        Kind.COMMIT: f.close_committed,
        Kind.ABORT: f.forced_commit_stands,
        Kind.SETTLE: f.forced_commit_stands,
        Kind.LOST: f.ignore,
        Kind.FORCE_COMMIT: f.forced_commit_stands,
        Kind.FORCE_ABORT: f.forced_commit_stands,
        Kind.FORCE_FORGET: f.close_committed,
    },
    State.FORCED_ABORT: {
        Kind.CALL: i.call_rolled_back,
        Kind.ENLISTED: i.learn_order,
        Kind.PREPARE: v.prepare_rolled_back,
        Kind.COMMIT: f.forced_abort_stands,
        Kind.ABORT: f.close_aborted,
        Kind.SETTLE: f.settle_aborted,
        Kind.LOST: f.ignore,
        Kind.FORCE_COMMIT: f.forced_abort_stands,
        Kind.FORCE_ABORT: f.forced_abort_stands,
        Kind.FORCE_FORGET: f.close_aborted,
    },
    State.PARKED: {
        Kind.CALL: i.call_late,
        Kind.ENLISTED: i.learn_order,
        Kind.PREPARE: v.prepare_parked,
        Kind.COMMIT: f.parked,
        Kind.ABORT: f.parked,
        Kind.SETTLE: f.settle_parked,
        Kind.LOST: f.ignore,
        Kind.FORCE_COMMIT: f.force_commit,
        Kind.FORCE_ABORT: f.force_abort,
        Kind.FORCE_FORGET: f.close_parked,
        Kind.DURABLE_PARKED: f.parked_durable,
    },
}
"""The table, one row a state."""

for _row in ROWS.values():
    _row.setdefault(Kind.LAST_CALL, v.say_no_early_vote)


def _misfit(kind: Kind) -> Handler:
    def refuse(m: Machine, b: Branch, e: Any) -> None:
        text = f"{b.transaction_id}: {kind.name} does not fit to {b.state.name}"
        raise RemoteProtocolError(text) if kind <= Kind.FORCE_FORGET else LocalProtocolError(text)

    return refuse


_MISFITS = {kind: _misfit(kind) for kind in Kind}

TABLE: dict[State, dict[Kind, Handler]] = {state: {**_MISFITS, **row} for state, row in ROWS.items()}
"""The table without gaps: what it does not have is refused."""
