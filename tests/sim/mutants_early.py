"""Known-bad changes to early prepare: whose vote is believed, and what becomes of who is prepared and unknown."""

from __future__ import annotations

from typing import Any

from coordinator.core import arrivals, deciding, early
from coordinator.core.model import BranchStep
from coordinator.core.transitions import TABLE as C
from coordinator.core.transitions import Input, State
from participant_sdk.core import finishing
from participant_sdk.core.branches import Kind
from participant_sdk.core.branches import State as P
from participant_sdk.core.effects import EarlyVoted
from participant_sdk.core.transitions import TABLE as T
from tests.sim.mutant import SCRIPTED, Mutant, adder, to
from troth.v1 import participant_pb2

EARLY: list[Mutant] = []

_mutant = adder(EARLY)

_scripted = adder(SCRIPTED)


def _any_seal(original: Any) -> Any:
    def opened(key: bytes, told: Any) -> Any:
        return participant_pb2.EarlyVote.FromString(told.vote)

    return opened


_scripted("the seal of an early vote is not looked at", "4", (early, "opened", _any_seal))


def _any_count(original: Any) -> Any:
    def take(book: Any, txn: Any, votes: Any) -> Any:
        for name, vote in votes.items():
            if name in txn.branches:
                vote.operation_count = txn.branches[name].operation_count
        return original(book, txn, votes)

    return take


_scripted("the count of an early vote is not compared", "4", (early, "take", _any_count))


def _no(*arguments: Any) -> bool:
    return False


def _any_transaction(original: Any) -> Any:
    def votes(book: Any, txn: Any, named: Any) -> Any:
        class Whichever(str):
            __slots__ = ()

            def __eq__(self, other: object) -> bool:
                return True

            __hash__ = str.__hash__

        whole, txn.id = txn.id, Whichever(txn.id)
        try:
            return original(book, txn, named)
        finally:
            txn.id = whole

    return votes


_scripted("an early vote of another transaction is believed", "4", (early, "votes", _any_transaction))
_mutant("a prepared branch that is news is presumed aborted", "8", (arrivals, "_is_news", to(_no)))


def _as_a_vote(original: Any) -> Any:
    def returned(book: Any, txn: Any, argument: Any) -> None:
        _, report = argument
        if report is not None:
            report.early = False
        original(book, txn, argument)

    return returned


_scripted(
    "a report of a branch that was prepared early counts as a vote", "4", (C, (State.PREPARING, Input.RETURNED), _as_a_vote)
)


def _whoever_is_there(original: Any) -> Any:
    def presume(book: Any, participant: Any, transaction_id: str, order: int, peers: bytes = b"") -> None:
        done = book.finished.get(transaction_id)
        if done is not None:
            done.participants = (*done.participants, participant.name)
        original(book, participant, transaction_id, order, peers)

    return presume


_scripted("who is not part of a commit is told of it", "4", (arrivals, "presume", _whoever_is_there))


def _any_start(original: Any) -> Any:
    def name(book: Any, txn: Any, item: Any, vote: Any) -> Any:
        branch = txn.branches.get(item.participant)
        if branch is not None:
            branch.step = BranchStep.READY
        wrong = original(book, txn, item, vote)
        if vote is not None and wrong is not None and wrong.reason == "PARTICIPANT_RESTARTED":
            return None
        return wrong

    return name


_scripted("an early vote of a start that is gone is believed", "3", (deciding, "_name_branch", _any_start))


def _at_once(original: Any) -> Any:
    def last_call(m: Any, b: Any, e: Any) -> None:
        original(m, b, e)
        if b.early_tickets:
            m.ready.effects.append(EarlyVoted(e.ticket, b.operation_count, b.incarnation))
            b.early_tickets = b.early_tickets[:-1] or (object(),)

    return last_call


_mutant("an early vote is told before it is durable", "1", (T[P.ACTIVE], Kind.LAST_CALL, _at_once))


def _alone(original: Any) -> Any:
    def lost(m: Any, b: Any, e: Any) -> None:
        if b.early:
            finishing.lost(m, b, e)
        else:
            original(m, b, e)

    return lost


_mutant("who has voted early gives up by itself", "8", (T[P.PREPARED], Kind.ASK, _alone))


def _silent(original: Any) -> Any:
    def ask(m: Any, b: Any, e: Any) -> None:
        if b.order or not b.early:
            original(m, b, e)

    return ask


_mutant("who has voted early does not announce itself", "8", (T[P.PREPARED], Kind.ASK, _silent))
