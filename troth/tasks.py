"""What asyncio leaves to be asked."""

from __future__ import annotations

import asyncio


def is_cancelling() -> bool:
    """Whether somebody cancels the task that runs. A CancelledError without that came from elsewhere: from a call that the other
    side cancelled, from a task that was awaited, from a `raise`."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
