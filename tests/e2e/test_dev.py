"""`troth dev`, as a newcomer runs it: its buttons, and that nothing of it is left."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 180


class Dev:
    """One run, and a browser for its page."""

    def __init__(self, *options: str) -> None:
        self.running = subprocess.Popen(
            [sys.executable, "-m", "coordinator.cli", "dev", *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        )  # fmt: skip
        self.said = ""
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self.said += line
            if line.startswith("Ctrl-C"):
                break
        self.url = self.place("try it")
        self.console = self.place("console")
        self._open = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar())).open

    def place(self, what: str) -> str:
        match = re.search(rf"{what} +(https?://\S+)", self.said)
        assert match is not None, self.said
        return match[1]

    def page(self, url: str = "") -> str:
        return str(self._open(url or self.url, timeout=SECONDS).read().decode())

    def console_says(self, text: str) -> None:
        """Wait until it does: the coordinator hears of its participants' ends in its own time."""
        end = time.monotonic() + SECONDS
        while text not in self.page(self.console):
            assert time.monotonic() < end, text

    def press(self, what: str) -> str:
        token = re.search(rf'action="/{what}"><input type="hidden" name="token" value="(\w+)"', self.page())
        assert token is not None
        body = urllib.parse.urlencode({"token": token[1]}).encode()
        return str(self._open(f"{self.url}{what}", body, timeout=SECONDS).read().decode())

    def shell(self, command: str, before: str = ":") -> subprocess.CompletedProcess[str]:
        """What a command says in a shell that has read the file which was named."""
        match = re.search(r"coordinator +\S+ +(\. \S+) && troth", self.said)
        assert match is not None, self.said
        typed = f"{match[1]} && {before} && exec {sys.executable} -m coordinator.cli {command} --timeout 20"
        return subprocess.run(["sh", "-c", typed], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


@contextmanager
def running(*options: str) -> Iterator[Dev]:
    dev = Dev(*options)
    try:
        yield dev
    finally:
        if dev.running.poll() is None:
            dev.running.send_signal(signal.SIGINT)
            dev.running.wait(SECONDS)
        assert dev.running.stdout is not None
        dev.running.stdout.close()


@pytest.fixture
def dev() -> Iterator[Dev]:
    with running() as dev:
        yield dev


def test_an_order_a_refusal_and_a_crash_and_nothing_is_left(dev: Dev) -> None:
    directory = re.search(r"everything lives in (\S+), and is deleted", dev.said)
    assert directory is not None and Path(directory[1]).is_dir()
    assert "is committed, everywhere" in dev.press("order")
    assert "happened nowhere" in dev.press("refuse")
    for _ in range(5):  # on a slow machine the order may not come so far in its time
        crashed = dev.press("crash")
        if "was killed after it had voted YES" in crashed:
            break
    assert "was killed after it had voted YES" in crashed and "Start payments again" in crashed
    dev.console_says("payments is not connected and owes")
    assert "is back" in dev.press("back")
    dev.console_says("Nothing needs you")
    dev.running.send_signal(signal.SIGINT)
    assert dev.running.wait(SECONDS) == 0
    assert not Path(directory[1]).exists()


def test_closed_everybody_has_to_say_who_he_is() -> None:
    with running("--closed") as dev:
        assert "is committed, everywhere" in dev.press("order")
        found = dev.shell("txn list --outcome COMMITTED --csv")
        assert found.returncode == 0 and "COMMITTED" in found.stdout, found.stderr
        assert dev.shell("status", "unset TROTH_CLIENT_CERTIFICATE TROTH_CLIENT_KEY").returncode == 4, "a stranger is let in"
        assert "CLOSED" in dev.shell("status").stdout.upper()
