"""Imports point one way, and the pure parts stay pure (DESIGN, section 2)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from sources import PRODUCT, ROOT, name, python_files, tree

FORBIDDEN_PEERS = {
    "troth": {"coordinator", "participant_sdk"},
    "coordinator": {"participant_sdk"},
    "participant_sdk": {"coordinator"},
}
# A coordinator inside of a service, and the cluster in memory, run its core beside the participants: that is what they are for.
PEERS_ALLOWED_BELOW = {"participant_sdk/testing": {"coordinator"}, "participant_sdk/embedded": {"coordinator"}}
IMPURE = {
    "asyncio", "grpc", "sqlite3", "aiosqlite", "apsw", "time", "datetime", "random", "secrets", "uuid", "os", "socket",
    "logging", "structlog", "threading", "signal", "subprocess",
}  # fmt: skip
PURE = [
    *(ROOT / "troth" / f"{module}.py" for module in ("address", "ids", "errors", "backoff", "ready", "timers", "clock")),
    *python_files("coordinator/core", "participant_sdk/core"),
]


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: a relative import"
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("package", PRODUCT)
def test_imports_point_one_way(package: str) -> None:
    for path in python_files(package):
        below = (peers for place, peers in PEERS_ALLOWED_BELOW.items() if name(path).startswith(place))
        allowed = set().union(*below)
        wrong = imported(path) & FORBIDDEN_PEERS[package] - allowed
        assert not wrong, f"{name(path)} imports {sorted(wrong)}"


@pytest.mark.parametrize("path", PURE, ids=name)
def test_pure_parts_import_nothing_impure(path: Path) -> None:
    wrong = imported(path) & IMPURE
    assert not wrong, f"{name(path)} imports {sorted(wrong)}; it must stay a function of its arguments"


@pytest.mark.parametrize("core", ["coordinator.core", "participant_sdk.core"])
def test_pure_parts_pull_in_nothing_impure(core: str) -> None:
    """What a core imports indirectly counts too: grpc, sqlite and asyncio are not loaded with it."""
    modules = [
        name(path)[: -len(".py")].replace("/", ".").removesuffix(".__init__") for path in python_files(core.replace(".", "/"))
    ]
    code = (
        f"import sys, importlib\nfor module in {modules!r}: importlib.import_module(module)\n"
        "bad = {'asyncio', 'grpc', 'sqlite3', 'aiosqlite', 'apsw', 'structlog'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"importing {core} also loads {done.stderr.strip()}"


def test_examples_use_only_public_names() -> None:
    """A service author imports what the documentation names, and nothing with an underscore or out of a core."""
    for path in python_files("examples"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PRODUCT:
                private = ".core" in (node.module or "") or any(alias.name.startswith("_") for alias in node.names)
                assert not private, f"{name(path)}:{node.lineno} imports something private"


def test_only_the_command_line_needs_structlog() -> None:
    """A service logs through Python's `logging`, as its other libraries do; see `troth/logs.py`."""
    users = {name(path) for package in PRODUCT for path in python_files(package) if "structlog" in imported(path)}
    assert users == {"coordinator/cli/serve.py"}
