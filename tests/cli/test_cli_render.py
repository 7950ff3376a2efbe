"""What people see: nothing that a peer wrote reaches a terminal as a command to it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from coordinator.cli import render

CLI = Path(render.__file__).parent
HOSTILE = "\x1b[2Jall \x9b31mis\x7f\r well\u202e\u2066\u2028\u200b\ud800\U000e0041\ttab\nline"
"""Clears the screen, colours, returns, and turns the line around."""


def _obeyed(text: str) -> list[str]:
    return [one for one in text if one not in "\t\n" and not one.isprintable()]


def test_what_a_terminal_would_obey_is_shown_as_its_escape(capsys: pytest.CaptureFixture[str]) -> None:
    render.say(HOSTILE)
    render.tell(HOSTILE)
    render.write_table(("NAME",), [(HOSTILE,), ([HOSTILE, "b"],)])
    render.write_facts([("name", HOSTILE)])
    said = capsys.readouterr()
    assert _obeyed(said.out + said.err) == []
    assert r"\x1b[2Jall \x9b31mis\x7f\x0d well\u202e\u2066\u2028\u200b\ud800\U000e0041\x09tab\x0aline" in said.out
    assert len(said.out.splitlines()) == 5 and len(said.err.splitlines()) == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_bytes_are_written_as_they_are_and_escaped_on_a_terminal(
    terminal: bool, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    data = "Ü\x1b[2J\n".encode() + b"\xff"
    render.write_bytes(data)
    assert capfdbinary.readouterr().out == (rb"\xff".join(["Ü\\x1b[2J\\x0a".encode(), b""]) if terminal else data)


def test_words_stay_as_they_are() -> None:
    for text in ("Überweisung 7 €", "口座", "naïve 🙂", ""):
        assert render.visible(text) == text


@pytest.mark.parametrize("indent", [None, 2])
def test_json_says_the_same_and_nothing_that_is_obeyed(indent: int | None) -> None:
    document = {"key": [HOSTILE, "Ü"], HOSTILE: 1}
    text = render.json_text(document, indent)
    assert json.loads(text) == document
    assert _obeyed(text) == [] and "Ü" in text


def test_all_that_is_printed_goes_through_render() -> None:
    for path in sorted(CLI.glob("*.py")):
        used = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert path.name == "render.py" or not used & {"echo", "secho"}, path
        assert "print" not in names, path
