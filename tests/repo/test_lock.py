"""The lock of the daemon's machine, and the bill of materials: complete, hashed, and of one mind."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest
from sources import ROOT

LOCK, BILL = ROOT / "requirements" / "daemon.txt", ROOT / "requirements" / "daemon.cdx.json"
BUILD = ROOT / "requirements" / "build.txt"
EXTRAS = ("coordinator", "postgres", "pki", "oidc", "metrics", "otlp", "console", "fast")


def bill_module() -> object:
    spec = importlib.util.spec_from_file_location("bill", ROOT / "requirements" / "bill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_daemon_needs_is_locked_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    locked = bill_module().packages(LOCK.read_text())  # type: ignore[attr-defined]  # a module that was loaded by its path
    for requirement in wanted:
        match = re.match(r"([A-Za-z0-9-]+)(?:\[[^]]*\])?>=([\d.]+)", requirement)
        assert match is not None, requirement
        version, hashes = locked[match[1].lower()]
        assert [int(part) for part in version.split(".")] >= [int(part) for part in match[2].split(".")], requirement
        assert hashes
    assert LOCK.read_text().count("==") == len(locked), "each line is one that we can read"


def test_the_bill_of_materials_is_that_of_the_lock() -> None:
    made = bill_module().bill(LOCK.read_text())  # type: ignore[attr-defined]  # as above
    assert json.loads(BILL.read_text()) == made, "run scripts/lock --bill"


def test_what_builds_it_is_locked_with_hashes() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    locked = bill_module().packages(BUILD.read_text())  # type: ignore[attr-defined]  # as above
    assert {re.split(r"[\[>=<]", one)[0] for one in wanted} <= locked.keys()
    assert all(hashes for _, hashes in locked.values()) and BUILD.read_text().count("==") == len(locked)


@pytest.mark.parametrize("lock", [LOCK, BUILD], ids=lambda path: path.name)
@pytest.mark.parametrize("text", ["--index-url", "--extra-index-url", "--find-links", "--trusted-host", "/"])
def test_a_lock_names_no_place(lock: Path, text: str) -> None:
    assert text not in lock.read_text()
