"""Why a transaction is where it is, who owes what, what comes next, and what forcing it would do."""

from __future__ import annotations

from google.protobuf.message import Message

from coordinator.core import blocking, listing, words
from coordinator.core.book import Book
from coordinator.core.model import Branch, BranchStep, Participant, State, Transaction
from coordinator.core.timeline import moments_of, timeline_of
from troth.errors import RequestError
from troth.ids import TransactionId
from troth.v1 import admin_pb2

NOTHING_NEXT = "Nothing; it is over."
_ASKED = (BranchStep.VOTE_OWED, BranchStep.COMMIT_OWED, BranchStep.SETTLE_OWED)


def explain(book: Book, request: admin_pb2.ExplainRequest) -> Message:
    """Answer an operator who asks about one transaction. Of one that is not known there is no summary."""
    name = request.transaction_id
    txn = book.live.get(name)
    stranded = [one for one in book.participants.values() if name in one.stranded]
    if txn is not None:
        if txn.state is State.PROVING:
            stranded = []  # of those its own words tell
        row = listing.summary(book, name, txn)
        row.timeline.CopyFrom(timeline_of(moments_of(txn, book.now), book.clock_ms))
        return admin_pb2.ExplainResponse(
            summary=row,
            explanation=words.state_words(txn) + _and_stranded(book, name, stranded),
            next=words.next_words(txn, max(0.0, txn.deadline - book.now.monotonic)),
            if_forced=[*words.if_forced(txn), *_if_stranded_forced(stranded)],
            branches=[_branch(book, txn, branch) for branch in txn.branches.values()],
        )
    done = book.finished.get(name)
    if done is None and stranded:
        return _stranded(book, name, stranded)
    if done is None:
        return admin_pb2.ExplainResponse(explanation=unknown_words(book, name))
    return admin_pb2.ExplainResponse(
        summary=listing.summary(book, name, done),
        explanation=words.finished_words(done) + _and_stranded(book, name, stranded),
        next=NOTHING_NEXT,
        if_forced=_if_stranded_forced(stranded),
    )


def _and_stranded(book: Book, name: str, stranded: list[Participant]) -> str:
    """Who is in doubt beside those that people have settled by hand."""
    if not stranded:
        return ""
    names = words.listed(one.name for one in stranded)
    return f" Still in doubt, with their locks: {names}. That is settled by hand as well.{_held_up_by(book, name, stranded)}"


def _if_stranded_forced(stranded: list[Participant]) -> list[str]:
    return [f"commit or abort with --participant {one.name}: that branch ends so; who and why are kept" for one in stranded]


def _stranded(book: Book, name: str, stranded: list[Participant]) -> Message:
    """Branches in doubt about which this log can say nothing."""
    who = words.listed(one.name for one in stranded)
    who += f" is in doubt about {name}, and keeps its" if len(stranded) == 1 else f" are in doubt about {name}, and keep their"
    return admin_pb2.ExplainResponse(
        explanation=f"{who} locks. This coordinator's log can say nothing of it: another log began it, this one was put back "
        f"since, or its own was replaced, and the one before may have decided it alone.{_held_up_by(book, name, stranded)}",
        next="Nothing happens by itself: find out how it ended elsewhere.",
        if_forced=_if_stranded_forced(stranded),
    )


def _held_up_by(book: Book, name: str, stranded: list[Participant]) -> str:
    return "".join(_held_up(one, blocking.of_branch(book, one, name)) for one in stranded)


def _held_up(participant: Participant, blocks: admin_pb2.BranchBlocks | None) -> str:
    return f" {participant.name} says: {words.blocks_words(blocks)}" if blocks is not None else ""


def _branch(book: Book, txn: Transaction, branch: Branch) -> admin_pb2.BranchExplanation:
    participant = branch.participant
    due = book.timers.due(txn.id)
    asked = branch.step in _ASKED and participant.ready and due is not None
    blocks = blocking.of_branch(book, participant, txn.id)
    return admin_pb2.BranchExplanation(
        participant=participant.name,
        state=branch.step.value,
        connected=participant.ready,
        next_try_seconds=max(0.0, due - book.now.monotonic) if asked and due is not None else -1.0,
        explanation=words.branch_words(txn, branch, participant.ready) + _held_up(participant, blocks),
        blocks=blocks,
    )


def unknown_words(book: Book, name: str) -> str:
    """Why nothing is known of an id, which never means aborted by itself."""
    nothing = f"Nothing is known of {name}"
    try:
        parsed = TransactionId.parse(name)
    except RequestError as error:
        return f"{nothing}: {error.message}."
    if parsed.coordinator != book.coordinator:
        return f"{nothing}: it is of the coordinator {parsed.coordinator!r}, and this is {book.coordinator!r}. Ask there."
    if parsed.epoch > book.epoch:
        return f"{nothing}: its epoch {parsed.epoch} has not begun; this log is at {book.epoch}. Is it an old copy?"
    if not book.may_have_begun(parsed):
        return f"{nothing}: it has not begun here."
    return (
        f"{nothing}: it was refused, was undecided when the coordinator stopped and so aborted, or is older than what is kept. "
        "A participant that is in doubt about it and asks is told ABORT."
    )
