"""Decisions come late: what a test reads from a database after a commit, it has to wait for.

    scripts/test -p tests.late_decisions tests/postgres tests/mariadb tests/embedded

A commit that is asked for with `wait="logged"` (the default of clients) is told when the decision is durable, while the
participants hear of it. A test that looks into their databases at once, and is a little slower than they mostly are, passes until a
machine is quick. With this plugin every participant of the test's process hears of each decision, and of whatever its
coordinator says after it, `SECONDS` later: such a test fails each time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakSet

from participant_sdk.runtime import Runtime
from troth.v1 import participant_pb2

SECONDS = 0.2

_received = Runtime.received


class _Late:
    """What a participant is yet to hear, in the order in which it was said."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._frames: deque[tuple[int, participant_pb2.SessionResponse]] = deque()
        _all.add(self)

    def received(self, stream: int, frame: participant_pb2.SessionResponse) -> None:
        if not self._frames and not frame.decisions:
            _received(self._runtime, stream, frame)
            return
        self._frames.append((stream, frame))
        asyncio.get_running_loop().call_later(SECONDS, self._hear)

    def _hear(self) -> None:
        if self._frames:
            _received(self._runtime, *self._frames.popleft())

    def hear_all(self) -> None:
        """What waits is heard now."""
        while self._frames:
            self._hear()


_all: WeakSet[_Late] = WeakSet()


def received_late(runtime: Runtime, stream: int, frame: participant_pb2.SessionResponse) -> None:
    """In place of `Runtime.received`."""
    late = vars(runtime).setdefault("late", _Late(runtime))
    late.received(stream, frame)


def hear_all() -> None:
    """For a test that looks at what is decided and not heard: it has seen enough, however long that took. Everybody hears it."""
    for one in list(_all):
        one.hear_all()


def pytest_configure() -> None:
    """The plugin is there: all of them hear late."""
    Runtime.received = received_late  # type: ignore[method-assign]  # this is what the plugin is for
