"""How a command ends when it fails: a message, a stable reason, and the exit code."""

from __future__ import annotations

from typing import Any

from troth.errors import LogError, Reason, TrothError

OK = 0
REFUSED = 1
USAGE = 2
LOG = 3
UNREACHABLE = 4
INTERRUPTED = 130


class Failure(Exception):
    """Ends the command with an exit code."""

    def __init__(self, exit_code: int, reason: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.reason = reason
        self.message = message
        self.hint = hint

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {"error": {"reason": self.reason, "message": self.message, "hint": self.hint}}

    def text(self) -> str:
        """For people."""
        return f"{self.reason}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class AlreadyTold(Failure):
    """A failure whose JSON is a part of what stdout has already."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.exit_code, failure.reason, failure.message, failure.hint)


def failure_of(error: TrothError) -> Failure:
    """The failure that an error is."""
    if error.reason in (Reason.CONFIG, Reason.PORT_TAKEN):  # of a log's address too
        code = USAGE
    elif isinstance(error, LogError):
        code = LOG
    else:
        code = REFUSED
    return Failure(code, error.reason.name, error.message, error.hint)
