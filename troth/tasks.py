"""What asyncio leaves to be asked."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


def is_cancelling() -> bool:
    """Whether somebody cancels the task that runs. A CancelledError without that came from elsewhere: from a call that the other
    side cancelled, from a task that was awaited, from a `raise`.

    A loop that is ended by a cancel asks this each time: `asyncio.wait_for` of Python 3.11, which psycopg and others wait by,
    swallows a cancel that comes in the moment in which what it waits for is done.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def ended(task: asyncio.Task[Any]) -> None:
    """Wait until the task is done, whichever way. Its error counts as asked for; its cancel is taken out of it.

    A task keeps the CancelledError that ended it, with the frames and all that is in them, until somebody asks. In Python 3.14 one
    that was cancelled in `asyncio.wait` is a circle so, which only the collector ends: the frame of `wait` names the task.
    """
    await asyncio.wait((task,))
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()
