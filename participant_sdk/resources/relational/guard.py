"""What an operation gets of its branch's connection: all of it, but for what ends the transaction or outlives it.

The driver's own objects are given to operations, so that everything that knows the driver works with them. For the time of an
operation the methods that would end the transaction say why they do not, and each statement is read before it is sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, TypeVar

from troth.errors import Reason, RequestError

KEPT_CHARACTERS_MAX = 4096
"""Of a statement whose reading is remembered."""
ENDS, LEAKS = "the coordinator's decision ends the transaction", "it outlives the transaction"


Read = TypeVar("Read", str, bool)


def remembered(read: Callable[[str], Read]) -> Callable[[str], Read]:
    """A reader that remembers what it said of short texts."""
    kept = lru_cache(1024)(read)
    return lambda text: kept(text) if len(text) <= KEPT_CHARACTERS_MAX else read(text)


class BranchGuard(ABC):
    """Remembers what was refused: whoever catches the refusal and goes on has still lost his branch."""

    def __init__(self) -> None:
        self.denial: RequestError | None = None
        self.fatal: BaseException | None = None
        """A statement's error after which the branch cannot be prepared, whoever caught it."""
        self.over = False
        """Whether the operation has ended: what a library says to clean up after it is then not said to the server."""

    def deny(self, what: str) -> RequestError:
        """The refusal, to be raised."""
        self.denial = RequestError(Reason.FORBIDDEN_SQL, what)
        return self.denial

    def method(self, name: str, why: str, *, asynchronous: bool) -> Callable[..., Any]:
        """What stands in for a method that an operation must not call."""

        def refuse(*arguments: Any, **options: Any) -> Any:
            if self.over or self.harmless(name):
                return _nothing() if asynchronous else None
            raise self.deny(f"{name}() in a transaction of the coordinator: {why}")

        return refuse

    def harmless(self, name: str) -> bool:
        """Whether a method may be called, and does nothing: libraries clean up after an error, and raise that."""
        return name == "rollback" and self.failed()

    @abstractmethod
    def failed(self) -> bool:
        """Whether nothing is left of the transaction, so that libraries may roll back."""

    @abstractmethod
    def on(self, connection: Any) -> AbstractContextManager[None]:
        """Guard a connection for the time of the block."""


async def _nothing() -> None:
    """What `commit()` and the like of an asynchronous connection return."""
