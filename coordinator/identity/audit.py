"""The audit log: what was decided about people and identities, in files to which entries are only ever added.

    audit-000000000001.jsonl     named by its first entry; a new one is begun when this has `audit_file_bytes`
    audit.lock                   held by whoever writes: two chains in one directory would be none

With a retention a new file is begun each day too, and files are dropped whole once all of their entries are older. The entry
`dropped` says through which entry, and what that one's hash was: so `verify` knows a log that was shortened by its keeper from
one that lost its beginning otherwise.

What operators ask for is in it before it is done, durably, and then what came of it. Refusals are in it, so many of a kind at a
time. Arguments, results, keys and tokens are never in it. How it is chained and signed is in `chain`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from coordinator.identity.chain import CHECKPOINT, DROPPED, FIRST, Signer, canonical, checkpoint, linked
from troth.errors import ConfigError, LogFailed, Reason
from troth.identity.peer import Identity
from troth.logs import get_logger

log = get_logger("troth.audit")

PREFIX, SUFFIX, LOCK = "audit-", ".jsonl", "audit.lock"
CHECKPOINT_ENTRIES = 100
"""After so many entries a checkpoint follows."""
REFUSALS_MAX, REFUSALS_SECONDS = 20, 10.0
"""Refusals of one identity that are written in an interval; the next one that is written says how many were not."""
IDENTITIES_MAX = 1_000
"""Identities whose refusals are counted apart in an interval; those of all others count together."""
TEXT_CHARACTERS_MAX = 300
"""Of what comes from a peer."""


def files_of(directory: Path) -> list[Path]:
    """The files of an audit log, in order."""
    return sorted(directory.glob(f"{PREFIX}*{SUFFIX}"))


def lines_of(directory: Path) -> Iterator[bytes]:
    """All entries of an audit log. Raises `ConfigError` where there is none."""
    files = files_of(directory)
    if not files:
        raise ConfigError(f"{directory} has no audit log", hint="Name the directory: `audit` in the data directory by default.")
    for path in files:
        with path.open("rb") as file:
            yield from file


def read_signer(path: str) -> Signer:
    """The key that signs checkpoints. Raises `ConfigError`."""
    from coordinator.identity.audit_keys import read_private

    return read_private(path)


class Audit:
    """An audit log that is written. Making it raises `ConfigError`, or `LogFailed` when it cannot be written."""

    def __init__(
        self, directory: Path, chain: str, bytes_max: int, signer: Signer | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC), retention_seconds: float = 0.0,
    ) -> None:  # fmt: skip
        self._retention_seconds = retention_seconds
        self._directory, self._chain, self._bytes_max, self._signer, self._now = directory, chain, bytes_max, signer, now
        self._seq, self._prev, self._since_checkpoint = 0, FIRST, 0
        self._refusals: dict[str, int] = {}
        self._refusals_began = 0.0
        self._left_out = 0
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _locked(directory)
        try:
            torn = self._find_end()
            self._path, self._file = self._open()
            self._day = _day_of(self._path) or self._time()[:10]
            self.write("began", chain=chain, cut_bytes=torn)
            self._drop_old()
        except BaseException:
            os.close(self._lock)
            raise

    def write(self, kind: str, *, durable: bool = False, **fields: Any) -> None:
        """Add an entry. Raises `LogFailed`."""
        self._add(linked({"at": self._time(), "kind": kind, **_cut(fields)}, self._seq + 1, self._prev))
        self._since_checkpoint += 1
        if self._since_checkpoint >= CHECKPOINT_ENTRIES:
            self.checkpoint()
        if durable:
            self._sync()
        another_day = bool(self._retention_seconds) and self._time()[:10] != self._day
        if another_day or os.fstat(self._file.fileno()).st_size >= self._bytes_max:
            self._rotate()

    def refused(self, identity: Identity, action: str, object_name: str, why: str) -> None:
        """Add a refusal, if there were not too many. One that cannot be written is told in the daemon's log, and refused all
        the same."""
        now = self._now().timestamp()
        if now - self._refusals_began >= REFUSALS_SECONDS:
            self._refusals, self._refusals_began = {}, now
        name = identity.name if identity.name in self._refusals or len(self._refusals) < IDENTITIES_MAX else ""
        self._refusals[name] = count = self._refusals.get(name, 0) + 1
        if count > REFUSALS_MAX:
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        try:
            self.write("refused", **who(identity), action=action, object=object_name, why=why, left_out=left_out)
        except LogFailed as error:
            log.error("the audit log cannot be written", error=error.message)

    def checkpoint(self) -> None:
        """Sign how far it is; nothing without a key."""
        self._since_checkpoint = 0
        if self._signer is not None:
            self._add(checkpoint(self._chain, self._time(), self._seq + 1, self._prev, self._signer))
            self._sync()

    def close(self) -> None:
        """End it."""
        try:
            self.write("ended", left_out=self._left_out)
            self.checkpoint()
            self._sync()
        finally:
            self._file.close()
            os.close(self._lock)

    # ---- files

    def _find_end(self) -> int:
        """Where the chain goes on; returns how many bytes of an entry were cut that a crash has left unfinished."""
        files = files_of(self._directory)
        if not files:
            return 0
        content = files[-1].read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(files[-1], len(whole))
        last = (whole or b"".join(path.read_bytes() for path in files[-2:-1])).splitlines()
        if not last and files[-1] != self._file_of(1):
            text = f"{files[-1]} has no entry, and the file before it is not there: nobody can say what it goes on from"
            raise ConfigError(text, hint="Put the last file back that was put away; or put this one away too, to begin anew.")
        if last:
            try:
                entry = json.loads(last[-1])
                self._seq, self._prev = int(entry["seq"]), str(entry["hash"])
            except (ValueError, KeyError, TypeError) as error:
                text, hint = f"{files[-1]} ends with what is no entry", "See `troth audit verify`; put it aside to begin anew."
                raise ConfigError(text, hint=hint) from error
        return len(content) - len(whole)

    def _open(self) -> tuple[Path, Any]:
        files = files_of(self._directory)
        return self._opened(files[-1] if files else self._file_of(self._seq + 1))

    def _opened(self, path: Path) -> tuple[Path, Any]:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)
        self._sync_directory()  # what is durable in a file that nobody can find is lost all the same
        return path, file

    def _file_of(self, seq: int) -> Path:
        return self._directory / f"{PREFIX}{seq:012}{SUFFIX}"

    def _rotate(self) -> None:
        self.checkpoint()
        self._sync()
        before = self._file
        self._path, self._file = self._opened(self._file_of(self._seq + 1))
        before.close()
        self._day = self._time()[:10]
        self._drop_old()

    def _drop_old(self) -> None:
        """Drop the files whose entries are all older than the retention; never the newest, nor the one before it, from which the
        newest may have to go on. That they go is durable before they do."""
        if not self._retention_seconds:
            return
        until = (self._now() - timedelta(seconds=self._retention_seconds)).astimezone(UTC).isoformat(timespec="milliseconds")
        files = files_of(self._directory)
        old: list[Path] = []
        last: dict[str, Any] = {}
        for path in files[:-2]:
            entry = json.loads(path.read_bytes().splitlines()[-1])
            if str(entry["at"]) >= until:
                break
            old.append(path)
            last = entry
        if not old:
            return
        self._add(linked({"at": self._time(), "kind": DROPPED, "through": last["seq"], "through_hash": last["hash"]},
                         self._seq + 1, self._prev))  # fmt: skip
        self.checkpoint()
        self._sync()
        for path in old:
            path.unlink()
        self._sync_directory()

    def _add(self, entry: dict[str, Any]) -> None:
        line = canonical(entry) + b"\n"
        before = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(before)  # half an entry would look like damage
            raise _failed(self._path, error) from error
        self._seq, self._prev = entry["seq"], entry["hash"]

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _failed(self._path, error) from error

    def _sync_directory(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        except OSError as error:
            raise _failed(self._directory, error) from error
        finally:
            os.close(directory)

    def _time(self) -> str:
        return self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _locked(directory: Path) -> int:
    """Have the directory to ourselves until the descriptor is closed. Raises `ConfigError`."""
    lock = os.open(directory / LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        hint = "Each daemon, and each node of a cell, needs an audit_directory of its own."
        raise ConfigError(f"{directory} is written by another process", hint=hint) from None
    return lock


def _day_of(path: Path) -> str:
    """The day of a file's first entry; empty while it has none."""
    with path.open("rb") as file:
        line = file.readline()
    return str(json.loads(line)["at"])[:10] if line else ""


def who(identity: Identity) -> dict[str, Any]:
    """Who, and what says so."""
    return {"who": str(identity), "shown_by": identity.shown_by}


def request_id() -> str:
    """What ties the entries of one request together."""
    return secrets.token_hex(8)


def is_checkpoint(entry: Any) -> bool:
    """Whether an entry is one."""
    return isinstance(entry, dict) and entry.get("kind") == CHECKPOINT


def _failed(path: Path, error: OSError) -> LogFailed:
    return LogFailed(Reason.LOG_FAILED, f"the audit log {path} cannot be written: {error.strerror}")


def _cut(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value[:TEXT_CHARACTERS_MAX] if isinstance(value, str) else value
        for name, value in fields.items() if value not in ("", None, 0)
    }  # fmt: skip
