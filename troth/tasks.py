"""What asyncio leaves to be asked."""

from __future__ import annotations

import asyncio


def is_cancelling() -> bool:
    """Whether somebody cancels the task that runs. A CancelledError without that came from elsewhere: from a call that the other
    side cancelled, from a task that was awaited, from a `raise`.

    A loop that is ended by a cancel asks this each time: `asyncio.wait_for` of Python 3.11, which psycopg and others wait by,
    swallows a cancel that comes in the moment in which what it waits for is done.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
