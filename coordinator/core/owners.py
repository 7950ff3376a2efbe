"""Whose a transaction is, and what follows from it.

A transaction belongs to the identity that began it, and a key to the identity that used it: two identities that use one key
have two keys. Nobody else ends a transaction, asks about it or watches it, unless the policy says so; and a participant has a
branch in it only if its owner may have that participant work. Otherwise whoever is a participant could veto any transaction, by
announcing a branch that nobody has asked for.

Who may act as whose owner is decided outside (`coordinator.identity`), with the owner that `owner_of` told. Between that
question and the event the transaction may have begun, so the event carries the name in which it acts, and both are compared
here once more. An empty name is anybody's: of what began without a policy, and of who is not asked for his.
"""

from __future__ import annotations

from coordinator.core.book import Book, cause_of
from coordinator.core.model import Session, Transaction
from troth.errors import Reason
from troth.ids import service_of
from troth.v1 import common_pb2


def owner_of(book: Book, transaction_id: str) -> str | None:
    """Who began a transaction; `None` when it is not known here. What its session alone tells counts too: who has a session has
    all of its numbers, begun or not."""
    txn = book.live.get(transaction_id) or book.finished.get(transaction_id)
    if txn is not None:
        return txn.owner
    session = book.sessions.get(transaction_id.rpartition(".")[0])
    return session.owner if session is not None and session.keeps_answers else None


def why_not_his(book: Book, transaction_id: str, acts_as: str) -> common_pb2.Cause | None:
    """Why somebody may not act on a transaction, in the name in which he does."""
    owner = owner_of(book, transaction_id)
    if not acts_as or not owner or owner == acts_as:
        return None
    return cause_of(Reason.FORBIDDEN, f"{transaction_id[:120]} was begun by somebody else")


def acting(session: Session, caller: str) -> str:
    """In whose name a request is made: of a stream, its session's; of a unary call, the caller's."""
    return session.owner or caller


def why_not_invited(book: Book, txn: Transaction, participant: str) -> common_pb2.Cause | None:
    """Why a participant may have no branch in a transaction."""
    if not txn.owner or book.invites(txn.owner, service_of(participant)):
        return None
    message = f"{txn.owner} may not have {participant} work in a transaction"
    return cause_of(Reason.FORBIDDEN, message, participant=participant)
