"""What the tests of the repository look at."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("troth", "coordinator", "participant_sdk")
TOOLS = Path(sys.executable).parent
"""Where the tools of the test environment are: ruff, mypy, buf."""


def _generated(path: Path) -> bool:
    return "_pb2" in path.name


@cache
def python_files(*directories: str) -> tuple[Path, ...]:
    """Every Python file that people wrote below the directories, sorted."""
    found = [path for directory in directories for path in (ROOT / directory).rglob("*.py") if not _generated(path)]
    return tuple(sorted(found))


@cache
def tree(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name(path: Path) -> str:
    """The path as people write it."""
    return path.relative_to(ROOT).as_posix()


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a tool from the root, with its output caught."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
