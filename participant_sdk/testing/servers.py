"""A database server of a test's own, as a process: a private directory, a unix socket and no port, stopped by its pid.

What is the same for every kind of server; `postgres.py` and `mariadb.py` have the kinds. `TEST_SERVERS_DIRECTORY` names the
directory below which they have theirs; without it that is where temporary files are.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_START_SECONDS = 120.0
NOBODY = 65534
"""The user, and the group, that own nothing."""


class PrivateServer(ABC):
    """One server. `name` is for people, `place` the directory of its programs."""

    crash = signal.SIGKILL
    """The signal that ends it as a crash does, and takes its children along."""

    def __init__(self, name: str, place: Path) -> None:
        self._name = name
        self._bin = place
        below = os.environ.get("TEST_SERVERS_DIRECTORY") or None
        self.directory = Path(tempfile.mkdtemp(prefix=f"troth-{name.lower()[:2]}-", dir=below))
        """The socket and the data, and the server's log in `log`."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    # ---- what each kind does in its own way

    @abstractmethod
    def create(self) -> None:
        """Make the data directory."""

    @abstractmethod
    def command(self, **settings: str) -> list[Any]:
        """The command that runs it, with settings for this time."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes connections."""

    # ---- life

    def start(self, **settings: str) -> None:
        """Start, and wait until it answers; `settings` are for this time. Raises `RuntimeError` with the server's own words."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(stdout=log, stderr=log, stdin=subprocess.DEVNULL, **self._as(self.command(**settings)))
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                status = self._process.poll()
                raise RuntimeError(f"{self._name} did not start (status {status}): {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, signal_number: int = signal.SIGINT) -> None:
        """End it with a signal, and wait for it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal_number)
            self._process.wait(_START_SECONDS)
            self._process = None

    def remove(self) -> None:
        """Stop it, and delete what it had."""
        self.stop(self.crash)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        self.create()
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    # ---- for the kinds

    def _as(self, command: Sequence[Any]) -> Mapping[str, Any]:
        """How the server is run: not as root."""
        return as_nobody(self._bin, command)

    def _give_to_nobody(self, *paths: Path) -> None:
        """As root the server runs as `nobody`, who has to own what it writes."""
        if os.geteuid() == 0:
            for path in paths:
                os.chown(path, NOBODY, NOBODY)

    def _run(self, program: str, *arguments: Any, words: bytes | None = None) -> None:
        """Run one of its programs to the end, with `words` as its input."""
        command = [self._bin / program, *arguments]
        done = subprocess.run(input=words, capture_output=True, check=False, **as_nobody(self._bin, command))
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr.decode(errors='replace')[-2000:]}")


def programs(name: str, program: str, variable: str, places: Iterable[str]) -> Path:
    """The directory of a server's programs: what an environment variable names, or a usual place. Raises `RuntimeError`."""
    for place in (os.environ.get(variable, ""), *places):
        if place and (Path(place) / program).exists():
            return Path(place)
    raise RuntimeError(f"no {name} server was found: install one, or name its programs' directory in {variable}")


def libraries(place: Path) -> str:
    """Where the programs of `place` find the libraries that were unpacked beside them: for LD_LIBRARY_PATH."""
    below = next((above / "lib" for above in place.parents if above.name == "usr"), place)
    return f"{below / 'x86_64-linux-gnu'}:{below / 'aarch64-linux-gnu'}"


def as_nobody(place: Path, command: Sequence[Any]) -> Mapping[str, Any]:
    """How `subprocess` runs a command whose program is in `place`: not as root, with the libraries that were unpacked beside it.

    `setpriv` changes the user. For Python to do that it would have to fork, and what gRPC does in a child that was forked beside
    its threads ends that, now and then, without a word.
    """
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries(place)}
    if os.geteuid() == 0:
        user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
        return {"args": [*user, *command], "env": environment}
    return {"args": command, "env": environment}
