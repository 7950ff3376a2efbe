"""What the runbooks show is what happens: each page's commands are typed, with real processes, in the trouble that it is about."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
