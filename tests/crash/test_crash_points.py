"""The crash points that service authors get: what is found, what is told, and that a sound service passes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from participant_sdk import Participant, Refuse, SqliteResource
from participant_sdk.client import call
from participant_sdk.testing import crashpoints
from participant_sdk.testing.crashpoints import BrokenPromise, Point, Subject
from troth.errors import ConfigError

ROOT = Path(__file__).parents[2]
SCHEMA = "CREATE TABLE IF NOT EXISTS kept (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT"
ADD = call("service", "add", name="x", value=1)
ADD_SQL = "INSERT INTO kept VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"


def service(directory: Path, besides: Callable[[Any], None] = lambda db: None) -> Participant:
    """A participant whose operation does something besides its work."""
    resource = SqliteResource(directory / "kept.db", schema=SCHEMA)
    made = Participant("service", resource=resource, data_directory=directory / "service", coordinator="127.0.0.1:7420")

    @made.operation(locks=lambda name: [name])
    def add(db: Any, *, name: str, value: int) -> None:
        db.execute(ADD_SQL, (name, value))
        besides(db)

    @made.operation(locks=[])
    def refuse(db: Any) -> None:
        raise Refuse("NO", "never")

    return made


def broken(make: crashpoints.Make, directory: Path, **settings: Any) -> BrokenPromise:
    with pytest.raises(BrokenPromise) as caught:
        crashpoints.run(Subject(make, (ADD,), **settings), directory)
    return caught.value


def test_a_sound_service_keeps_every_promise_at_every_point(tmp_path: Path) -> None:
    report = crashpoints.run(Subject(service, (ADD,), (ADD,)), tmp_path)
    assert report.crashes >= 60
    for scenario in crashpoints.SCENARIOS:
        assert (scenario, "participant:after-apply:operation") in report.points
    for name in ("participant:before-sync:branch_prepared", "coordinator:after-sync:decided", "participant:after-send:votes"):
        assert (crashpoints.TOGETHER, name) in report.points


def test_what_is_done_outside_the_transaction_is_found(tmp_path: Path) -> None:
    def make(directory: Path) -> Participant:
        def send_a_mail(db: Any) -> None:
            with (directory / "mails").open("a") as mails:
                mails.write("dear customer\n")

        return service(directory, send_a_mail)

    async def state(participant: Participant, directory: Path) -> object:
        mails = directory / "mails"
        return await crashpoints.tables(participant, directory), mails.exists() and mails.read_text()

    assert broken(make, tmp_path, state=state).promise == crashpoints.NOTHING_LEFT


def test_what_is_kept_in_a_variable_and_saved_later_is_found(tmp_path: Path) -> None:
    def make(directory: Path) -> Participant:
        totals.clear()  # a new process begins with empty variables
        return service(directory, lambda db: totals.append(1))

    async def state(participant: Participant, directory: Path) -> object:
        return len(totals)

    totals: list[int] = []
    found = broken(make, tmp_path, state=state)
    assert found.promise in (crashpoints.ALL_THERE, crashpoints.NOTHING_LEFT, "durable: a restart changes nothing")


def test_an_operation_that_does_not_commit_in_peace_cannot_be_tested(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="never"):
        crashpoints.run(Subject(service, (call("service", "refuse"),)), tmp_path)


def test_calls_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one participant"):
        crashpoints.run(Subject(service, (ADD, call("other", "add", name="x", value=1))), tmp_path)


def test_one_point_alone_and_a_second_crash_in_its_recovery(tmp_path: Path) -> None:
    only = [Point("participant:after-sync:branch_prepared", 1)]
    once = crashpoints.run(Subject(service, (ADD,)), tmp_path, only=only)
    assert once.crashes == 3  # one-phase and rolled back interactively it does not prepare
    twice = crashpoints.run(Subject(service, (ADD,)), tmp_path, only=only, twice=True)
    assert twice.crashes > 3 * once.crashes


async def test_it_is_for_tests_without_a_loop(tmp_path: Path) -> None:
    await asyncio.sleep(0)
    with pytest.raises(ConfigError, match="plain `def`"):
        crashpoints.run(Subject(service, (ADD,)), tmp_path)


def test_points_have_names() -> None:
    assert str(Point.parse("participant:after-send:votes@2")) == "participant:after-send:votes@2"
    assert Point.parse("participant:after-send:votes").nth == 1
    for text in ("votes", "a:b", "a:b:c@x"):
        with pytest.raises(ConfigError, match="no crash point"):
            Point.parse(text)


def test_the_planted_bug_is_found(tmp_path: Path) -> None:
    """The example, as its reader runs it."""
    installed = any(point.name == "troth" for point in entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "participant_sdk.testing.pytest_plugin"]
    plugin += ["--basetemp", str(tmp_path / "base"), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "examples/planted_bug"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "broken promise: told is true: an aborted transaction leaves nothing behind" in done.stdout
    assert "told:        ABORTED" in done.stdout and "'c1 300\\n'" in done.stdout
    assert "--troth-crash-at '" in done.stdout
    assert "troth: cards.redeem: " in done.stdout and "every promise kept" in done.stdout
