"""The lock of the daemon's machine, and the bill of materials: complete, hashed, and of one mind."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib

import pytest
from sources import ROOT

LOCK, BILL = ROOT / "requirements" / "daemon.txt", ROOT / "requirements" / "daemon.cdx.json"
EXTRAS = ("coordinator", "postgres", "pki", "oidc", "fast")


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


@pytest.mark.parametrize("text", ["--index-url", "--extra-index-url", "--trusted-host", "http"])
def test_the_lock_names_no_place(text: str) -> None:
    assert text not in LOCK.read_text()
