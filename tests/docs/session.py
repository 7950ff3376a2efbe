"""Runs what a page of the documentation shows: its files are written, its console sessions are typed into one shell.

A block "```python NAME" is the file NAME. A block "```console" has commands after `$ `, each followed by what it prints: those
lines must come, in this order, while others may come between them. `...` stands for anything, blanks count once, and the nonce
and the number in a transaction id may be other ones, as may all of a log's id. A command that names one of these means the one
that came in its place. What stands in a comment of the page (`<!--`) is typed too: it is how a rehearsal comes to where the page
begins.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADDRESS, METRICS = "127.0.0.1:7420", "127.0.0.1:9420"
"""The addresses that pages show; others, free ones take their place."""
SECONDS_MAX = 60.0
_BLOCK = re.compile(r"^```(?P<language>\w+)(?: (?P<name>[\w./-]+))?\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_ID = re.compile(r"\b([a-z0-9]+\.\d+)\.[0-9a-f]{8}\.(\d+)\.\d+\b")
_NAMED = re.compile(rf"{_ID.pattern}|\b[0-9a-f]{{32}}\b")


@dataclass(frozen=True)
class Step:
    """One command, and the lines that it must print."""

    command: str
    prints: list[str]


def files(page: str) -> dict[str, str]:
    """The files that a page shows, by name."""
    return {m["name"]: m["body"] for m in _BLOCK.finditer(page) if m["name"]}


def blocks(page: str, language: str) -> list[str]:
    """The nameless blocks of a page in one language."""
    return [m["body"] for m in _BLOCK.finditer(page) if m["language"] == language and not m["name"]]


def steps(page: str) -> list[Step]:
    """The commands of a page's console sessions, in order."""
    found: list[Step] = []
    for line in "".join(blocks(page, "console")).splitlines():
        if line.startswith("$ "):
            found.append(Step(line.removeprefix("$ "), []))
        elif line.strip():
            found[-1].prints.append(line)
    return found


class Shell:
    """One bash with this environment's Python, in a directory of its own. Ends everything that was started in it.

    With `forks`, the name of a running `forked`, `troth` and `rehearse` are forks of that one, and are there from the beginning.
    """

    def __init__(self, directory: Path, forks: str = "") -> None:
        self._places = _free(ADDRESS, METRICS)
        self._directory = directory
        self._prepare(forks)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=directory,
            env={
                **environment, "TROTH_LISTEN": self._places[ADDRESS], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
                "TROTH_LOG_FORMAT": "console",  # as on the terminal that pages show
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.output = ""
        self._type(f". .venv-test/bin/activate; . {ROOT}/tests/docs/rehearsal.sh" if forks else "")
        self._named: dict[str, str] = {}
        """The ids of the page, and those that came in their place."""

    def _prepare(self, forks: str) -> None:
        """`. .venv-demo/bin/activate` and `. .venv-test/bin/activate` give this environment, with `troth` from the source tree."""
        programs = {"troth": "-m coordinator.cli", "python": ""}
        if forks:
            call = f"-I -S {ROOT}/tests/docs/forked_call.py {forks}"
            programs |= {name: f"{call} {name}" for name in ("troth", "rehearse", "sqlite3")}
        for name in ("demo", "test"):
            self._make_environment(self._directory / f".venv-{name}" / "bin", programs)

    def _make_environment(self, tools: Path, programs: dict[str, str]) -> None:
        tools.mkdir(parents=True)
        for name, arguments in programs.items():
            (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        for tool in tools.iterdir():
            tool.chmod(0o755)
        (tools / "activate").write_text(f"PATH={tools}:$PATH\n")

    def write(self, name: str, text: str) -> None:
        """Write a file of the page."""
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._real(text), encoding="utf-8")

    def run(self, number: int, step: Step) -> None:
        """Type one command; wait for its end, or for its start when it runs beside us, and for what it must print."""
        began = len(self.output)
        # The mark has a line to itself, also when somebody in the background is in the middle of one.
        mark = f"printf '\\ndone-{number}\\n'"
        command = _NAMED.sub(lambda match: self._named.get(match[0], match[0]), self._real(step.command))
        self._type(f"{command}\n{mark}")
        deadline = time.monotonic() + SECONDS_MAX
        while missing := self._missing(self.output[began:], [*step.prints], f"done-{number}"):
            left = deadline - time.monotonic()
            assert left > 0 and self._read(left), f"$ {step.command}\nnot printed: {missing}\nbut:\n{self.output[began:]}"

    def _type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())
        self._process.stdin.flush()

    def _real(self, text: str) -> str:
        for shown, real in self._places.items():
            text = text.replace(shown, real)
        return text

    def _shown(self, text: str) -> str:
        for shown, real in self._places.items():
            text = text.replace(real, shown)
        return text

    def _missing(self, printed: str, expected: list[str], mark: str) -> str:
        lines = self._shown(printed).splitlines()
        for line in lines:
            if expected and line not in ("", mark) and _matches(_plain(expected[0]), _plain(line)):
                ids = (match[0] for match in _NAMED.finditer(line))
                self._named.update(zip((match[0] for match in _NAMED.finditer(expected.pop(0))), ids, strict=False))
        return expected[0] if expected else "" if mark in lines else mark

    def _read(self, seconds: float) -> bool:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        text = os.read(self._process.stdout.fileno(), 65_536).decode() if ready else ""
        self.output += text
        return bool(text)

    def close(self) -> None:
        """End the shell and all that it started: they share its session's process group."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def _free(*shown: str) -> dict[str, str]:
    """An address that nobody has for each; all are looked for at once, so that they differ."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in shown]
    try:
        return {one: f"127.0.0.1:{probe.getsockname()[1]}" for one, probe in zip(shown, probes, strict=True)}
    finally:
        for probe in probes:
            probe.close()


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\b[0-9a-f]{32}\b", "LOG", _ID.sub(r"\1.NONCE.\2.N", line))).strip()


def _matches(expected: str, line: str) -> bool:
    pattern = ".*".join(re.escape(part.strip()) for part in expected.split("..."))
    return re.fullmatch(pattern, line) is not None


def play(page: Path, directory: Path, forks: str = "") -> str:
    """Do all that a page shows, in order; returns everything that was printed."""
    text = page.read_text(encoding="utf-8")
    shell = Shell(directory, forks)
    try:
        for name, body in files(text).items():
            shell.write(name, body)
        for number, step in enumerate(steps(text)):
            shell.run(number, step)
        return shell.output
    finally:
        shell.close()
