"""What a forked child inherits of Troth's, and must leave alone.

A child that is forked and runs no other program has a copy of everything in its parent, and shares its files:

- Descriptors with our locks. While the child lives nobody else could have the file, even when the parent is dead: closed.
- Connections of SQLite. To close one (the end of the child's interpreter is enough) moves the write-ahead log into the file and
  deletes it, while the parent goes on writing to what is no longer there: never closed.
- gRPC, without the threads that do its work. Whoever opens a channel hangs, or crashes, if one was open when the process forked:
  `check_channels` says so instead. Channels of the parent are never closed either.

So clients and participants are entered after the fork, in each process its own.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakSet

from troth.errors import ConfigError


class Lock(Protocol):
    """Something that keeps others away for as long as a descriptor is open."""

    def let_go(self) -> None:
        """Close the descriptor, in a process that has only a copy of it."""


_locks: WeakSet[Lock] = WeakSet()
_connections: WeakSet[Any] = WeakSet()
_channels_open = 0
_channels_inherited = False
_generation = 0


def generation() -> int:
    """How many forks this process is away from the one that began: what another generation made belongs to another process."""
    return _generation


def hold(lock: Lock) -> None:
    """A lock was taken by this process; its children are to let go of it."""
    _locks.add(lock)


def keep_open(connection: Any) -> None:
    """A connection, or a channel, was opened by this process; its children are never to close it."""
    _connections.add(connection)


@contextmanager
def channel_open() -> Iterator[None]:
    """While a channel of gRPC is open. Raises `ConfigError` as `check_channels` does."""
    global _channels_open
    check_channels()
    _channels_open += 1
    began = _generation
    try:
        yield
    finally:
        if _generation == began:
            _channels_open -= 1


def check_channels() -> None:
    """Raise `ConfigError` where gRPC cannot work any more: in a child of a process that had a channel open when it forked."""
    if _channels_inherited:
        raise ConfigError(
            "this process was forked while a client or a participant was open in its parent, and gRPC does not survive that",
            hint="Open them after the fork, in each worker; or start workers with multiprocessing's 'spawn'.",
        )


def _in_child() -> None:
    global _channels_inherited, _channels_open, _generation
    _generation += 1
    _channels_inherited = _channels_inherited or _channels_open > 0
    _channels_open = 0
    for lock in list(_locks):
        lock.let_go()
    for connection in list(_connections):
        # One reference more than anybody has: even the end of the interpreter frees it not.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    _locks.clear()
    _connections.clear()


os.register_at_fork(after_in_child=_in_child)
