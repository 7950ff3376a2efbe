"""What is decided goes before what begins: branches that a resource has to finish hold back new ones.

A caller hears of a commit while its branches are still being finished, and goes on to the next. So where finishing is slower than
beginning (few connections finish, a loop is busy), prepared branches pile up until the resource has no more room for any:
`max_prepared_transactions`. Whoever begins waits here while there is a backlog; the rate becomes that of the slower half.

Nobody is refused here, and nobody waits for long: a resource that finishes nothing at all says itself what is wrong with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

UNFINISHED_MAX = 32
"""Branches of one resource that are being finished, from which on those that begin wait."""
HELD_BACK_SECONDS_MAX = 5.0
"""Longest wait of one that begins."""


class Backlog:
    """The branches of one resource that are being finished."""

    def __init__(self) -> None:
        self._unfinished = 0
        self._eased = asyncio.Event()
        self._eased.set()

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """One of them is being finished, in the block."""
        self._unfinished += 1
        if self._unfinished >= UNFINISHED_MAX:
            self._eased.clear()
        try:
            yield
        finally:
            self._unfinished -= 1
            if self._unfinished < UNFINISHED_MAX:
                self._eased.set()

    async def give_way(self) -> None:
        """Wait while there is a backlog; for whoever is about to begin."""
        if not self._eased.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HELD_BACK_SECONDS_MAX):
                    await self._eased.wait()
