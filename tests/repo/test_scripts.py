"""The scripts: sound, from anywhere, and clear about what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from sources import ROOT

SCRIPTS = sorted((ROOT / "scripts").iterdir())
TOOLS = ("bash", "dirname", "cat", "cksum", "rm", "mkdir")


def shell(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run bash with nothing but the tools in `path`."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (path / tool).symlink_to(found)
    return subprocess.run(
        ["bash", "-c", f"source '{ROOT}/scripts/environment.sh'; {code}"],
        env={"PATH": str(path), "HOME": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_python(path: Path, refuses: str) -> None:
    """A Python that is new enough, but cannot import what matches `refuses`."""
    script = path / "python3.11"
    script.write_text(f'#!/bin/sh\ncase "$*" in *{refuses}*) exit 1;; esac\nexit 0\n')
    script.chmod(0o755)


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_script_is_sound(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert script.suffix == ".sh" or os.access(script, os.X_OK), f"{script.name} cannot be executed"


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    done = shell("troth_base_python", tmp_path)
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert "TROTH_PYTHON" in done.stderr


def test_a_missing_venv_module_is_named(tmp_path: Path) -> None:
    fake_python(tmp_path, "import venv")
    done = shell(f"troth_make_venv '{tmp_path}/python3.11' '{tmp_path}/made'", tmp_path)
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr


def test_a_new_enough_python_is_found(tmp_path: Path) -> None:
    fake_python(tmp_path, "nothing")
    done = shell("troth_base_python", tmp_path)
    assert done.stdout.strip() == str(tmp_path / "python3.11")


def test_continuous_integration_runs_the_tests() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "$scripts/test" in run and "$scripts/floors" in run


def test_every_dependency_of_users_is_tried_at_its_floor() -> None:
    """A floor without a version of that name cannot be installed; one that is not tried is a guess."""
    done = subprocess.run([ROOT / "scripts" / "floors", "--list"], capture_output=True, text=True, check=True)
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = {re.split(r"[\[>=<]", one)[0] for one in sum(project["optional-dependencies"].values(), project["dependencies"])}
    assert {line.split("==")[0] for line in done.stdout.split()} == wanted
