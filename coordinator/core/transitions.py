"""All transitions of a transaction at the coordinator.

The protocol is two-phase commit with presumed abort (Mohan, Lindsay & Obermarck, "Transaction Management in the R* Distributed
Database Management System", TODS 1986, section 3). The commit point is one forced record, Decided. There is no record of an
abort: whoever voted YES and asks about a transaction of which there is no record is told ABORT. That is sound because of
four things, and all four are needed:

- only this process writes the log (it holds the file), so a record that is absent now cannot appear for an older epoch;
- a transaction that is live is not absent: undecided ones are answered with silence, never with ABORT;
- a Decided record is kept until every participant that owes an acknowledgement has given it;
- only a *prepared participant* may draw the conclusion. A client that asks gets an abort only from knowledge: a decision made
  in this epoch, or rollback-if-unseen at every participant that it names.

One decision. A vote, the timer, the client's abort, a lost incarnation and an operator race for the transition out of PREPARING;
whoever comes first takes it, and the table gives the others a clean answer. Between the append of Decided and its
durability the transaction is DECIDING, and there is nothing left to race for: it will commit, or the process dies and
recovery finds out from the log.

One participant. The coordinator gives the decision away (one-phase commit; Samaras, Britton, Citron & Mohan, "Two-Phase
Commit Optimizations in a Commercial Distributed Environment", 1995, "last agent"). From HANDED_OVER no timer and no abort may
decide. When the answer is lost the branch is *settled*: rolled back unless it is finished; it is never run again. With an
idempotency key, KeyOpened is forced first, so that a retry after a crash knows whom to ask.

Deferred enlisting. An interactive branch need not be enlisted before its work, nor a transaction begun before it commits: the
commit says what Begin would have said, and names each branch with its incarnation and the number of operations that the client
saw, as the services' answers told them. Nothing is lost by that, for four reasons:

- only a branch of the transaction gets Prepare, so one that the coordinator does not know can never be prepared: at worst it is
  rolled back, whole;
- the branches of a commit are those that were enlisted *and* those that it names. What was acknowledged is named in the same
  message as the acknowledgement; a call of which nothing came back makes the commit an abort (`unknown`); a branch that was
  enlisted and is not named has done nothing that was seen, and its count says NO if it has done anything. So nothing that ran is
  left out;
- a name is good for the incarnation that it says, compared with the durable binding here, and again by the participant at
  Prepare; a second incarnation in one commit aborts it, as a second Enlist does;
- a branch that stays unprepared for some milliseconds is announced (Enlist, or Hello). From then on its transaction is live,
  whether its client has been heard of or not, and abort, timer, client's death and operator find it. Announced too late, it is
  refused, and that is final, because a number begins once: it is live, or was answered, acknowledged or shed, and then never
  begins again.

A restart of the coordinator needs none of this: the new epoch rolls back whatever is unprepared. A keyed begin keeps its round
trip, because it must be told the holder before any work is done.

Results under keys. What the caller of a keyed interactive transaction says that it came to is a part of the claim to its key, and
so of whichever record holds that (`kept`). Whoever comes with the key later is told it with the outcome, and must be told the same
for as long as the key is kept. Decided and KeyOpened are durable before anything is told, and only records that hold the claim too
follow them. Where nobody has changed anything there was no such record: an outcome that leaves no trace need not be remembered.
One with a result must be: whoever was told the result would otherwise see another one, when a crash has freed the key. So its Ended
is forced, and it is DECIDING until that is durable. A result is none before its transaction has committed: an abort drops it, with
the key.

Acknowledgements. COMMIT is repeated, with capped back-off, until each participant has acknowledged, at once when one comes
back. Then Ended is written (unforced: losing it only repeats the acknowledgements), and once that is durable the watermark lets
participants forget. ABORT is sent once; a participant that missed it asks.

Heuristics. A participant that says it never saw the branch, or that an operator ended it, ends phase two for its branch with
a forced Heuristic record; the outcome becomes MIXED or HAZARD if that contradicts the decision, and stays until an operator
forgets it. One that says so before there is a decision is heard when it has been told that. One that was given up, and says
after all how it ended, has a second record, which takes the place of its HAZARD. What was forgotten is over: the decision counts
for whoever is in doubt and for the key, and people and clients are told how it ended, for the retention. Where no decision is known
(another coordinator's transaction, or one that this log has lost) there is nothing to contradict: what people end by hand is
recorded, it is MIXED where they have ended it in two ways, and nobody is told anything by it (`verdict` has the table).

A log that has lost decisions. When an operator has accepted that (`Loss`), the log presumes nothing of what began before: the
absence of a record says nothing there. But the participants of a transaction hold pieces of its decision, and each that is in
doubt names all of them (Prepare carries Peers). So the others are asked, by rollback-if-unseen, which also keeps whoever has
not voted from voting YES any more, and decided is

- COMMIT as soon as one has committed by the protocol: it was told COMMIT, and nobody is told that before it is decided for all.
  (So a participant remembers with a commit that people made it, also when they have forgotten that, and answers FORCED_COMMIT);
- ABORT when one *proves* it (it was told ABORT, or has not voted, and never will) and all have been heard. COMMIT needs every
  vote, so the proof alone would do; that all are heard is for whoever was told otherwise by a coordinator that did not know of
  its loss.

An operator's force proves nothing, forgotten or not (what is proven since is told to its branch, which says how it ended; and
where nothing is proven, what people end later is compared with it); nor does a participant that has only read, or may have and
has forgotten: it holds nothing of the transaction either way. If nobody proves anything (all are in doubt, say), it stays in
doubt and listed until people settle it. What proves something must not be forgotten meanwhile: until everybody whom the log
knows has been heard, or the grace of a start has passed (`recovery_grace_seconds`), no watermark goes out.

    state         input                                   next
    -----------   -------------------------------------   -----------------------------------------------------------
    ACTIVE        enlist                                  ACTIVE; a second incarnation aborts
                  commit names what cannot be             ABORTED
                  commit, no branch                       COMMITTED, or DECIDING with a result under a key
                  commit, one branch                      OPENING (key) or HANDED_OVER
                  commit, several                         PREPARING
                  abort, timer, client gone, lost, operator ABORTED
    PREPARING     YES or READ_ONLY, others missing        PREPARING
                  last vote, some YES                     DECIDING
                  last vote, all READ_ONLY                COMMITTED, or DECIDING with a result under a key
                  NO, abort, deadline, lost, operator     ABORTED
    DECIDING      Decided durable                         COMMITTING
                  Ended durable, nothing was changed      COMMITTED
    COMMITTING    last acknowledgement                    COMMITTED, or HEURISTIC
    OPENING       record durable                          HANDED_OVER
    HANDED_OVER   COMMITTED                               COMMITTED
                  READ_ONLY                               COMMITTED, or DECIDING with a result under a key
                  NO                                      ABORTED
                  stream lost and back, deadline          SETTLING
    SETTLING      committed somewhere                     COMMITTED
                  rolled back everywhere                  ABORTED
                  forgotten                               EXPIRED
    PROVING       committed somewhere                     DECIDING
                  all heard, one proves ABORT             ABORTED
                  all heard, nobody in doubt any more     closed; HEURISTIC if people have ended it by hand

`TABLE` below is the authority, and says for every state and input what happens; a pair that it does not have is a violation
of the protocol, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from coordinator.core import deciding, kept, one_phase, phase_two, proving, steps
from coordinator.core.book import Book
from coordinator.core.model import State, Transaction
from troth.errors import RemoteProtocolError


class Input(Enum):
    """What can happen to a transaction. The comment names the handler's argument."""

    __hash__ = object.__hash__

    ENLIST = "enlist"  # the participant
    COMMIT = "commit"  # the CommitRequest
    ABORT = "abort"  # the cause
    TIMER = "timer"  # nothing
    VOTE = "vote"  # (participant, Vote)
    DECIDED = "decided"  # nothing: the Decided record is durable
    RECORDED = "recorded"  # nothing: the Ended record is durable of what has changed nothing, and has a result
    OPENED = "opened"  # nothing: the KeyOpened record is durable
    ACKNOWLEDGED = "acknowledged"  # (participant, Acknowledgement)
    SETTLED = "settled"  # (participant, Settlement)
    RETURNED = "returned"  # (participant, its BranchReport or None): its Hello is complete
    OPERATOR_ABORT = "operator abort"  # the cause
    ABANDON = "abandon"  # (who, why)


