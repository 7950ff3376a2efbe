"""The regression guard: what a transaction costs in messages, records, syncs, calls and memory. No clock is read.

The limits of calls and bytes stand a little above what was measured when they were set; a change that needs more says so by
raising them.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from tests.bench.pair import Pair

BATCH = 128
PYTHON_CALLS_MAX = 400
"""Calls of Python functions a transaction, at the coordinator and both participants together."""
C_CALLS_MAX = 325
"""Calls of built-in functions likewise."""
COORDINATOR_BYTES_MAX = 2048
"""Python objects of one open transaction with two participants; the messages that they refer to are not traced."""


def counted(work: Callable[[], None]) -> Counter[str]:
    """How many calls of Python functions (`call`) and of built-in ones (`c_call`) a piece of work makes."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        calls[event] += 1

    before = sys.getprofile()
    gc.collect()
    gc.disable()  # what others have left in this process is collected at some time, and its finalizers are calls, too
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


@pytest.mark.parametrize("batch", [1, 16, 128])
def test_messages_forced_records_and_syncs_are_exact(batch: int) -> None:
    pair = Pair()
    before = pair.counts()
    pair.run(batch)
    counts = pair.counts() - before
    # 4n messages and 1 + 2n forced records a transaction; two syncs a participant and one of the coordinator a batch.
    assert counts == {"messages": 8 * batch, "forced": 5 * batch, "syncs": 5}
    assert len(pair.answers) == batch


@pytest.mark.parametrize("batch", [1, 128])
def test_an_interactive_transaction_says_no_more_than_a_one_shot(batch: int) -> None:
    pair = Pair()
    before = pair.counts()
    pair.begin_interactive(batch)
    pair.finish()
    assert pair.counts() - before == {"messages": 8 * batch, "forced": 5 * batch, "syncs": 5}
    assert pair.said == {"Vote": 2 * batch, "Acknowledgement": 2 * batch}, "nobody enlists"
    assert len(pair.answers) == batch, "with the commit and its answer: 10 messages, and 16 before enlisting was deferred"


@pytest.mark.parametrize("batch", [1, 128])
def test_early_votes_leave_phase_two_alone(batch: int) -> None:
    pair = Pair()
    before = pair.counts()
    pair.begin_interactive(batch, last=True)
    pair.finish()
    counts = pair.counts() - before
    assert (counts["messages"], counts["forced"]) == (4 * batch, 5 * batch)
    assert pair.said == {"Acknowledgement": 2 * batch}, "nobody is asked for a vote"
    assert len(pair.answers) == batch, "with the commit and its answer: 6 messages"


def test_a_transaction_makes_no_more_calls_than_before() -> None:
    pair = Pair()
    pair.run(BATCH)
    calls = counted(lambda: pair.run(BATCH))
    assert calls["call"] / BATCH <= PYTHON_CALLS_MAX
    assert calls["c_call"] / BATCH <= C_CALLS_MAX


def test_the_cost_of_a_transaction_does_not_grow_with_the_batch_or_with_history() -> None:
    pair = Pair()
    pair.run(BATCH)

    def cost(batch: int) -> float:
        return counted(lambda: pair.run(batch))["call"] / batch

    early = cost(BATCH)
    for _ in range(20):
        pair.run(BATCH)
    assert cost(BATCH) <= early * 1.01
    assert cost(8 * BATCH) <= early * 1.01


def test_an_open_transaction_takes_little_memory_at_the_coordinator() -> None:
    pair = Pair()
    pair.run(BATCH)
    count = 2000
    gc.collect()
    tracemalloc.start()
    try:
        pair.begin(count)
        for member in pair.members.values():
            member.wire.clear()  # what is in the outbox belongs to the stream
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / count <= COORDINATOR_BYTES_MAX
