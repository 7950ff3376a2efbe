"""What runs in one call of a service: none of it may still be open when the call is answered, and nothing may begin after that.

The answer tells whoever called how much was done, and brings the vote. What ended later would be told to nobody: it would be rolled
back behind a commit, after its handler had heard that it succeeded.
"""

from __future__ import annotations

import threading

from troth.errors import Reason, RequestError


class AtWork:
    """The operations and blocks of one call. Its handler may work in several threads."""

    __slots__ = ("_lock", "_open", "over")

    def __init__(self) -> None:
        self.over = False
        """Whether the call has been answered, or is being answered."""
        self._open = 0
        self._lock = threading.Lock()

    def begins(self) -> None:
        """An operation or a block begins. Raises `RequestError` (NO_CONTEXT) when the call is over."""
        with self._lock:
            if not self.over:
                self._open += 1
                return
        raise RequestError(
            Reason.NO_CONTEXT, "the call in which the branch was got has been answered: what it still did would not be counted",
            hint="Work with a branch before the handler ends, and not in a task, a body or a clean-up that goes on after it.",
        )  # fmt: skip

    def ends(self) -> None:
        """It has ended."""
        with self._lock:
            self._open -= 1

    def close(self) -> None:
        """The call is answered as one that went well. Raises `RequestError` (INVALID_ARGUMENT) when something has not ended."""
        with self._lock:
            if not self._open:
                self.over = True
                return
        raise RequestError(
            Reason.INVALID_ARGUMENT, "the call ended while an operation or a block of the branch was open: it would not be counted",
            hint="End it before the handler returns. A dependency of FastAPI that yields: Depends(..., scope='function').",
        )  # fmt: skip
