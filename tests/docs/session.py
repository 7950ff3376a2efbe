"""Runs what a page of the documentation shows: its files are written, its console sessions are typed into one shell.

A block "```python NAME" is the file NAME. A block "```console" has commands after `$ `, each followed by what it prints: those
lines must come, in this order, while others may come between them. `...` stands for anything, blanks count once,
and the nonce and the number in a transaction id may be other ones.
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
ADDRESS = "127.0.0.1:7420"
"""The address that pages show; another, free one takes its place."""
SECONDS_MAX = 60.0
_BLOCK = re.compile(r"^```(?P<language>\w+)(?: (?P<name>[\w./-]+))?\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_ID = re.compile(r"\b([a-z0-9]+\.\d+)\.[0-9a-f]{8}\.(\d+)\.\d+\b")


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
    """One bash with this environment's Python, in a directory of its own. Ends everything that was started in it."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._directory = directory
        self._prepare()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=directory,
            env={
                **environment, "TROTH_LISTEN": self.address, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
                "TROTH_LOG_FORMAT": "console",  # as on the terminal that pages show
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.output = ""

    def _prepare(self) -> None:
        """`. .venv-demo/bin/activate` and `. .venv-test/bin/activate` give this environment, with `troth` from the source tree."""
        for name in ("demo", "test"):
            self._make_environment(self._directory / f".venv-{name}" / "bin")

    def _make_environment(self, tools: Path) -> None:
        tools.mkdir(parents=True)
        (tools / "troth").write_text(f'#!/bin/sh\nexec {sys.executable} -m coordinator.cli "$@"\n')
        (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for tool in tools.iterdir():
            tool.chmod(0o755)
        (tools / "activate").write_text(f"PATH={tools}:$PATH\n")

    def write(self, name: str, text: str) -> None:
        """Write a file of the page."""
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(ADDRESS, self.address), encoding="utf-8")

    def run(self, number: int, step: Step) -> None:
        """Type one command; wait for its end, or for its start when it runs beside us, and for what it must print."""
        began = len(self.output)
        assert self._process.stdin is not None
        # The mark has a line to itself, also when somebody in the background is in the middle of one.
        mark = f"printf '\\ndone-{number}\\n'"
        self._process.stdin.write(f"{step.command.replace(ADDRESS, self.address)}\n{mark}\n".encode())
        self._process.stdin.flush()
        deadline = time.monotonic() + SECONDS_MAX
        while missing := self._missing(self.output[began:], [*step.prints], f"done-{number}"):
            left = deadline - time.monotonic()
            assert left > 0 and self._read(left), f"$ {step.command}\nnot printed: {missing}\nbut:\n{self.output[began:]}"

    def _missing(self, printed: str, expected: list[str], mark: str) -> str:
        lines = [_plain(line.replace(self.address, ADDRESS)) for line in printed.splitlines()]
        for line in lines:
            if expected and _matches(_plain(expected[0]), line):
                expected.pop(0)
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


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", _ID.sub(r"\1.NONCE.\2.N", line)).strip()


def _matches(expected: str, line: str) -> bool:
    pattern = ".*".join(re.escape(part.strip()) for part in expected.split("..."))
    return re.fullmatch(pattern, line) is not None


def play(page: Path, directory: Path) -> str:
    """Do all that a page shows, in order; returns everything that was printed."""
    text = page.read_text(encoding="utf-8")
    shell = Shell(directory)
    try:
        for name, body in files(text).items():
            shell.write(name, body)
        for number, step in enumerate(steps(text)):
            shell.run(number, step)
        return shell.output
    finally:
        shell.close()
