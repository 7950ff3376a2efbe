"""A case: one rule of protos/README.md, and what shows whether a participant keeps it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.conform.peer import Peer

REFUSES = "refuses"
READS = "reads"
RESTART = "restart"
CALLS = "calls"
SLOW = "slow"
PARKS = "parks"
NEEDS = {
    REFUSES: "an operation that refuses (--refuses)",
    READS: "an operation that reads what the work changes (--reads)",
    CALLS: "a method of the participant's own API that runs an operation inside a transaction (--calls)",
    SLOW: "an operation that takes its time (--slow)",
    PARKS: "an operation that cannot be rolled back (--parks)",
    RESTART: "a way to kill and restart the participant (--run, or --restart)",
}
"""What a case may need besides an operation that changes something, and how to give it."""


class Broken(Exception):
    """The participant does not keep the rule of the case; the text says what it did."""


def expect(kept: bool, otherwise: str) -> None:
    """Raise `Broken` unless the rule is kept."""
    if not kept:
        raise Broken(otherwise)


@dataclass(frozen=True, slots=True)
class Case:
    """One rule, and its proof."""

    name: str
    rule: str
    """What must be, in the words of protos/README.md."""
    run: Callable[[Peer], Awaitable[None]]
    """Returns when the rule is kept, and raises `Broken` otherwise."""
    needs: frozenset[str] = field(default_factory=frozenset)


CASES: list[Case] = []
"""All cases, in the order in which they are run; the modules that have them add them."""


def case(name: str, *needs: str) -> Callable[[Callable[[Peer], Awaitable[None]]], Callable[[Peer], Awaitable[None]]]:
    """Add a function to the cases; its docstring is the rule."""

    def register(run: Callable[[Peer], Awaitable[None]]) -> Callable[[Peer], Awaitable[None]]:
        assert run.__doc__
        add(Case(name, " ".join(run.__doc__.split()).removesuffix("."), run, frozenset(needs)))
        return run

    return register


def add(one: Case) -> None:
    """Add a case."""
    assert one.name not in {other.name for other in CASES}, one.name
    CASES.append(one)
