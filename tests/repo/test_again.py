"""`tests/again.py`: what failed once is told, what fails each time fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sources import ROOT

ONCE = """
from pathlib import Path
def test_{name}():
    seen = Path(__file__).with_suffix(".{name}")
    count = len(seen.read_text()) if seen.exists() else 0
    seen.write_text("x" * (count + 1))
    assert count not in {fails}, "try {{}}".format(count)
"""


def again(directory: Path, *tests: tuple[str, set[int]], lanes: bool = False, also: str = "") -> subprocess.CompletedProcess[str]:
    """Run tests that fail in their n-th tries."""
    (directory / "test_one.py").write_text("".join(ONCE.format(name=name, fails=fails or "()") for name, fails in tests) + also)
    (directory / "pytest.ini").write_text("[pytest]\n")
    options = ["-n", "2"] if lanes else []
    command = [sys.executable, "-m", "pytest", "-p", "tests.again", *options, "test_one.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("lanes", [False, True])
def test_what_failed_once_is_told_and_the_run_passes(lanes: bool, tmp_path: Path) -> None:
    done = again(tmp_path, ("luck", {0}), ("fine", set()), lanes=lanes)
    assert done.returncode == 0, done.stdout
    assert "again: FAILED ONCE, passed 2 times alone: test_one.py::test_luck" in done.stdout
    assert "try 0" in done.stdout, "and how it failed"
    assert (tmp_path / "test_one.luck").read_text() == "xxx"
    assert (tmp_path / "test_one.fine").read_text() == "x", "what has passed is not run again"


@pytest.mark.parametrize("fails", [{0, 1, 2}, {0, 1}, {0, 2}])
def test_what_fails_again_fails_the_run(fails: set[int], tmp_path: Path) -> None:
    done = again(tmp_path, ("wrong", fails), ("luck", {0}))
    assert done.returncode == 1
    assert f"try {min(fails - {0})}" in done.stdout
    assert "FAILED ONCE" not in done.stdout


def test_many_are_not_tried_again(tmp_path: Path) -> None:
    done = again(tmp_path, *((f"luck{number}", {0}) for number in range(4)))
    assert done.returncode == 1
    assert (tmp_path / "test_one.luck0").read_text() == "x"


def test_nor_what_cannot_be_collected(tmp_path: Path) -> None:
    done = again(tmp_path, ("fine", set()), also="import nothing_of_this_name\n")
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    assert "again:" not in done.stdout
