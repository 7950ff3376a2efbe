"""Putting a backup back: what is checked before, and what it means.

Nothing is ever replaced that is in use, or that has as much as the backup. What is damaged or older is moved aside, not deleted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.backup import copying
from coordinator.backup.manifest import HISTORY, Backup, Entry
from coordinator.directory import DataDirectory
from troth.errors import LogDamaged, LogError, LogForeign, Reason
from troth.log import files, offline

COORDINATOR = "coordinator"


@dataclass(frozen=True, slots=True)
class Step:
    """What is done with one file."""

    entry: Entry
    target: Path
    there: str
    """`nothing`, `older`, `damaged`, or `kept`: then nothing is done."""
    lost: tuple[str, ...] = ()
    """Commits that a damaged log tells, which is moved aside, and the backup does not have."""


def plan(backup: Backup, directory: Path | None) -> tuple[Step, ...]:
    """What a restore would do: into a directory, or each file to where it came from. Raises `LogError` when it must not."""
    return tuple(_step(backup, entry, _target(entry, directory)) for entry in backup.entries)


def _target(entry: Entry, directory: Path | None) -> Path:
    return Path(entry.came_from) if directory is None else directory / entry.file


def _step(backup: Backup, entry: Entry, target: Path) -> Step:
    if not target.exists() and not files.wal_path(target).exists():
        return Step(entry, target, "nothing")
    if entry.role == HISTORY:
        return Step(entry, target, "kept")
    if not target.exists():
        return Step(entry, target, "damaged")
    found = offline.verify(target)
    if found.identity is not None and (found.identity.name, found.identity.log_id) != (entry.name, entry.log_id):
        what = f"{target} is another log: {found.identity.log_id} of {found.identity.role} {found.identity.name}"
        raise LogForeign(Reason.LOG_FOREIGN, what, hint="A restore never replaces it: name another directory with --to.")
    if not found.problems and found.last_seq >= entry.last_seq:
        what = f"{target} is sound, and is at position {found.last_seq}; the backup is at {entry.last_seq}"
        hint = "It has all that the backup has: start it. If it must go, move it away by hand."
        raise LogError(Reason.LOG_FOREIGN, what, hint=hint)
    if not found.problems:
        return Step(entry, target, "older")
    lost = _commits(target) - _commits(backup.directory / entry.file) if entry.role == COORDINATOR else set()
    return Step(entry, target, "damaged", tuple(sorted(lost)))


def _commits(path: Path) -> set[str]:
    """The transactions that a coordinator's log says were committed, as far as it can be read."""
    try:
        records = read(path).records
    except LogError:
        return set()
    found: set[str] = set()
    for record in records:
        body: Any = record.message
        if body.HasField("decided"):
            found.add(body.decided.transaction_id)
        elif body.HasField("ended") and (body.ended.participant or body.ended.claim.result):  # of one, or of nobody
            found.add(body.ended.transaction_id)
    return found


def read(path: Path) -> offline.Dumped:
    """The records of a file of a backup, or of another that nobody uses; nothing is left beside it. Raises `LogError`."""
    lock = path.with_name(path.name + ".lock")
    was_there = lock.exists()
    try:
        return offline.dump(path)
    finally:
        if not was_there:
            lock.unlink(missing_ok=True)


def carry_out(backup: Backup, steps: Sequence[Step]) -> tuple[Path, ...]:
    """Put the files in their places, and verify each there. Returns what was moved aside. Raises `LogError`."""
    aside: list[Path] = []
    with ExitStack() as held:
        for directory in {step.target.parent for step in steps if step.entry.role == COORDINATOR}:
            held.enter_context(_taken(DataDirectory(directory)))
        for step in steps:
            if step.there != "kept":
                aside += _put(backup.directory / step.entry.file, step)
    return tuple(aside)


@contextmanager
def _taken(directory: DataDirectory) -> Iterator[None]:
    directory.lock()
    try:
        yield
    finally:
        directory.unlock()


def _put(source: Path, step: Step) -> list[Path]:
    target = step.target
    files.make_directory(target.parent)
    lock = files.FileLock(target)
    try:
        if target.exists():
            files.check_unused(target)
        waiting = target.with_name(target.name + ".restoring")
        copying.copy_pages(source, waiting)
        files.sync(waiting)
        if step.entry.role != HISTORY:
            found = copying.verify(waiting)
            if found.problems or found.last_seq != step.entry.last_seq:
                raise LogDamaged(Reason.LOG_DAMAGED, f"{waiting} is not what the backup had: {found.problems[:1]}")
        aside = _move_aside(target)
        waiting.rename(target)
        files.sync(target.parent)
        return aside
    except OSError as error:
        raise files.from_error(target, error, "written") from error
    finally:
        lock.release()


def _move_aside(target: Path) -> list[Path]:
    """A write-ahead log goes first: beside another file it would be taken for that one's."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    moved = []
    for part in (files.wal_path(target), target):
        if part.exists():
            aside = part.with_name(f"{target.name}.before-restore-{stamp}{part.name.removeprefix(target.name)}")
            if aside.exists():
                raise LogError(Reason.LOG_FOREIGN, f"{aside} is there already", hint="Try again in a second.")
            shutil.move(part, aside)
            moved.append(aside)
    return moved


def age_seconds(backup: Backup) -> float:
    """How old a backup is, by this machine's clock."""
    return max(0.0, time.time() - backup.made_at_ms / 1000)


