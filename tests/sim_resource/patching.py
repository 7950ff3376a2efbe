"""What the mutants of this level are made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def before(extra: Callable[..., None]) -> Callable[[Any], Any]:
    """The original, with something done first."""

    def change(original: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            extra(*arguments)
            return original(*arguments, **options)

        return changed

    return change


def after(extra: Callable[..., None]) -> Callable[[Any], Any]:
    """The original, with something done afterwards."""

    def change(original: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            answer = original(*arguments, **options)
            extra(*arguments)
            return answer

        return changed

    return change
