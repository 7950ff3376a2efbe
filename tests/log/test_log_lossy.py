"""Both real logs on a disk that loses what was not synced, pages and names, and that lies now and then.

What was acknowledged is there after a power failure, in order, and nothing that was never written; where the disk lied, the log may
have lost its end or say that it is damaged, but it never has a hole, and never says what was not written.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_samples import batch, numbers
from lossy_disk import LossyDisk, OverApsw, below

from participant_sdk.resources import sqlite_file, sqlite_log
from participant_sdk.resources.sqlite import SqliteResource
from troth.errors import LogError
from troth.log import files
from troth.log import sqlite as sqlite_module
from troth.log.contract import Log
from troth.log.sqlite import SqliteLog

SEEDS = 25
BATCHES = 12


class Operations:
    """None: these batches are records alone."""

    def bind(self, operation: Any) -> Any:
        raise AssertionError(operation)


def coordinator(directory: Path) -> Log:
    """The log of the coordinator, and of a participant's identity."""
    return SqliteLog(directory / "var" / "c1" / "log.db", role="coordinator", name="c1", connection_type=OverApsw)


def resource(directory: Path) -> Any:
    """The log in a service's own file; its author made the directory, and synced it."""
    (directory / "srv").mkdir(exist_ok=True)
    files.sync(directory)
    made = SqliteResource(directory / "srv" / "bank.db", schema="CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL)")
    made.bind("bank", Operations())
    return made


async def power_failure(tmp_path: Path, make: Callable[[Path], Any], seed: int, *, lies: float = 0.0) -> tuple[int, int, list[int]]:
    """Write, lose the power, look: how many were acknowledged, how many were written, and what is found."""
    roll = random.Random(seed)
    here, there = tmp_path / f"{seed}", tmp_path / f"{seed}-left"
    here.mkdir()
    disk = LossyDisk(here)
    disk.lies = lambda: roll.random() < lies
    with below(disk):
        log = make(here)
        await log.open()
        acknowledged = written = 0
        for _ in range(roll.randint(0, BATCHES)):
            count, sync = roll.randint(1, 3), roll.random() < 0.7
            await log.write(batch(*range(written + 1, written + count + 1), size=roll.choice([10, 5000])), sync=sync)
            written += count
            acknowledged = written if sync else acknowledged
            if roll.random() < 0.2:
                await log.close()
                acknowledged = written
                log = make(here)
                await log.open()
        disk.left(roll, there)
        await log.close()
    with below(LossyDisk(there)):
        again = make(there)
        try:
            _, records = await again.open()
            return acknowledged, written, numbers(records)
        finally:
            await again.close()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The write-ahead logs are moved into their files every few batches."""
    monkeypatch.setattr(sqlite_module, "CHECKPOINT_BYTES", 60_000)
    monkeypatch.setattr(sqlite_file, "_CHECKPOINT_PAGES", 6)


async def lost(tmp_path: Path, make: Callable[[Path], Any]) -> str:
    """The first seed with which what was acknowledged is not there, or is what was never written."""
    for seed in range(SEEDS):
        try:
            acknowledged, written, found = await power_failure(tmp_path, make, seed)
        except LogError as error:
            return f"seed {seed}: {error}"
        if not acknowledged <= len(found) <= written or found != list(range(1, len(found) + 1)):
            return f"seed {seed}: {acknowledged} were acknowledged, {written} were written, and there are {found}"
    return ""


@pytest.mark.parametrize("make", [coordinator, resource])
async def test_what_was_acknowledged_outlives_the_power(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    assert await lost(tmp_path, make) == ""


async def test_the_name_of_a_new_log_needs_no_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossyDisk, "keeps_whole_directories", False)
    assert await lost(tmp_path, coordinator) == ""


@pytest.mark.parametrize("make", [coordinator, resource])
async def test_a_disk_that_lies_costs_the_end_or_the_start_but_makes_no_hole(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    refused = shorter = 0
    for seed in range(SEEDS):
        try:
            acknowledged, written, found = await power_failure(tmp_path, make, seed, lies=0.3)
        except LogError:
            refused += 1
            continue
        assert found == list(range(1, len(found) + 1)) and len(found) <= written, f"seed {seed}"
        shorter += len(found) < acknowledged
    assert refused + shorter > 0, "the disk did lie"


def _without(sync_of: Callable[[Path], bool]) -> Callable[[pytest.MonkeyPatch], None]:
    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        real = files.sync
        monkeypatch.setattr(files, "sync", lambda path: None if sync_of(path) else real(path))

    return change


def _nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossyDisk, "keeps_whole_directories", False)
    _without(lambda path: path.name == "c1")(monkeypatch)


def _normal(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tuple(one.replace("synchronous = FULL", "synchronous = NORMAL") for one in sqlite_module._SETTINGS)
    monkeypatch.setattr(sqlite_module, "_SETTINGS", settings)


def _off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_log, "_SYNCHRONOUS", dict.fromkeys((False, True), sqlite_log._SYNCHRONOUS[False]))
    monkeypatch.setattr(sqlite_log.SqliteLog, "_synchronous", None, raising=False)


def _never_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is moved out of the write-ahead log is not in the file yet when the log is written from its beginning again."""
    monkeypatch.setattr(LossyDisk, "synced", _but_not_the_file(LossyDisk.synced))


def _but_not_the_file(original: Any) -> Any:
    return lambda self, path: None if path.endswith(".db") else original(self, path)


MUTANTS: dict[str, tuple[Callable[[Path], Any], Callable[[pytest.MonkeyPatch], None]]] = {
    "synchronous=NORMAL in the coordinator's log": (coordinator, _normal),
    "the name of a new log is not synced": (coordinator, _nameless),
    "the content of a new log is not synced": (coordinator, _without(lambda path: path.name == "log.db.new")),
    "the file is not synced when the log is moved into it": (coordinator, _never_moved),
    "new directories are not synced": (coordinator, _without(lambda path: path.name not in ("c1", "log.db.new"))),
    "an unsynced batch leaves the resource's file at NORMAL": (resource, _off),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_each_sync_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make, change = MUTANTS[name]
    change(monkeypatch)
    assert await lost(tmp_path, make), f"{name}: nothing was lost"
