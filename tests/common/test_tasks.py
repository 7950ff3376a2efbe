"""Who is cancelled."""

from __future__ import annotations

import asyncio

from troth.tasks import is_cancelling


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
