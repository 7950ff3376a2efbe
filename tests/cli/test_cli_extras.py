"""A command whose extra is not installed says which, and is no traceback."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from coordinator.cli.main import run
from troth.packages import EXTRAS

ISSUE = ["pki", "issue", "ada", "--name", "ada.example"]
NEEDS = {"cryptography": (["pki", "init"], ISSUE, ["pki", "show", "ada.pem"], ["pki", "renew", "ada"])}


@pytest.mark.parametrize("module, arguments", [(module, call) for module, calls in NEEDS.items() for call in calls])
def test_a_missing_extra_is_named(
    module: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if f"{name}.".startswith((f"{module}.", "coordinator.pki."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr(importlib.import_module("coordinator"), "pki", raising=False)
    assert run(arguments) == 2
    told = capsys.readouterr().err
    assert f"comes with the extra {EXTRAS[module]!r}: pip install 'troth[{EXTRAS[module]}]'" in told and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []
