"""One branch at work: one connection, and one local transaction on it.

    begin ─ run* ─┬─ vote ──── prepared, and the connection is free again
                  ├─ commit ── committed, with the marker (one-phase)
                  └─ end ───── rolled back

Whatever a driver reports, only what the server has answered counts.
"""

from __future__ import annotations

import asyncio
import contextvars
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from participant_sdk.border import Raised, awaited, called
from participant_sdk.pins import InUse
from participant_sdk.registry import BoundOperation
from participant_sdk.resources.relational.guard import BranchGuard


class NotDone(Exception):
    """A step of a branch failed, and the branch with it. `lost` says that nobody knows what the server did."""

    def __init__(self, error: BaseException, *, lost: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.lost = lost


class RelationalBranch(ABC):
    """A branch that has a connection. `name` is what it is called in the database."""

    def __init__(self, name: str, guard: BranchGuard) -> None:
        self.name = name
        self.error: BaseException | None = None
        """Why it can only be rolled back."""
        self._guard = guard

    # ---- what each server does in its own words

    @abstractmethod
    def _given(self, *, blocking: bool) -> Any:
        """The connection that an operation gets."""

    @abstractmethod
    def _work(self, operation: BoundOperation) -> Callable[[Any], Any]:
        """The operation as a function of that connection."""

    @abstractmethod
    def cut(self) -> None:
        """Close the connection's socket: whoever has it in his hands may go on with it."""

    @abstractmethod
    async def _interrupt(self) -> None:
        """Cancel the statement that a thread waits for; raises nothing."""

    @abstractmethod
    def _broken(self, operation: str) -> BaseException | None:
        """What is wrong with a transaction whose operation raised nothing."""

    @abstractmethod
    async def _prepared(self) -> bool:
        """Leave the proof and prepare, if something was changed; returns whether. Raises `NotDone`."""

    @abstractmethod
    async def _committed(self) -> None:
        """Leave the proof and commit. Raises `NotDone`."""

    @abstractmethod
    async def end(self) -> None:
        """Roll back what is not finished, and give the connection back."""

    # ---- work

    async def run(self, operation: BoundOperation, executor: Executor) -> Any:
        """Run one operation; returns what it returned, or `Raised`. After `Raised` the branch can only be rolled back."""
        if self.error is not None:
            return Raised(self.error)
        work = self._work(operation)
        if operation.spec.is_async:
            given = self._given(blocking=False)
            with self._guard.on(given):
                try:
                    result = await awaited(work(given))
                except asyncio.CancelledError:
                    self.cut()
                    raise
        else:
            result = await self._in_thread(work, executor)
        error = result.error if type(result) is Raised else None
        if isinstance(error, InUse):
            self.cut()
        self.error = self._guard.denial or error or self._guard.fatal or self._broken(operation.name)
        return result if self.error is None else Raised(self.error)

    async def _in_thread(self, operation: Callable[[Any], Any], executor: Executor) -> Any:
        """A plain function runs beside the loop. It cannot be cancelled, so whoever is cancelled here has its query cancelled, and
        waits: two threads must never be inside one connection."""
        given, context = self._given(blocking=True), contextvars.copy_context()

        def work() -> Any:
            with self._guard.on(given):
                return called(operation, given)

        running = asyncio.get_running_loop().run_in_executor(executor, context.run, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await self._interrupt()
            await asyncio.wait([running])
            raise

    # ---- ends

    async def vote(self) -> bool:
        """Prepare; returns whether there was something to prepare. Raises `NotDone`. Its connection is given back either way."""
        try:
            self._check()
            return await self._prepared()
        finally:
            await self.end()

    async def commit(self) -> None:
        """Commit in one phase, with the proof. Raises `NotDone`."""
        try:
            self._check()
            await self._committed()
        finally:
            await self.end()

    def _check(self) -> None:
        self.error = self.error or self._broken("the branch")
        if self.error is not None:
            raise NotDone(self.error)
