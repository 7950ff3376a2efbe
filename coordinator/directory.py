"""The data directory: one daemon has it to itself.

    DIR/coordinator.db   the log
    DIR/address          where the daemon listens, while it does; written by an atomic rename
    DIR/address.lock     held (flock) while the daemon lives; the kernel lets go of it when the process dies
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from troth.log.files import FileLock, make_directory, read_only

LOG_FILE = "coordinator.db"
ADDRESS_FILE = "address"


class DataDirectory:
    """A locked data directory. Raises `LogError` when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FileLock | None = None

    @property
    def log_file(self) -> Path:
        """The log."""
        return self.path / LOG_FILE

    def log_bytes(self) -> int:
        """How large the log is, with its WAL."""
        size = 0
        for end in ("", "-wal"):
            with contextlib.suppress(OSError):
                size += (self.path / f"{LOG_FILE}{end}").stat().st_size
        return size

    def lock(self) -> None:
        """Make the directory if need be, and take it."""
        make_directory(self.path)
        # Earlier than the log's own lock, which comes with opening it: the address file must not be touched before.
        self._lock = FileLock(self.path / ADDRESS_FILE)

    def unlock(self) -> None:
        """Let go of the directory."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def write_address(self, address: str) -> None:
        """Tell others on this machine where the daemon listens."""
        waiting = self.path / f"{ADDRESS_FILE}.new"
        try:
            waiting.write_text(address + "\n", encoding="utf-8")
            waiting.replace(self.path / ADDRESS_FILE)
        except OSError as error:
            raise read_only(self.path, error) from error

    def remove_address(self) -> None:
        """Nobody listens any more, or not yet."""
        with contextlib.suppress(OSError):
            (self.path / ADDRESS_FILE).unlink(missing_ok=True)


def read_address(directory: Path) -> str:
    """Where the daemon of a data directory listens; empty when it does not say."""
    try:
        return (directory / ADDRESS_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
