"""Known-bad changes after which a log that went back in time is not found out, or one that did not is taken for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.core import hello
from coordinator.core.book import Book
from participant_sdk.core import machine
from participant_sdk.core.coordinators import Coordinators
from tests.sim import process
from tests.sim.mutant import SCRIPTED, Mutant, adder, to
from troth.lives import Lives

BACK: list[Mutant] = []

_mutant = adder(BACK)
_scripted = adder(SCRIPTED)


def _in_memory_alone(original: Any) -> Any:
    """What is heard is forgotten with the process."""

    def hear(self: Book, participant: Any, position: int) -> None:
        participant.heard = position

    return hear


def _without_heard(original: Callable[..., Any]) -> Callable[..., Any]:
    def append(self: machine.Machine, record: Any, *arguments: Any, **options: Any) -> None:
        original(self, record, *arguments, **options)
        record.heard = 0

    return append


def _with_the_tail(original: Any) -> Any:
    return property(lambda self: self.disk.next_seq - 1)


def _whoever_asks(original: Callable[..., Any]) -> Callable[..., Any]:
    def may_presume(self: Book, parsed: Any) -> bool:
        return self.began(parsed)

    return may_presume


def _lives_alone(original: Callable[..., Any]) -> Callable[..., Any]:
    def lacks(self: Lives, number: int, nonce: str, position: int) -> bool:
        return not self.began(number, nonce)

    return lacks


def _starts_alone(original: Callable[..., Any]) -> Callable[..., Any]:
    def what_it_lost(known: Any, said: Any, position: int) -> str:
        heard, known.heard = known.heard, 0
        try:
            return str(original(known, said, position))
        finally:
            known.heard = heard

    return what_it_lost


_mutant("positions of the coordinator's log are not compared", "21", (Lives, "lacks", _lives_alone))
_mutant("positions of a participant's log are not compared", "21", (hello, "_what_it_lost", _starts_alone))
_mutant("lives of the coordinator's log are trusted", "21", (Lives, "lacks", to(lambda self, number, nonce, position: False)))
_mutant("starts of a participant's log are trusted", "21", (hello, "_what_it_lost", to(lambda known, said, position: "")))
_mutant(
    "an incarnation is taken for a process", "21",
    (hello, "_what_it_lost", to(lambda known, said, position: "")), (hello, "_not_its_own", to(lambda known, event: None)),
)  # fmt: skip
_mutant("a position is told before it is durable", "21", (process.Process, "position", _with_the_tail))
_mutant("the coordinator does not write down how far it has heard", "21", (Book, "hear", _in_memory_alone))
_mutant("a participant does not write down how far it has heard", "21", (machine.Machine, "append", _without_heard))
# The run ends soon after a log went back: this one a run comes to too seldom.
_scripted("of what is known to be lost abort is presumed", "21", (Book, "may_presume", _whoever_asks))
_mutant(
    "a log of another id is followed", "21",
    (Coordinators, "check", to(lambda self, said: True)), (hello, "_knows_better", to(lambda book, event: None)),
)  # fmt: skip
