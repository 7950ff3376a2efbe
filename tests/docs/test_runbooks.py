"""What the runbooks show is what happens: each page's commands are typed, with real processes, in the trouble that it is about."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import session

RUNBOOKS = session.ROOT / "docs" / "runbooks"
PAGES = sorted(page.name for page in RUNBOOKS.glob("*.md") if page.name != "README.md")


@pytest.fixture(scope="module")
def forks() -> Iterator[str]:
    """A process that has imported everything; it and what it has forked end with the module."""
    name = f"troth-rehearsal-{os.urandom(8).hex()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.docs.forked", name],
        cwd=session.ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"serving\n"
        yield name
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_runbook_happens_as_it_says(name: str, tmp_path: Path, forks: str) -> None:
    assert session.steps((RUNBOOKS / name).read_text(encoding="utf-8")), "there is nothing to type"
    session.play(RUNBOOKS / name, tmp_path, forks)


def page(directory: Path, *lines: str) -> Path:
    """A page with one session."""
    made = directory / "page.md"
    made.write_text("\n".join(["<!-- hidden", "```console", *lines, "```", "-->", ""]))
    return made


def test_a_command_means_the_id_that_came_in_the_place_of_the_page_s(tmp_path: Path) -> None:
    came, log = "c1.1.00000000.1.42", "0123456789abcdef" * 2
    said = (f"$ printf '%s\\n' {came} {log}", "c1.1.d39f2a1d.1.1", "11111111111111111111111111111111")
    asked = ("$ printf '%s\\n' c1.1.d39f2a1d.1.1 11111111111111111111111111111111 | tr 0-9a-f g-v", "...", "...")
    output = session.play(page(tmp_path, *said, *asked), tmp_path / "shell")
    assert all(one.translate(str.maketrans("0123456789abcdef", "ghijklmnopqrstuv")) in output for one in (came, log))


@pytest.mark.parametrize("lines", [("$ echo a", "b"), ("$ echo a; echo b", "b", "a"), ("$ echo $?", "1"), ("$ true", "...")])
def test_a_page_that_says_what_does_not_happen_is_noticed(lines: tuple[str, ...], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(session, "SECONDS_MAX", 1.0)
    with pytest.raises(AssertionError, match="not printed"):
        session.play(page(tmp_path, *lines), tmp_path / "shell")
