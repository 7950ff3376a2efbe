"""What the tests of relational databases have in common, whichever the server is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from participant_sdk import Refuse
from participant_sdk.resources.contract import Done, Unreachable
from troth.errors import Aborted, OutcomeUnknown, RequestError

Operations = dict[str, Callable[..., Any]]


async def until(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until there is an answer that is neither empty nor `Unreachable`; returns it."""
    for _ in range(3000):
        answer = await ask()
        if answer and not isinstance(answer, Unreachable):
            return answer
        await asyncio.sleep(0.01)
    raise AssertionError(f"there was no answer in half a minute, but {answer}")


async def tell(number: int, told: dict[int, str], transfer: Awaitable[object]) -> None:
    """Note what the caller of a transfer is told: committed, aborted, or unknown."""
    try:
        await transfer
        told[number] = "committed"
    except (Aborted, RequestError):
        told[number] = "aborted"
        await asyncio.sleep(0.05)
    except OutcomeUnknown:
        told[number] = "unknown"


async def all_finish_it(bench: Any, others: Sequence[Any]) -> None:
    """The process that prepared a branch and others commit it at the same time: all succeed, and it is committed once."""
    branch, work = await bench.prepared()
    for other in others:
        await other.open()

    async def finish(resource: Any) -> object:
        answer: object = await until(lambda: resource.commit(branch, work, one_phase=False))
        return answer

    answers = await asyncio.gather(*(finish(one.resource) for one in (bench, *others)))
    assert all(isinstance(answer, Done) for answer in answers)
    assert await bench.visible("a") == 1
    for other in others:
        await other.resource.close()


def session_operations(item: Any) -> tuple[Operations, Operations]:
    """The contract suite's operations on a mapped class with `name` and `value`: for an `AsyncSession`, and for a `Session`."""

    async def put(session: AsyncSession, *, name: str, value: int) -> None:
        await session.merge(item(name=name, value=value))

    async def get(session: AsyncSession, *, name: str) -> int | None:
        return await session.scalar(select(item.value).where(item.name == name))

    async def refuse(session: AsyncSession, *, name: str, value: int) -> None:
        await put(session, name=name, value=value)
        raise Refuse("NO", "it refuses")

    def put_blocking(session: Session, *, name: str, value: int) -> None:
        session.merge(item(name=name, value=value))

    def get_blocking(session: Session, *, name: str) -> int | None:
        return session.scalar(select(item.value).where(item.name == name))

    def refuse_blocking(session: Session, *, name: str, value: int) -> None:
        put_blocking(session, name=name, value=value)
        raise Refuse("NO", "it refuses")

    asynchronous: Operations = {"put": put, "get": get, "refuse": refuse}
    blocking: Operations = {"put": put_blocking, "get": get_blocking, "refuse": refuse_blocking}
    return asynchronous, blocking
