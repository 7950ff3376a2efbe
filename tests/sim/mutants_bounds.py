"""Known-bad changes that keep what should be given back, or hear who may not speak: each grows until another epoch comes, or tells
a stranger what is not his.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.core import arrivals, hello, requests
from coordinator.core.book import Book
from coordinator.core.model import COMMIT_OWED, VOTE_OWED, BranchStep, State, Transaction
from coordinator.core.transitions import TABLE as C
from coordinator.core.transitions import Input
from participant_sdk.core import machine
from tests.sim.mutant import SCRIPTED, Mutant, adder
from troth.v1 import participant_pb2

BOUNDS: list[Mutant] = []
SETTLE_OWED = BranchStep.SETTLE_OWED

_scripted = adder(SCRIPTED)

_mutant = adder(BOUNDS)


# ---- what should be given back


def _without_order(original: Callable[..., None]) -> Callable[..., None]:
    def vote(book: Book, participant: Any, what: participant_pb2.Vote) -> None:
        bare = participant_pb2.Vote()
        bare.CopyFrom(what)
        bare.order = 0
        original(book, participant, bare)

    return vote


def _as_of_another_epoch(original: Callable[..., None]) -> Callable[..., None]:
    def settle_for(book: Book, event: Any) -> None:
        epoch, book.epoch = book.epoch, book.epoch + 1
        try:
            original(book, event)
        finally:
            book.epoch = epoch

    return settle_for


def _not_overtaken(original: Callable[..., None]) -> Callable[..., None]:
    def index(self: machine.Machine, branch: Any) -> None:
        original(self, branch)
        self.overtaken.clear()

    return index


_scripted(
    "an ABORT that crosses a YES leaves a tombstone that this epoch never forgets", "19, bounds",
    (arrivals._HEARD, participant_pb2.Vote, _without_order),
)  # fmt: skip
_mutant(
    "a branch that finishes behind its watermark waits for another one", "19, bounds",
    (machine.Machine, "index", _not_overtaken),
)  # fmt: skip
_mutant(
    "a question leaves a tombstone that this epoch never forgets", "19, bounds",
    (requests, "_settle_for", _as_of_another_epoch),
)  # fmt: skip

# ---- who may


def _whoever(original: Callable[..., None]) -> Callable[..., None]:
    """Who has no branch is taken for the next one who has."""

    def hear(book: Book, txn: Transaction, argument: Any) -> None:
        participant, what = argument
        owing = [branch.participant for branch in txn.branches.values() if branch.step in (VOTE_OWED, COMMIT_OWED, SETTLE_OWED)]
        if participant.name not in txn.branches and owing:
            participant = owing[0]
        original(book, txn, (participant, what))

    return hear


_mutant("a vote counts, whoever gives it", "2, who may", (C, (State.PREPARING, Input.VOTE), _whoever))
# A stranger's word comes at the right moment in one of some thousand runs: these two are left to their transcript.
_scripted("a one-phase commit is believed, whoever tells it", "2, who may", (C, (State.HANDED_OVER, Input.VOTE), _whoever))
_scripted("an acknowledgement counts, whoever gives it", "14, who may", (C, (State.COMMITTING, Input.ACKNOWLEDGED), _whoever))
_mutant("a settlement counts, whoever gives it", "7, who may", (C, (State.SETTLING, Input.SETTLED), _whoever))

# ---- numbers that nobody can have reached

_scripted("an incarnation may jump", "9", (hello, "implausible", lambda original: lambda book, known, said: None))
