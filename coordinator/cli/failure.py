"""How a command ends when it fails: a message, a stable reason, and the exit code."""

from __future__ import annotations

from troth.errors import ConfigError, LogError, Reason, TrothError

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

    def text(self) -> str:
        """For people."""
        return f"{self.reason}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def failure_of(error: TrothError) -> Failure:
    """The failure that an error is."""
    if isinstance(error, LogError):
        code = LOG
    elif isinstance(error, ConfigError) or error.reason is Reason.PORT_TAKEN:
        code = USAGE
    else:
        code = REFUSED
    return Failure(code, error.reason.name, error.message, error.hint)
