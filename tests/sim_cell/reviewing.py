"""Orders of operators that wait for a second person: they go with their shard to whoever has it next, and are taken once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from tests.sim.operators import WHO
from troth.v1 import record_pb2

if TYPE_CHECKING:
    from tests.sim_cell.operators import CellOperators

FOR_EVER_MS = 2**60
TAKERS = 3
"""How often somebody tries to take one, at different times."""


class Reviewing:
    """What waits, as operators were told, and what came of it."""

    def __init__(self, operators: CellOperators) -> None:
        self._operators = operators
        self.world, self.cell = operators.world, operators.cell
        self.waiting: dict[str, record_pb2.Review] = {}
        """What an operator was told waits, and nobody was told to have taken."""
        self.unclear: set[str] = set()
        """What somebody has tried to take, and has heard nothing."""
        self.taken: set[str] = set()
        self._trying: Counter[str] = Counter()
        """How many are just now trying to take an order: one of them may have it, and not have heard so."""
        self._number = 0

    def put(self, own: Random, shard: str, request: Any) -> None:
        """Have an order wait, and let others take it in a while. It is named anew each time, so nobody asks again."""
        self._number += 1
        review = record_pb2.Review(
            review=f"{shard}-{self._number:08x}", kind=request.DESCRIPTOR.name, request=request.SerializeToString(), asker=WHO,
            until_ms=FOR_EVER_MS,
        )  # fmt: skip
        self._once(own, review, partial(self._was_put, own, review, request))

    def _was_put(self, own: Random, review: record_pb2.Review, request: Any, answer: Any) -> None:
        if answer is not None and not answer.review:
            return  # there is no room
        if answer is not None:
            self.world.reach("operator was told that an order waits")
            if review.review not in self.taken:
                self.waiting[review.review] = review
        for _ in range(TAKERS):
            self.world.after(own.uniform(0.05, 2.5), self._take, own, review.review, request)

    def _take(self, own: Random, name: str, request: Any) -> None:
        self._trying[name] += 1
        self._once(own, record_pb2.Review(review=name, over=True), partial(self._was_taken, own, name, request))

    def _was_taken(self, own: Random, name: str, request: Any, answer: Any) -> None:
        self._trying[name] -= 1
        if self._operators.judge.loses:
            return
        if answer is None:
            self.unclear.add(name)
            self.waiting.pop(name, None)
        elif not answer.review:
            if name in self.waiting and not self._trying[name]:
                self._operators.judge.find(f"{name} was told to wait, nobody has taken it, and it waits nowhere")
        elif name in self.taken:
            self._operators.judge.find(f"the order {name} was taken twice")
        else:
            self.world.reach("a second person took an order that waited")
            if answer.request != request.SerializeToString() or answer.asker != WHO:
                self._operators.judge.find(f"the order {name} is another one than was asked for: {answer}")
            self.taken.add(name)
            self.waiting.pop(name, None)
            self._operators.ask(own, request)

    def judge(self) -> Iterator[str]:
        """What was told to wait, and is taken by nobody, waits at whoever has the shard at last."""
        there = {one.review for owner in self._operators.owners() for one in owner.core.reviews()}
        for name in sorted(set(self.waiting) - there):
            yield f"told is true to operators: {name} was told to wait, nobody has taken it, and it waits nowhere"

    def _once(self, own: Random, review: record_pb2.Review, told: Callable[[Any], None]) -> None:
        """By any node, and not again."""

        def heard(answer: Any) -> None:
            self.world.say("op", f"Review {review}: {answer}")
            told(answer)

        self._operators.desk.ask(own.choice(sorted(self.cell.nodes)), review, heard)
