"""What asyncio leaves to be asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
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


async def all_of(*steps: Callable[[], Awaitable[object]]) -> None:
    """Take each step, one after the other, also when one before it has failed: what ends gives everything back. Raises the first
    error, with the others as notes of it; a cancellation, or whatever ends the process, before any other."""
    errors: list[BaseException] = []
    for step in steps:
        try:
            await step()
        except GeneratorExit:
            raise  # nobody runs this any more, and no step can be waited for
        except BaseException as error:
            errors.append(error)
    raise_first(errors)


async def side_by_side(works: Iterable[Awaitable[object]]) -> None:
    """Wait for all of them at once, also when one fails; raises as `all_of` does."""
    results = await asyncio.gather(*works, return_exceptions=True)
    raise_first([result for result in results if isinstance(result, BaseException)])


def raise_first(errors: Iterable[BaseException]) -> None:
    """Raise the first error, if there is one, with the others as notes of it; what must not be taken for an error comes first."""
    first: BaseException | None = None
    for error in sorted(errors, key=_is_an_error):
        if first is None:
            first = error
        elif error is not first:
            first.add_note(f"and then: {type(error).__name__}: {error}")
    if first is not None:
        raise first


def _is_an_error(error: BaseException) -> bool:
    """Whether it only says that something failed. A cancellation that was not meant for this task says no more."""
    return isinstance(error, Exception) or (isinstance(error, asyncio.CancelledError) and not is_cancelling())
