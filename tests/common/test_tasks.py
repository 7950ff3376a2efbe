"""Who is cancelled."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from troth.tasks import all_of, ended, is_cancelling, side_by_side


async def test_a_cancelled_error_of_somebody_else_is_no_cancellation() -> None:
    told: list[bool] = []

    async def wait_for(other: asyncio.Future[None]) -> None:
        try:
            await other
        except asyncio.CancelledError:
            told.append(is_cancelling())

    other = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(wait_for(other))
    await asyncio.sleep(0)
    other.cancel()
    await waiting
    meant = asyncio.create_task(wait_for(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    meant.cancel()
    await meant
    assert told == [False, True]


def test_outside_of_a_loop_nobody_is_cancelled() -> None:
    async def nothing() -> None: ...

    asyncio.run(nothing())
    told: list[bool] = []
    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: (told.append(is_cancelling()), loop.stop()))
    loop.run_forever()
    loop.close()
    assert told == [False]


class Held:
    """What a frame holds."""


async def test_a_task_that_was_ended_by_a_cancel_leaves_nothing_of_its_frames(without_collector: None) -> None:
    """In Python 3.14 a task that was cancelled in `asyncio.wait` holds itself."""
    held: list[weakref.ref[Held]] = []

    async def waits(other: asyncio.Future[None]) -> None:
        one = Held()
        held.append(weakref.ref(one))
        await asyncio.wait((other,))

    task = asyncio.create_task(waits(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    task.cancel()
    await ended(task)
    assert task.cancelled()
    del task
    assert [one() for one in held] == [None]


async def test_a_task_that_failed_is_ended_without_a_raise_and_without_a_complaint() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fails() -> None:
        raise ValueError("no")

    task = asyncio.create_task(fails())
    await ended(task)
    del task
    gc.collect()
    assert complaints == []


async def test_each_step_of_an_end_is_taken_and_the_first_error_is_told_with_the_others() -> None:
    taken: list[str] = []

    async def step(name: str, error: BaseException | None = None) -> None:
        taken.append(name)
        if error is not None:
            raise error

    first, cancelled = OSError("the disk is full"), asyncio.CancelledError()
    with pytest.raises(OSError) as told:
        await all_of(
            lambda: step("a"), lambda: step("b", first), lambda: step("c", ValueError("wrong")), lambda: step("d", cancelled),
            lambda: step("e", first), lambda: step("f"),
        )  # fmt: skip
    assert taken == ["a", "b", "c", "d", "e", "f"]
    assert told.value is first and first.__notes__ == ["and then: ValueError: wrong", "and then: CancelledError: "]
    await all_of(lambda: step("g"))


async def test_works_side_by_side_are_all_waited_for_also_when_one_fails() -> None:
    ended: list[str] = []
    go_on = asyncio.Event()

    async def fails() -> None:
        go_on.set()
        raise KeyError("a")

    async def lasts() -> None:
        await go_on.wait()
        await asyncio.sleep(0)
        ended.append("lasts")

    with pytest.raises(KeyError):
        await side_by_side([fails(), lasts()])
    assert ended == ["lasts"]
    await side_by_side([])


async def test_a_cancellation_is_not_lost_behind_an_error_of_a_step_before_it() -> None:
    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await all_of(fails, asyncio.get_running_loop().create_future)
    other = asyncio.get_running_loop().create_future()
    other.cancel()
    with pytest.raises(ValueError) as raised:
        await all_of(fails, lambda: other)  # which is not ours
    assert raised.value.__notes__ == ["and then: CancelledError: "]


def test_steps_that_nobody_runs_any_more_are_left() -> None:
    taken: list[str] = []

    class Waits:
        def __init__(self, name: str) -> None:
            taken.append(name)

        def __await__(self) -> Any:
            yield

    steps = all_of(lambda: Waits("one"), lambda: Waits("two"))
    steps.send(None)
    steps.close()
    assert taken == ["one"]
