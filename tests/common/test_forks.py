"""What a forked child does not do with what it inherits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from weakref import WeakSet

import pytest

from troth import forks
from troth.errors import ConfigError, LogLocked
from troth.log.files import FileLock


@pytest.fixture(autouse=True)
def first_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never forked and holds nothing: these tests play the child in the parent, too."""
    monkeypatch.setattr(forks, "_locks", WeakSet())
    monkeypatch.setattr(forks, "_connections", WeakSet())
    monkeypatch.setattr(forks, "_channels_open", 0)
    monkeypatch.setattr(forks, "_channels_inherited", False)
    monkeypatch.setattr(forks, "_generation", 0)


@pytest.fixture
def living_child() -> Iterator[Callable[[], None]]:
    """Forks a child that lives until the end of the test."""
    children: list[tuple[int, int]] = []

    def fork() -> None:
        reading, writing = os.pipe()
        begun, begin = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.write(begin, b"!")
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        children.append((child, writing))
        os.read(begun, 1)  # until it has let go of what it inherited
        os.close(begun)
        os.close(begin)

    yield fork
    for child, writing in children:
        os.close(writing)
        os.waitpid(child, 0)


def test_a_living_child_keeps_no_lock(tmp_path: Path, living_child: Callable[[], None]) -> None:
    lock = FileLock(tmp_path / "log.db")
    living_child()
    with pytest.raises(LogLocked):
        FileLock(tmp_path / "log.db")
    lock.release()
    FileLock(tmp_path / "log.db").release()


DROPS_IN_A_CHILD = """
import gc, os, sys
from pathlib import Path
import apsw
from troth import forks
from troth.log.sqlite import LogConnection

path = Path(sys.argv[2])
held = [LogConnection(path, isolation_level=None) if sys.argv[1] == "sqlite3" else apsw.Connection(str(path), vfs="unix-none")]
for statement in ("PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL", "CREATE TABLE kept (n)"):
    list(held[0].execute(statement))
forks.keep_open(held[0])
child = os.fork()
if child == 0:
    held.clear()
    gc.collect()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert path.with_name(path.name + "-wal").exists(), "the child deleted it"
held[0].close()
"""
"""In a process of its own: a collection in a child of ours would meet whatever gRPC left behind in other tests, and never end."""


@pytest.mark.parametrize("library", ["sqlite3", "apsw"])
def test_a_child_closes_no_connection(library: str, tmp_path: Path) -> None:
    """It would delete the write-ahead log on which its parent goes on writing."""
    command = [sys.executable, "-c", DROPS_IN_A_CHILD, library, str(tmp_path / "log.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


class _Lock:
    held = True

    def let_go(self) -> None:
        self.held = False


class _Connection:
    """Something that can be referred to weakly."""


def test_a_child_begins_anew() -> None:
    lock, connection = _Lock(), _Connection()
    forks.hold(lock)
    forks.keep_open(connection)
    forks._in_child()
    assert not lock.held
    assert forks.generation() == 1
    lock.held = True
    forks._in_child()
    assert lock.held and forks.generation() == 2
    forks.check_channels()


def test_a_child_of_a_process_with_an_open_channel_opens_none() -> None:
    with forks.channel_open():
        forks._in_child()
    forks._in_child()
    for _ in range(2):
        with pytest.raises(ConfigError, match="forked"), forks.channel_open():
            raise AssertionError("it was opened")


def test_a_child_of_a_process_that_closed_its_channels_opens_its_own() -> None:
    with forks.channel_open(), forks.channel_open():
        pass
    forks._in_child()
    with forks.channel_open():
        pass
