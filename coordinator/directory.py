"""The data directory: one daemon has it to itself.

    DIR/lock             held (flock) while the daemon lives; the kernel lets go of it when the process dies
    DIR/coordinator.db   the log
    DIR/address          where the daemon listens, while it does; written by an atomic rename
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from troth.errors import LogError, LogFailed, LogLocked, Reason

LOG_FILE = "coordinator.db"
LOCK_FILE = "lock"
ADDRESS_FILE = "address"


class DataDirectory:
    """A locked data directory. Raises `LogError` when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def log_file(self) -> Path:
        """The log."""
        return self.path / LOG_FILE

    def lock(self) -> None:
        """Make the directory if need be, and take it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise LogLocked(
                Reason.LOG_LOCKED, f"{self.path} is in use by another coordinator",
                hint="Stop that one, or give this one a data_directory of its own.",
            ) from error  # fmt: skip
        self._lock = handle

    def unlock(self) -> None:
        """Let go of the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_address(self, address: str) -> None:
        """Tell others on this machine where the daemon listens."""
        waiting = self.path / f"{ADDRESS_FILE}.new"
        try:
            waiting.write_text(address + "\n", encoding="utf-8")
            waiting.replace(self.path / ADDRESS_FILE)
        except OSError as error:
            raise self._unusable(error) from error

    def remove_address(self) -> None:
        """Nobody listens any more, or not yet."""
        with contextlib.suppress(OSError):
            (self.path / ADDRESS_FILE).unlink(missing_ok=True)

    def _unusable(self, error: OSError) -> LogError:
        read_only = isinstance(error, PermissionError) or error.errno == 30  # EROFS
        reason = Reason.LOG_READ_ONLY if read_only else Reason.LOG_FAILED
        return LogFailed(
            reason, f"{self.path} cannot be used: {error.strerror}",
            hint="Make it a writable directory, or choose another data_directory.",
        )  # fmt: skip


def read_address(directory: Path) -> str:
    """Where the daemon of a data directory listens; empty when it does not say."""
    try:
        return (directory / ADDRESS_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
