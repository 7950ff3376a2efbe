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
TOOLS = ("bash", "dirname", "cat", "cksum", "rm", "mkdir", "sort", "tail")


def shell(code: str, path: Path, *others: Path) -> subprocess.CompletedProcess[str]:
    """Run bash with nothing but the tools in `path` and in `others`."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (path / tool).symlink_to(found)
    return subprocess.run(
        ["bash", "-c", f"source '{ROOT}/scripts/environment.sh'; {code}"],
        env={"PATH": ":".join(map(str, (path, *others))), "HOME": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_python(path: Path, refuses: str) -> None:
    """A Python that is new enough, but cannot import what matches `refuses`."""
    script = path / "python3.11"
    script.write_text(f'#!/bin/sh\ncase "$*" in *{refuses}*) exit 1;; esac\nexit 0\n')
    script.chmod(0o755)


def fake_version(script: Path, version: str) -> Path:
    """A Python that says a version, and where it is empty does not start, as one of pyenv's that was not chosen."""
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f"#!/bin/sh\necho {version}\n" if version else "#!/bin/sh\necho not chosen >&2\nexit 127\n")
    script.chmod(0o755)
    return script


def newest(path: Path, *others: Path) -> subprocess.CompletedProcess[str]:
    """What `scripts/newest` takes, where nothing can be fetched."""
    sources = f"source '{ROOT}/scripts/servers.sh'; source '{ROOT}/scripts/pythons.sh'; TROTH_SERVERS='{path}/servers'"
    return shell(f"{sources}; troth_newest_python", path, *others)


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


def test_the_newest_python_is_the_one_with_the_highest_version(tmp_path: Path) -> None:
    """Not the highest name: `python3` may be any; nor as text, by which 3.9 is above 3.12."""
    fake_version(tmp_path / "python3.11", "3.11.7")
    fake_version(tmp_path / "python3.9", "3.9.18")
    wanted = fake_version(tmp_path / "python3", "3.12.4")
    done = newest(tmp_path)
    assert done.stdout.strip() == str(wanted), done.stderr


def test_a_version_of_pyenv_is_found_by_its_shims(tmp_path: Path) -> None:
    """Whatever HOME is; the shim itself does not start, for no version was chosen."""
    fake_version(tmp_path / "python3.11", "3.11.7")
    fake_version(tmp_path / "pyenv" / "shims" / "python3.13", "")
    wanted = fake_version(tmp_path / "pyenv" / "versions" / "3.13.0" / "bin" / "python3.13", "3.13.0")
    done = newest(tmp_path, tmp_path / "pyenv" / "shims")
    assert done.stdout.strip() == str(wanted), done.stderr


def test_a_python_that_cannot_be_fetched_is_named_and_nothing_is_left_out(tmp_path: Path) -> None:
    wanted = fake_version(tmp_path / "python3.11", "3.11.7")
    done = newest(tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, str(wanted))
    assert "Python 3.14 could not be had" in done.stderr and "Python 3.13 could not be had" in done.stderr


def test_nothing_is_fetched_where_the_newest_is_there(tmp_path: Path) -> None:
    wanted = fake_version(tmp_path / "python3.14", "3.14.0")
    done = newest(tmp_path)
    assert (done.stdout.strip(), done.stderr) == (str(wanted), "")


def test_continuous_integration_runs_the_tests() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "$scripts/test" in run and "$scripts/floors" in run and "$scripts/newest" in run


def test_the_classifiers_name_the_pythons_from_the_floor_to_the_newest() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    named = [int(one.rpartition(".")[2]) for one in project["classifiers"] if "Python :: 3." in one]
    floor = int(project["requires-python"].removeprefix(">=3."))
    fetched = re.findall(r"^TROTH_DEBIAN_PYTHONS=.*?:(\d+)", (ROOT / "scripts" / "pythons.sh").read_text("utf-8"), re.M)
    assert named == list(range(floor, int(fetched[0]) + 1))


def test_every_dependency_of_users_is_tried_at_its_floor() -> None:
    """A floor without a version of that name cannot be installed; one that is not tried is a guess."""
    done = subprocess.run([ROOT / "scripts" / "floors", "--list"], capture_output=True, text=True, check=True)
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = {re.split(r"[\[>=<]", one)[0] for one in sum(project["optional-dependencies"].values(), project["dependencies"])}
    assert {line.split("==")[0] for line in done.stdout.split()} == wanted
