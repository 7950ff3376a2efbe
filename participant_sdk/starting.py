"""A start that whoever closes gives up: what was begun is closed by the start itself, as when its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from troth.errors import Reason, TrothError
from troth.tasks import ended, is_cancelling


class Starting:
    """The start of something, while it is under way."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def of(self, start: Coroutine[Any, Any, None], what: str) -> None:
        """Run it. Raises what it raises, and `TrothError` (SHUTTING_DOWN) when it is given up."""
        self._task = asyncio.create_task(start, name=f"troth-start-{what}")
        try:
            await self._task
        except asyncio.CancelledError:
            if is_cancelling():
                raise
            raise TrothError(Reason.SHUTTING_DOWN, f"{what} was closed while it was starting") from None

    async def give_up(self) -> None:
        """Return when nothing is being started any more, and whoever has started it has seen that."""
        if self._task is not None:
            self._task.cancel()
            await ended(self._task)
            await asyncio.sleep(0)
