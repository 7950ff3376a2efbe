"""The border between the SDK and the functions of its users: operations, hooks, reads, lock declarations, resources.

A slip in one of them fails that one call, and nothing else. So whatever a function raises comes back as a value, `Raised`: also
SystemExit from the database's thread, a StopIteration, and a CancelledError that nobody meant for us. Only a cancellation of our
own task goes on as one: a coroutine of the author runs in a task of its own, which tells the two apart.

What is told of it to others is made there by `participant_sdk.causes`: texts that can be encoded, of a bounded length.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from troth.logs import encodable
from troth.tasks import is_cancelling


class Raised:
    """What a function raised, in place of what it would have returned."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What an author's function returned, or `Raised`."""
    try:
        return function(*arguments)
    except BaseException as error:
        return Raised(error)


async def awaited(work: Awaitable[Any]) -> Any:
    """What an author's coroutine returned, or `Raised`. When our own task is cancelled the coroutine is too, and this raises."""
    task = asyncio.ensure_future(_caught(work))
    try:
        return await task
    except asyncio.CancelledError as error:
        if inspect.iscoroutine(work):
            work.close()  # cancelled before its first step, the task has not begun it, and Python would complain of that
        if is_cancelling():
            raise
        return Raised(error)


async def finished(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a plain or a coroutine function returned in the end, or `Raised`."""
    result = called(function, *arguments)
    return await awaited(result) if inspect.isawaitable(result) else result


async def answered(method: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """As `finished`, for a resource that answers for itself, in this very task. What it runs for others is behind a border of its
    own, so nobody there cancels this task."""
    try:
        return await method(*arguments)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and is_cancelling():
            raise
        return Raised(error)


def deliverable(error: BaseException) -> Exception:
    """The error as a caller can be given it, who awaits it in a task: a StopIteration or a SystemExit would be taken for an order
    to that task, or to the whole loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"the function raised {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped


def unasked(ended: asyncio.Future[Any]) -> None:
    """Nobody asks any more what came of it: asyncio need not complain that it failed."""
    if not ended.cancelled():
        ended.exception()


def words_of(error: BaseException, characters_max: int) -> str:
    """The error in one text that can be written anywhere, whatever its own text is: at worst its type alone."""
    text = called(str, error)
    words = type(error).__name__ if type(text) is Raised else f"{type(error).__name__}: {text}"
    return encodable(words[:characters_max])


def answer(ticket: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    """Answer a caller who waits for the ticket, unless he is gone."""
    if ticket.done():
        return
    if error is not None:
        ticket.set_exception(deliverable(error))
    else:
        ticket.set_result(value)


async def _caught(work: Awaitable[Any]) -> Any:
    # Caught inside of the task: a SystemExit that leaves a task leaves the loop as well.
    try:
        return await work
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return Raised(error)