# The inputs of every transaction, each looked up once, as in `coordinator.core.model`.
VOTE: Final = Input.VOTE
DECIDED: Final = Input.DECIDED
ACKNOWLEDGED: Final = Input.ACKNOWLEDGED

Handler = Callable[[Book, Transaction, Any], None]


TABLE: dict[tuple[State, Input], Handler] = {
    (State.ACTIVE, Input.ENLIST): deciding.enlist,
    (State.ACTIVE, Input.COMMIT): deciding.commit,
    (State.ACTIVE, Input.ABORT): steps.abort,
    (State.ACTIVE, Input.TIMER): steps.timeout,
    (State.ACTIVE, Input.ACKNOWLEDGED): steps.late,
    (State.ACTIVE, Input.RETURNED): deciding.active_returned,
    (State.ACTIVE, Input.OPERATOR_ABORT): steps.abort,
    (State.PREPARING, Input.ENLIST): deciding.enlist_closed,
    (State.PREPARING, Input.COMMIT): steps.late,
    (State.PREPARING, Input.ABORT): steps.abort,
    (State.PREPARING, Input.TIMER): deciding.preparing_timer,
    (State.PREPARING, Input.VOTE): deciding.vote,
    (State.PREPARING, Input.ACKNOWLEDGED): steps.late,
    (State.PREPARING, Input.RETURNED): deciding.preparing_returned,
    (State.PREPARING, Input.OPERATOR_ABORT): steps.abort,
    (State.DECIDING, Input.ENLIST): deciding.enlist_closed,
    (State.DECIDING, Input.COMMIT): steps.late,
    (State.DECIDING, Input.ABORT): steps.late,
    (State.DECIDING, Input.TIMER): steps.late,
    (State.DECIDING, Input.VOTE): steps.late,
    (State.DECIDING, Input.DECIDED): deciding.decided,
    (State.DECIDING, Input.RECORDED): kept.recorded,
    (State.DECIDING, Input.ACKNOWLEDGED): steps.late,
    (State.DECIDING, Input.SETTLED): steps.late,
    (State.DECIDING, Input.RETURNED): steps.late,
    (State.COMMITTING, Input.ENLIST): deciding.enlist_closed,
    (State.COMMITTING, Input.COMMIT): steps.late,
    (State.COMMITTING, Input.ABORT): steps.late,
    (State.COMMITTING, Input.TIMER): phase_two.committing_timer,
    (State.COMMITTING, Input.VOTE): steps.late,
    (State.COMMITTING, Input.ACKNOWLEDGED): phase_two.acknowledged,
    (State.COMMITTING, Input.SETTLED): phase_two.committing_settled,
    (State.COMMITTING, Input.RETURNED): phase_two.committing_returned,
    (State.COMMITTING, Input.ABANDON): phase_two.abandon,
    (State.OPENING, Input.ENLIST): deciding.enlist_closed,
    (State.OPENING, Input.COMMIT): steps.late,
    (State.OPENING, Input.ABORT): steps.late,
    (State.OPENING, Input.TIMER): steps.late,
    (State.OPENING, Input.OPENED): one_phase.opened,
    (State.OPENING, Input.RETURNED): steps.late,
    (State.HANDED_OVER, Input.ENLIST): deciding.enlist_closed,
    (State.HANDED_OVER, Input.COMMIT): steps.late,
    (State.HANDED_OVER, Input.ABORT): steps.late,
    (State.HANDED_OVER, Input.TIMER): one_phase.handed_over_timer,
    (State.HANDED_OVER, Input.VOTE): one_phase.one_phase_vote,
    (State.HANDED_OVER, Input.RETURNED): one_phase.settling_returned,
    (State.SETTLING, Input.ENLIST): deciding.enlist_closed,
    (State.SETTLING, Input.COMMIT): steps.late,
    (State.SETTLING, Input.ABORT): steps.late,
    (State.SETTLING, Input.TIMER): one_phase.settling_timer,
    (State.SETTLING, Input.VOTE): one_phase.settling_vote,
    (State.SETTLING, Input.SETTLED): one_phase.settled,
    (State.SETTLING, Input.ACKNOWLEDGED): one_phase.settling_acknowledged,
    (State.SETTLING, Input.RETURNED): one_phase.settling_returned,
    (State.PROVING, Input.ENLIST): deciding.enlist_closed,
    (State.PROVING, Input.COMMIT): steps.late,
    (State.PROVING, Input.ABORT): steps.late,
    (State.PROVING, Input.TIMER): proving.timer,
    (State.PROVING, Input.VOTE): proving.vote,
    (State.PROVING, Input.SETTLED): proving.settled,
    (State.PROVING, Input.ACKNOWLEDGED): proving.acknowledged,
    (State.PROVING, Input.RETURNED): proving.returned,
    (State.HEURISTIC, Input.ENLIST): deciding.enlist_closed,
    (State.HEURISTIC, Input.VOTE): steps.late,
    (State.HEURISTIC, Input.COMMIT): steps.late,
    (State.HEURISTIC, Input.ABORT): steps.late,
    (State.HEURISTIC, Input.ACKNOWLEDGED): phase_two.acknowledged_too_late,
    (State.HEURISTIC, Input.SETTLED): steps.late,
    (State.HEURISTIC, Input.RETURNED): steps.late,
}


def apply(book: Book, txn: Transaction, what: Input, argument: Any = None) -> None:
    """Carry out one transition, or raise `RemoteProtocolError` with nothing changed."""
    handler = TABLE.get((txn.state, what))
    if handler is None:
        raise RemoteProtocolError(f"{what.value!r} for transaction {txn.id}, which is {txn.state.value}")
    handler(book, txn, argument)
