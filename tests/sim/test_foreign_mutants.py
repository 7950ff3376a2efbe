"""Known-bad changes of what is said of transactions whose decision nobody here knows, each of one line of the source.

A run comes to these too seldom, or the simulator's one coordinator cannot: their tests must see them.
"""

# ruff: noqa: E501 - a change stands on one line, as it stands in the source

from __future__ import annotations

import os
import sys

import pytest

from tests.mutated import VARIABLE, SourceMutant, main, survivors

pytestmark = pytest.mark.skipif(VARIABLE in os.environ, reason="a mutant's own run does not begin others")

HERE = [
    SourceMutant(name, file, old, new, tests)
    for name, file, old, new, tests in (
        (
            "how people ended what is being proven is dropped", "coordinator/core/proving.py",
            "        _say_again(book, txn, by_hand)", "        pass",
            ("tests/coordinator_core/test_proving.py",),
        ),
        (
            "who was ended by hand is not told a commit that is proven since", "coordinator/core/proving.py",
            "if branch.step is DISPROVES or branch.participant.name in by_hand:", "if branch.step is DISPROVES:",
            ("tests/coordinator_core/test_proving.py",),
        ),
        (
            "who was ended by hand is not told an abort that is proven since", "coordinator/core/proving.py",
            "in (*in_doubt, *(txn.branches[name] for name in by_hand)):", "in in_doubt:",
            ("tests/coordinator_core/test_proving.py",),
        ),
        (
            "what people have begun to settle is proven besides", "coordinator/core/proving.py",
            "    return not known and transaction_id", "    return transaction_id",
            ("tests/coordinator_core/test_foreign.py",),
        ),
        (
            "the unknown is told as ABORT to whoever is in doubt beside it", "coordinator/core/arrivals.py",
            "    if txn.state is State.HEURISTIC and decision(book, txn) is None:\n        cannot_tell", "    if False:\n        cannot_tell",
            ("tests/coordinator_core/test_foreign.py",),
        ),
        (
            "whoever has ended it and lists it in doubt again is passed over", "coordinator/core/arrivals.py",
            "        elif txn.state is State.HEURISTIC and decision(book, txn) is None:", "        elif False:",
            ("tests/coordinator_core/test_foreign.py",),
        ),
        (
            "what earlier software took for aborted stays so", "coordinator/core/verdict.py",
            "        if not (read.decision or read.commit_decided or its_own):", "        if False:",
            ("tests/coordinator_core/test_verdict.py",),
        ),
        (
            "what earlier software had forgotten as aborted is told", "coordinator/core/recovery.py",
            "                forgotten.outcome = outcome_decided(reports)", "                pass",
            ("tests/coordinator_core/test_foreign.py",),
        ),
        (
            "a commit by hand is never of a commit that was dropped", "coordinator/core/phase_two.py",
            "    return False if book.may_presume(parsed) and not book.dropped.covers(parsed) else None", "    return False if book.may_presume(parsed) else None",
            ("tests/coordinator_core/test_foreign.py",),
        ),
        (
            "a rollback by hand may be of a commit that was dropped", "coordinator/core/late.py",
            "        return end == common_pb2.OUTCOME_ABORTED and book.may_presume", "        return False and book.may_presume",
            ("tests/coordinator_core/test_foreign.py",),
        ),
        (
            "a key that may be lost was never decided", "coordinator/core/phase_two.py",
            "    return False if book.may_presume(TransactionId.parse(txn.id)) and not alone else None", "    return False",
            ("tests/coordinator_core/test_foreign.py",),
        ),
    )
]  # fmt: skip


def test_those_of_one_line_are_caught() -> None:
    assert survivors(HERE) == []


if __name__ == "__main__":
    sys.exit(main(HERE))
