"""A service without a loop, one of whose things never ends to close: `python hangs_at_end.py`. Another one is closed."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from participant_sdk import background


class Quick:
    """Says when it is closed."""

    async def start(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """At once."""
        sys.stdout.write("closed\n")


class Silent(Quick):
    """Waits for somebody who says nothing, and hears of no cancellation."""

    async def close(self) -> None:
        """Never."""
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


if __name__ == "__main__":
    background.END_SECONDS = 0.2
    things = Quick(), Silent()
    for one in things:
        background.start(one)
