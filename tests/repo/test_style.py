"""The rules of the house that no linter knows: sizes, leftovers, docstrings."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from sources import PRODUCT, ROOT, TOOLS, name, python_files, run, tree

WRITTEN = (*PRODUCT, "examples")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 50
LEFTOVERS = re.compile(r"TODO|FIXME|XXX|NotImplementedError|pragma: no cover")
SUPPRESSION = re.compile(r"#\s*(type:\s*ignore|noqa)(?P<rest>.*)")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def lines_of(function: Function) -> int:
    """Lines of the body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return ((body[-1].end_lineno or 0) - body[0].lineno + 1) if body else 0


def functions(*directories: str) -> list[tuple[str, int]]:
    """Every function with its place and its lines."""
    return [
        (f"{name(path)}:{node.lineno} {node.name}", lines_of(node))
        for path in python_files(*directories)
        for node in ast.walk(tree(path))
        if isinstance(node, Function)
    ]


@pytest.mark.parametrize("path", python_files(*WRITTEN, "tests"), ids=name)
def test_file_is_not_too_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES_MAX, f"{name(path)} has {lines} lines: it is two files"


def test_no_function_is_too_long() -> None:
    long = [f"{where} ({lines} lines)" for where, lines in functions(*WRITTEN, "tests") if lines > FUNCTION_LINES_MAX]
    assert not long, "\n".join(long)


def test_functions_are_small() -> None:
    """Median at most 8 lines, nine in ten at most 30."""
    sizes = sorted(lines for _, lines in functions(*WRITTEN))
    assert sizes[len(sizes) // 2] <= 8
    assert sizes[int(len(sizes) * 0.9)] <= 30


@pytest.mark.parametrize("path", python_files(*WRITTEN), ids=name)
def test_nothing_is_left_behind(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert not LEFTOVERS.search(line), f"{name(path)}:{number}: finish it: {line.strip()}"


@pytest.mark.parametrize("path", python_files(*WRITTEN, "tests"), ids=name)
def test_suppressions_have_a_rule_and_a_reason(path: Path) -> None:
    """`# type: ignore[rule]  # why` or `# noqa: RULE - why`."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = SUPPRESSION.search(line)
        if match is None or "SUPPRESSION = " in line or line.lstrip().startswith(('"""', "#")):
            continue
        words = re.sub(r"\[[\w, -]+\]|:?\s*[A-Z]+[0-9]+,?", "", match["rest"]).strip(" #-:,")
        assert len(words.split()) >= 2, f"{name(path)}:{number}: say why: {line.strip()}"


@pytest.mark.parametrize("path", python_files(*WRITTEN), ids=name)
def test_public_things_have_docstrings(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module), f"{name(path)} does not say what it is"
    for node in module.body:
        # The name of a test is its sentence.
        if isinstance(node, (ast.ClassDef, *Function.__args__)) and not node.name.startswith(("_", "test_")):
            assert ast.get_docstring(node), f"{name(path)}:{node.lineno}: {node.name} has no docstring"


def test_no_two_test_modules_have_one_name() -> None:
    """What is in no package is imported by its bare name: of two the whole run, which imports both, gets one."""
    bare = [path for path in python_files("tests") if path.name != "conftest.py" and not (path.parent / "__init__.py").exists()]
    twice = [module for module, count in Counter(path.stem for path in bare).items() if count > 1]
    assert not twice


def test_scripts_begin_with_their_purpose() -> None:
    for path in sorted((ROOT / "scripts").iterdir()):
        lines = path.read_text(encoding="utf-8").splitlines()
        first = lines[1] if lines[0].startswith("#!") else lines[0]
        assert first.startswith("# "), f"{path.name} does not say what it is for"


def test_ruff_finds_nothing() -> None:
    done = run(TOOLS / "ruff", "check", "--no-cache")
    assert done.returncode == 0, done.stdout


def test_mypy_finds_nothing() -> None:
    done = run(TOOLS / "mypy")
    assert done.returncode == 0, done.stdout
