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


def _restore_item(where: dict[Any, Any], what: Any, before: Any) -> None:
    if before is None:
        del where[what]
    else:
        where[what] = before


def to(value: Any) -> Callable[[Any], Any]:
    return lambda original: value


def nothing(*arguments: Any, **options: Any) -> None:
    """Do nothing."""
