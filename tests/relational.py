"""What the tests of relational databases have in common, whichever the server is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from participant_sdk import Refuse
from participant_sdk.resources.contract import Done, Unreachable
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.errors import Aborted, OutcomeUnknown, RequestError

Operations = dict[str, Callable[..., Any]]


async def until(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until there is an answer that is neither empty nor `Unreachable`; returns it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        answer = await ask()
        if answer and not isinstance(answer, Unreachable):
            return answer
        assert time.monotonic() < end, f"there was no answer in {PATIENCE_SECONDS:.0f} s, but {answer}"
        await asyncio.sleep(0.01)


@contextmanager
def impatient(resource: Any) -> Iterator[None]:
    """A resource that waits for a connection for a moment only. (Limits that are so short from the beginning a busy machine finds
    too short for the first connection, which is still to be made.)"""
    limits = resource._limits
    resource._limits = replace(limits, connect_wait_seconds=0.05)
    try:
        yield
    finally:
        resource._limits = limits


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
