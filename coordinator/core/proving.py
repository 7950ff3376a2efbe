"""What a log has lost is proven again from what participants know; the theory is in `transitions`."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from coordinator.core.book import ABORT, Book, cause_of
from coordinator.core.events import Durable, FromParticipant
from coordinator.core.finishing import finish
from coordinator.core.model import DECIDING, OVER, YES, Branch, BranchStep, Participant, State, Transaction
from coordinator.core.phase_two import BY_HAND, as_acknowledged
from coordinator.core.steps import Returned, arm, branch_of
from coordinator.core.words import listed
from troth.errors import Reason
from troth.ids import TransactionId
from troth.v1 import participant_pb2

ASKED = BranchStep.SETTLE_OWED
DISPROVES = BranchStep.DISPROVES


def may_prove(book: Book, transaction_id: str) -> bool:
    """Whether others may help: of a transaction of our own name that is not told yet, by whatever is open or retained of it. What
    people have begun to settle by hand is left to them (`verdict`)."""
    known = transaction_id in book.live or transaction_id in book.finished
    return not known and transaction_id.startswith(f"{book.coordinator}.")


def prove(book: Book, participant: Participant, transaction_id: str, peers: bytes) -> None:
    """Somebody is in doubt about what this log has lost: ask the others."""
    named = _peers(book, participant, peers)
    if named is None or book.proving >= book.settings.proving_max:
        return  # it stays listed, and is looked at again with the next Hello
    txn = Transaction(transaction_id, None, 0, State.PROVING)
    txn.first_attempt_ms, txn.results_lost = book.clock_ms, True
    txn.began = txn.deadline = book.now.monotonic
    book.live[transaction_id] = txn
    book.proving += 1
    for name, incarnation, order in zip(named.participants, named.incarnations, named.orders, strict=True):
        branch = book.add_recovered_branch(txn, name, order, ASKED)
        branch.incarnation = incarnation
        if name == participant.name:
            branch.step = YES
        else:
            book.send_settle(txn, branch)
    arm(book, txn)


def _peers(book: Book, participant: Participant, raw: bytes) -> participant_pb2.Peers | None:
    """Whom to ask; `None` when that is not told, or not to be believed."""
    try:
        peers = participant_pb2.Peers.FromString(raw)
    except DecodeError:
        return None
    names = list(peers.participants)
    if participant.name not in names or len(set(names)) != len(names) or len(names) > book.settings.participants_max:
        return None
    if not len(names) == len(peers.incarnations) == len(peers.orders):
        return None  # of software that names the participants alone
    new = sum(name not in book.participants for name in names)
    return peers if len(book.participants) + new <= book.settings.known_participants_max else None


# ---- what is heard


def settled(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Settlement]) -> None:
    """COMMITTED proves COMMIT. ROLLED_BACK may prove ABORT. PREPARED is in doubt as well. Anything else proves nothing."""
    participant, message = argument
    branch = branch_of(txn, participant)
    if branch.step is not ASKED:
        return  # a repeat
    if message.kind == participant_pb2.SETTLEMENT_KIND_COMMITTED:
        branch.changed = True
        book.end_branch(txn, branch)
        _commit(book, txn)
        return
    if message.kind == participant_pb2.SETTLEMENT_KIND_PREPARED:
        branch.step = YES
    else:
        rolled_back = message.kind == participant_pb2.SETTLEMENT_KIND_ROLLED_BACK
        # Whoever has another log by now, or an older copy, does not know what it has voted.
        proves = message.proves_abort and not participant.was_before(TransactionId.parse(txn.id).epoch, branch.order)
        book.end_branch(txn, branch, DISPROVES if rolled_back and proves else OVER)
    _conclude(book, txn)


def vote(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Vote]) -> None:
    """A vote that was under way: YES is in doubt. What another one comes to is told by the answer to the question."""
    participant, message = argument
    branch = branch_of(txn, participant)
    if branch.step is ASKED and message.kind == participant_pb2.VOTE_KIND_YES:
        branch.step = YES
        _conclude(book, txn)


def acknowledged(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Acknowledgement]) -> None:
    """An operator has ended the branch, or it cannot be finished: that proves nothing, and it is in doubt no more."""
    participant, message = argument
    branch = branch_of(txn, participant)
    if branch.step in (ASKED, YES):
        if message.kind in BY_HAND.values():
            participant.by_hand[txn.id] = participant_pb2.Acknowledgement()
            participant.by_hand[txn.id].CopyFrom(message)  # not the whole frame that it came in
        book.end_branch(txn, branch)
        _conclude(book, txn)


def returned(book: Book, txn: Transaction, argument: Returned) -> None:
    """It lists the branch as PREPARED, or as ended by hand, or it is asked."""
    participant, report = argument
    branch = branch_of(txn, participant)
    in_doubt = report is not None and report.state == participant_pb2.BRANCH_STATE_PREPARED
    if report is not None and report.state in BY_HAND:
        acknowledged(book, txn, (participant, as_acknowledged(report)))
        return
    if report is not None and in_doubt:
        participant.stranded[txn.id] = report.peers  # to be listed
    if branch.step is ASKED and in_doubt:
        branch.step = YES
        _conclude(book, txn)
    elif branch.step is ASKED:
        book.send_settle(txn, branch)


def timer(book: Book, txn: Transaction, _: Any) -> None:
    """Ask again whoever has not answered."""
    for branch in txn.branches.values():
        if branch.step is ASKED:
            book.send_settle(txn, branch)
    arm(book, txn)


# ---- what it comes to


def _commit(book: Book, txn: Transaction) -> None:
    """COMMIT is proven: it is recorded, and told to whoever is in doubt. Whoever has not answered is asked on (`phase_two`), and
    whoever has rolled back what must have been prepared will say so: that is a heuristic end. So does who was ended by hand."""
    by_hand = _leave(book, txn)
    for branch in txn.branches.values():
        if branch.step is DISPROVES or branch.participant.name in by_hand:
            branch.step = YES
            branch.participant.recovered[txn.id] = txn
        branch.changed |= branch.step is YES
    book.set_state(txn, DECIDING)
    book.append(txn.id, book.decided_record(txn), force=True, event=Durable("decided", txn.id))


def _conclude(book: Book, txn: Transaction) -> None:
    branches = txn.branches.values()
    if any(branch.step is ASKED for branch in branches):
        return
    in_doubt = [branch for branch in branches if branch.step is YES]
    proofs = [branch.participant.name for branch in branches if branch.step is DISPROVES]
    ended = any(txn.id in branch.participant.by_hand for branch in branches)
    if proofs and (in_doubt or ended):
        _abort(book, txn, in_doubt, proofs)
    elif not in_doubt:
        # Operators have ended whatever was in doubt. There is nothing to be said; what they did is kept (`verdict`).
        by_hand = _leave(book, txn)
        book.end_branches(txn)
        book.close(txn)
        _say_again(book, txn, by_hand)


def _abort(book: Book, txn: Transaction, in_doubt: list[Branch], proofs: list[str]) -> None:
    by_hand = _leave(book, txn)
    for branch in (*in_doubt, *(txn.branches[name] for name in by_hand)):
        book.send_decision(branch.participant, txn.id, branch.order, ABORT, acknowledge=True)
    book.end_branches(txn)
    txn.cause = cause_of(Reason.COORDINATOR_RESTARTED, f"the log has lost it, and {listed(proofs)} proves that it did not commit")
    finish(book, txn, State.ABORTED)


def _say_again(book: Book, txn: Transaction, by_hand: dict[str, participant_pb2.Acknowledgement]) -> None:
    """How people have ended it is heard once more, now that nothing is open. Who is away lists it in its next Hello."""
    for name, message in by_hand.items():
        participant = book.participants[name]
        if participant.ready:
            participant.ordered.add(txn.id)
            book.again.append(FromParticipant(name, participant.stream, message))


def _leave(book: Book, txn: Transaction) -> dict[str, participant_pb2.Acknowledgement]:
    """It is being proven no longer; returns whose branches were ended by hand."""
    book.proving -= 1
    book.timers.cancel(txn.id)
    for branch in txn.branches.values():
        branch.participant.stranded.pop(txn.id, None)
    ended = {name: branch.participant.by_hand.pop(txn.id, None) for name, branch in txn.branches.items()}
    return {name: message for name, message in ended.items() if message is not None}
