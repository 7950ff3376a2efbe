"""`troth conform` on two participants, the SDK's and one in Go, and on mutants of both: each must break the rule that it breaks."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conform_mutants import GO, PYTHON, Found
from test_conform_table import driven

from coordinator.conform.case import CALLS, PARKS, SLOW
from coordinator.conform.run import chosen
from tests.mutated import ROOT, SourceMutant

OPERATIONS = (
    "--work", 'add {"account": "a{n}", "amount": 5}', "--refuses", 'add {"account": "a{n}", "amount": -1000}',
    "--reads", 'look {"account": "a{n}"}',
)  # fmt: skip
MORE_OF_PYTHON = (
    "--slow", 'add_slowly {"account": "a{n}", "amount": 5}',
    "--parks", 'leave {"seat": {n}}', "--parks", 'sit_elsewhere {"guest": {n}}',
)  # fmt: skip
"""What the participant in Go has not: what is slow, what cannot be rolled back."""
SECONDS_MAX = 900
MUTANTS_AT_ONCE = 4
HERE = Path(__file__).parent
GO_SOURCE = ROOT / "examples" / "ledger-go"
ALL_NAMES = 204


def conform(
    command: str, *cases: str, more: tuple[str, ...] = (), environment: dict[str, str] | None = None, patience: float = 10.0
) -> dict[str, Any]:
    """Run it on a participant, and return what it found."""
    troth = [sys.executable, "-m", "coordinator.cli", "conform", "--json", "--patience", str(patience), *OPERATIONS, *more]
    call = [*troth, "--run", f"exec {command}", *cases]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, timeout=SECONDS_MAX, check=False)
    assert done.returncode in (0, 1) and done.stdout, done.stderr.decode()[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 1) == any(case["verdict"] == "broken" for case in found["cases"])
    return found


def broken(found: dict[str, Any]) -> dict[str, str]:
    return {case["name"]: case["detail"] for case in found["cases"] if case["verdict"] == "broken"}


def more_of_python(directory: Path) -> tuple[str, ...]:
    return (*MORE_OF_PYTHON, "--calls", f"unix:{directory}/calls/ledger.Ledger/Run")


def python_ledger(directory: Path, program: str = "python_ledger.py") -> str:
    script = "import sys, runpy, tests.mutated; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return shlex.join([sys.executable, "-c", script, f"tests/conform/{program}", str(directory)])


def built(source: Path, file: Path, **extra: str) -> str:
    """The participant in Go, built from a directory. Installs Go when there is none."""
    environment = {**os.environ, "PYTHON_WITH_TOOLS": sys.executable, "GOFLAGS": "-ldflags=-w", **extra}
    call = [GO_SOURCE / "build", file, source]
    done = subprocess.run(call, env=environment, capture_output=True, timeout=SECONDS_MAX, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return str(file)


def test_the_sdk_keeps_every_rule(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "CONFORM_CELLS": str(cells)}
    directory = tmp_path / "ledger"
    found = conform(python_ledger(directory, "ledger_cells.py"), more=more_of_python(directory), environment=environment)
    assert broken(found) == {}
    assert found["kept"] == len(found["cases"]) >= ALL_NAMES
    driven(cells)


def test_the_participant_in_go_keeps_every_rule(tmp_path: Path) -> None:
    found = conform(f"{built(GO_SOURCE, tmp_path / 'ledger-go')} {tmp_path}/var")
    assert broken(found) == {}
    skipped = {case["name"] for case in found["cases"] if case["verdict"] == "skipped"}
    assert skipped == {case.name for case in chosen(()) if case.needs & {CALLS, PARKS, SLOW}}


def caught(mutants: tuple[Found, ...], run: Callable[[int, Found], dict[str, Any]]) -> None:
    """Every mutant must break the case that it is listed with. Most of its time it waits for what does not come."""
    with ThreadPoolExecutor(MUTANTS_AT_ONCE) as pool:
        found = list(pool.map(run, range(len(mutants)), mutants))
    alive = [mutant.name for mutant, one in zip(mutants, found, strict=True) if mutant.case not in broken(one)]
    assert not alive, f"conform does not notice: {alive}"


def test_mutants_of_the_sdk_are_caught(tmp_path: Path) -> None:
    def run(number: int, found: Found) -> dict[str, Any]:
        mutant = SourceMutant(found.name, found.file, found.old, found.new, ())
        directory = tmp_path / str(number)
        environment = mutant.environment()
        return conform(
            python_ledger(directory), found.case, more=more_of_python(directory), environment=environment, patience=4.0
        )

    caught(PYTHON, run)


def test_mutants_of_the_participant_in_go_are_caught(tmp_path: Path) -> None:
    built(GO_SOURCE, tmp_path / "ledger", KEEP_GENERATED=str(tmp_path))

    def run(number: int, found: Found) -> dict[str, Any]:
        source = tmp_path / f"source{number}"
        shutil.copytree(GO_SOURCE, source)
        (source / "trothv1").symlink_to(tmp_path / "trothv1")
        file = source / found.file
        text = file.read_text(encoding="utf-8")
        assert text.count(found.old) == 1, f"{found.name}: {found.old!r} is {text.count(found.old)} times in {found.file}"
        file.write_text(text.replace(found.old, found.new), encoding="utf-8")
        return conform(f"{built(source, tmp_path / f'ledger{number}')} {tmp_path}/{number}", found.case, patience=4.0)

    caught(GO, run)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--list"], 0, "commit.unseen: COMMIT of a branch never seen is HAZARD"),
        (["--list", "nothing.like.it"], 2, "no case has such a name"),
        (["commit"], 2, "--work is missing"),
        (["--work", "add {amount}"], 2, "is no operation"),
        (["--work", "add {}", "--patience", "0.2"], 4, "did not dial"),
        (["--work", "add {}", "--listen", "256.0.0.1:1"], 2, "PORT_TAKEN"),
    ],
)
def test_how_it_ends(arguments: list[str], status: int, told: str) -> None:
    call = [sys.executable, "-m", "coordinator.cli", "conform", *arguments]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, told in (done.stdout + done.stderr).decode()) == (status, True), (done.stdout, done.stderr)


def test_what_a_case_lacks_is_told(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    troth = [sys.executable, "-m", "coordinator.cli", "conform", "--json", "--run", f"exec {python_ledger(tmp_path / 'ledger')}"]
    done = subprocess.run(
        [*troth, *OPERATIONS[:2], "commit.is-done", "commit.unseen"], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    verdicts = {case["name"]: (case["verdict"], case["detail"]) for case in json.loads(done.stdout)["cases"]}
    assert verdicts["commit.unseen"] == ("kept", "")
    assert verdicts["commit.is-done"][0] == "skipped" and "--reads" in verdicts["commit.is-done"][1]
