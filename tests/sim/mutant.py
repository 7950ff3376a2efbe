"""What a mutant is: a small named patch, applied for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

Patch = tuple[Any, Any, Callable[[Any], Any]]
"""Where, what, and what to make of the original."""


@dataclass(frozen=True)
class Mutant:
    """One known-bad change."""

    name: str
    rule: str
    patches: tuple[Patch, ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The change, for as long as the block lasts."""
        with ExitStack() as stack:
            for where, what, change in self.patches:
                if isinstance(where, dict):
                    before = where.get(what)
                    where[what] = change(before)
                    stack.callback(_restore_item, where, what, before)
                else:
                    before = where.__dict__[what]
                    setattr(where, what, change(getattr(where, what)))
                    stack.callback(setattr, where, what, before)
            yield


def adder(mutants: list[Mutant]) -> Callable[..., None]:
    """A function that adds a mutant: its name, the rule or promise that it breaks, and its patches. No two have one name."""

    def add(name: str, rule: str, *patches: Patch) -> None:
        assert name not in {mutant.name for mutant in mutants}
        mutants.append(Mutant(name, rule, patches))

    return add


SCRIPTED: list[Mutant] = []
"""Those that a run would come to too seldom, or that harm no more than patience: transcripts alone catch them."""


def _restore_item(where: dict[Any, Any], what: Any, before: Any) -> None:
    if before is None:
        del where[what]
    else:
        where[what] = before


def to(value: Any) -> Callable[[Any], Any]:
    return lambda original: value


def nothing(*arguments: Any, **options: Any) -> None:
    """Do nothing."""
