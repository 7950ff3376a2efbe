"""Blocks of a service's own code on a branch's connection: `async with participant.branch() as db`.

To the core such a block is an operation like any other, which runs for as long as the handler is inside: so a Prepare waits for it,
its end is acknowledged and counted, and a handler that raises has refused. The operation hands its `db` over to the handler, and
waits.

A block pins a connection. So there are only so many at a time, and none may take longer than a while: the connection is closed
then, because the handler still has it in its hands.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any

from participant_sdk.border import unasked
from participant_sdk.registry import Registry
from troth.errors import Aborted, Reason, RequestError

ASYNC, BLOCKING = "troth-block", "troth-block-sync"
"""The operations that wait for blocks; they are not offered to anybody."""

Run = Callable[..., Coroutine[Any, Any, Any]]
"""`Branch.run`."""


class InUse(Aborted):
    """The block took too long: what it has in its hands must not be anybody else's."""


class Pins:
    """The blocks of one participant. `count_max` of them at a time, each of at most `seconds_max`."""

    def __init__(
        self, count_max: int, seconds_max: float, around: Callable[[Any], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self._count_max = count_max
        self._around = around
        """What is around a block in a thread."""
        self._seconds_max = seconds_max
        self._numbers = itertools.count(1)
        self._blocks: dict[int, _Block] = {}
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}
        """Why the blocks of a kind cannot be; empty where they can."""

    def register(self, registry: Registry, async_reason: str, plain_reason: str) -> None:
        """Add the operations that the resource can run."""
        self._reasons = {ASYNC: async_reason, BLOCKING: plain_reason}

        async def wait(db: Any, *, block: int) -> None:
            left = asyncio.wrap_future(self._entered(block, db))
            left.add_done_callback(unasked)
            await asyncio.wait((left,), timeout=self._seconds_max)
            if not left.done():
                raise self._too_long()
            left.result()

        def wait_in_thread(db: Any, *, block: int) -> None:
            left = self._entered(block, db)
            if wait_for((left,), self._seconds_max).not_done:
                raise self._too_long()
            left.result()

        if not async_reason:
            registry.add(wait, name=ASYNC, locks=[], hidden=True)
        if not plain_reason:
            registry.add(wait_in_thread, name=BLOCKING, locks=[], hidden=True)

    def _entered(self, block: int, db: Any) -> Future[None]:
        """Hand over what the block gets; the future is done when it is left."""
        pinned = self._of(block)
        pinned.entered.set_result(db)
        return pinned.left

    def _of(self, block: int) -> _Block:
        pinned = self._blocks.get(block)
        if pinned is None or pinned.entered.done():
            raise RequestError(Reason.INVALID_ARGUMENT, "there is no such block in this process")
        return pinned

    def _too_long(self) -> InUse:
        seconds = self._seconds_max
        return InUse(Reason.TIMEOUT, f"a block had its connection for longer than {seconds:g} seconds (pinned_seconds_max)")

    # ---- the blocks

    @asynccontextmanager
    async def block(self, run: Run) -> AsyncIterator[Any]:
        """Be inside of an operation. Raises what `Branch.run` raises, at the beginning or the end; `RequestError` (OVERLOADED)."""
        with self._numbered(ASYNC) as (number, pinned):
            running = asyncio.ensure_future(run(ASYNC, block=number))
            entered = asyncio.wrap_future(pinned.entered)
            await asyncio.wait((running, entered), return_when=asyncio.FIRST_COMPLETED)
            if not entered.done():
                entered.cancel()
                await running
                raise _repeated()
            try:
                yield entered.result()
            except BaseException as error:
                pinned.leave(error)
                await asyncio.gather(running, return_exceptions=True)
                raise
            pinned.leave()
            await running

    @contextmanager
    def block_sync(self, run: Run, loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
        """The same in a thread."""
        with self._numbered(BLOCKING) as (number, pinned):
            running = asyncio.run_coroutine_threadsafe(run(BLOCKING, block=number), loop)
            running.add_done_callback(lambda _: pinned.entered.done() or pinned.entered.cancel())
            try:
                db = pinned.entered.result()
            except BaseException:
                running.result()
                raise _repeated() from None
            try:
                with self._around(db):
                    yield db
            except BaseException as error:
                pinned.leave(error)
                running.exception()
                raise
            pinned.leave()
            running.result()

    @contextmanager
    def _numbered(self, kind: str) -> Iterator[tuple[int, _Block]]:
        if reason := self._reasons.get(kind, ""):
            other = "with branch_sync() as db, in a thread" if kind == ASYNC else "async with branch() as db"
            raise RequestError(Reason.INVALID_ARGUMENT, reason, hint=f"Use {other}.")
        number, pinned = next(self._numbers), _Block()
        with self._lock:
            if len(self._blocks) >= self._count_max:
                message = f"{len(self._blocks)} blocks have connections (pinned_max)"
                raise RequestError(Reason.OVERLOADED, message, hint="End blocks sooner, or try again later.")
            self._blocks[number] = pinned
        try:
            yield number, pinned
        finally:
            del self._blocks[number]


class _Block:
    """One block: what it got, and how it was left."""

    def __init__(self) -> None:
        self.entered: Future[Any] = Future()
        self.left: Future[None] = Future()

    def leave(self, error: BaseException | None = None) -> None:
        if self.left.done():
            return
        if error is None:
            self.left.set_result(None)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            self.left.set_exception(error)
        else:  # no future of asyncio takes a StopIteration: whoever waits would not be told
            self.left.set_exception(Aborted(Reason.OPERATION_FAILED, f"the block was left by {type(error).__name__}"))



def _repeated() -> Aborted:
    message = "the call was repeated, and what its block did stands: a block cannot be run again within its transaction"
    return Aborted(Reason.OPERATION_COUNT, message)


def pins_of(resource: Any, registry: Registry) -> Pins | None:
    """The blocks of a resource whose operations work on a connection."""
    if not hasattr(resource, "pinned_max"):
        return None
    pins = Pins(resource.pinned_max, resource.pinned_seconds_max, getattr(resource, "around", nullcontext))
    pins.register(registry, resource.async_reason, resource.plain_reason)
    return pins
