"""Drivers: they carry out what the core asks of a resource that is not its own log.

A driver gets one piece of work at a time for a branch, never blocks and never raises; it answers with an event. What must
happen (a commit, a rollback) is tried until it has happened, with back-off, each branch on its own: one resource that fails, or one
branch of it, holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from participant_sdk.core.work import CommitBranch, Execute, ForgetBranch, LocalRun, PrepareBranch, Undo
from troth.backoff import Backoff
from troth.logs import get_logger
from troth.ready import Event
from troth.tasks import is_cancelling
from troth.v1 import record_pb2

Invoked = Execute | PrepareBranch | CommitBranch | Undo | ForgetBranch | LocalRun
"""The work that is an effect of the core."""
RETRY = Backoff(first_seconds=0.05, cap_seconds=30.0)
"""The wait between two attempts at what must happen."""

_log = get_logger("participant_sdk.drivers")


class Driver(Protocol):
    """Carries out invoked work."""

    async def open(self, names: Mapping[str, str]) -> None:
        """Get ready. `names` has the branches that the log knows, with the resource's names for them.

        Raises `TrothError` when the process cannot serve.
        """

    def invoke(self, work: Invoked) -> None:
        """Begin with a piece of work; the answer is submitted as an event."""

    async def close(self) -> None:
        """Drop what runs and let go of the resource. What is unfinished is taken up by the next process."""


class Jobs:
    """Tasks that belong to a driver; they end with it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine that answers for itself."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("a driver's task failed: its branch gets no answer before the next start", exc_info=error)

    async def close(self) -> None:
        """Cancel what runs and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_done(what: str, attempt_once: Callable[[], Awaitable[str]]) -> None:
    """Repeat `attempt_once` until it returns no complaint, with back-off, for ever."""
    attempt = 0
    while why := await attempt_once():
        if is_cancelling():
            raise asyncio.CancelledError  # a driver's wait has swallowed it
        delay = RETRY.delay_seconds(attempt, what)
        _log.warning("not done yet", what=what, why=why, attempt=attempt + 1, next_try=delay)
        await asyncio.sleep(delay)
        attempt += 1


def raised(what: str, error: BaseException) -> str:
    """The complaint about an author's function that raised; where it did so is said in the log."""
    _log.error("a function raised", what=what, exc_info=error)
    return f"it raised {type(error).__name__}"


Submit = Callable[[Event], None]
"""Gives an event to the engine."""


def merged_work(works: Sequence[record_pb2.BranchWork]) -> record_pb2.BranchWork:
    """The works of one branch as one: lists behind each other, the last name that there is."""
    merged = record_pb2.BranchWork()
    for work in works:
        merged.MergeFrom(work)
    return merged
