"""A short soak; and whether its checker would notice."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bank_check import check
from processes import ROOT

SOAK = Path(__file__).with_name("soak.py")
LAST_LINE = re.compile(
    r"soak: ok transactions=(?P<transactions>\d+) kills=(?P<kills>\d+) stops=\d+ partitions=(?P<partitions>\d+) "
    r"committed=(?P<committed>\d+) unknown=\d+ violations=0"
)
MINUTES = 0.25


def run_soak(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    places = (ROOT, ROOT / "examples" / "shop", ROOT / "tests" / "e2e")
    return subprocess.run(
        [sys.executable, SOAK, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "GRPC_VERBOSITY": "NONE"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soak") / "run"
    done = run_soak("--minutes", str(MINUTES), "--committed", "25", "--seed", "7", "--directory", directory)
    assert done.returncode == 0, done.stdout + done.stderr
    match = LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    assert match is not None, done.stdout
    assert int(match["committed"]) > 20
    assert int(match["kills"]) >= 4  # at the end everything is killed once
    assert int(match["partitions"]) >= 1
    return directory


def test_a_short_soak_keeps_every_promise(soaked: Path) -> None:
    assert not check(soaked).wrong
    assert "peace" in (soaked / "events.log").read_text()


def execute(bank: str, statement: str) -> Callable[[Path], None]:
    def tamper(directory: Path) -> None:
        connection = sqlite3.connect(directory / bank)
        connection.execute(statement)
        connection.commit()
        connection.close()

    return tamper


def lie(told: str, instead: str) -> Callable[[Path], None]:
    def tamper(directory: Path) -> None:
        file = directory / "told.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        next(line for line in lines if line[3] == told)[3] = instead
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return tamper


NORTH = "north/bank.db"
TAMPERED = {
    "an entry is missing": execute(NORTH, "DELETE FROM entries WHERE id = (SELECT min(id) FROM entries)"),
    "an entry is there twice": execute(
        NORTH, "INSERT INTO entries (transfer, account, amount) SELECT transfer, account, amount FROM entries LIMIT 1"
    ),
    "an entry that nobody ordered": execute(NORTH, "INSERT INTO entries (transfer, account, amount) VALUES ('t9', 'a00', 0)"),
    "money came from nowhere": execute(NORTH, "UPDATE accounts SET balance = balance + 1 WHERE account = 'a07'"),
    "a committed transfer was told aborted": lie("COMMITTED", "ABORTED"),
    "an aborted transfer was told committed": lie("ABORTED", "COMMITTED"),
    "a heuristic outcome": lie("COMMITTED", "HEURISTIC"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_the_checker_notices(what: str, soaked: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(soaked, directory)
    TAMPERED[what](directory)
    assert check(directory).wrong


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--minutes", "soon"], ["--nonsense"]])
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    done = run_soak(*arguments)
    assert done.returncode == 2
    assert "usage: scripts/soak" in done.stderr
