"""Early votes: what is prepared before anybody asks, and how it comes to be known.

Whoever calls a service for the last time in a transaction says so (`TransactionContext.last_call`). The branch is prepared when
the call ends; its YES travels sealed through the client (`troth.seals`), and the commit brings it. It is as good as one that was
asked for, and for the same reasons: it is durable before it is said, it is the participant's own (its seal), it is for this
transaction, and the count of its operations is compared, here instead of there. A vote that is missing, or does not fit, changes
nothing: the participant is asked, and answers from knowledge.

A branch that is prepared and that nobody else knows of must neither be forgotten nor be told ABORT while its client may still
bring its vote. It announces itself, by an Inquiry that says PREPARED without an order, or in Hello: then its transaction is live,
as that of unprepared work that is announced is (`beginning.announced`). Where the transaction can never commit with it any more,
it is told ABORT: it has ended, or never begins, or its branches are settled without this one. In the last case a commit that
comes is judged by the same rules by which the branch was refused, so it can never be one of this branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordinator.core.book import Book, cause_of
from coordinator.core.model import ACTIVE, YES, Transaction
from troth.errors import Reason
from troth.seals import opened, seal_key
from troth.v1 import client_pb2, common_pb2, participant_pb2


def votes(
    book: Book, txn: Transaction, named: Iterable[client_pb2.AcknowledgedOperations]
) -> Mapping[str, participant_pb2.EarlyVote]:
    """The early votes that a commit brings, by participant: those whose seal fits, on this transaction, of who did the work."""
    found = {}
    for item in named:
        participant = book.participants.get(item.participant) if item.HasField("vote") else None
        if participant is not None:
            vote = opened(seal_key(book.secret, participant.name, participant.log_id), item.vote)
            if vote is not None and (vote.transaction_id, vote.incarnation) == (txn.id, item.incarnation):
                found[participant.name] = vote
    return found


def take(book: Book, txn: Transaction, votes: Mapping[str, participant_pb2.EarlyVote]) -> common_pb2.Cause | None:
    """Count the votes. Returns why the transaction may not commit: the client saw another number of operations than there were."""
    for name, vote in votes.items():
        branch = txn.branches.get(name)
        if branch is None or txn.state is not ACTIVE:
            continue  # what is wrong with it was found before
        if vote.operation_count != branch.operation_count:
            message = f"the client saw {branch.operation_count} operations of {name}, there were {vote.operation_count}"
            return cause_of(Reason.OPERATION_COUNT, message, participant=name)
        branch.step = YES
        participant = branch.participant
        if vote.incarnation == participant.incarnation and vote.position > participant.heard:
            # Should its log go back behind the vote, that is found out, as if the vote had come on its stream.
            book.hear(participant, vote.position)
    return None
