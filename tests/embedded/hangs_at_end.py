"""A service without a loop, one of whose things never ends to close: `python hangs_at_end.py`. Another one is closed.
With `interrupted` behind it, somebody presses Ctrl-C as soon as the one that never ends is closed; with `at once`, before anybody
waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from participant_sdk import background


class Quick:
    """Says when it is closed."""

    async def start(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """At once."""
        sys.stdout.write("closed\n")
        background.LEAST_SECONDS = LEAST_SECONDS


class Silent(Quick):
    """Waits for somebody who says nothing, and hears of no cancellation."""

    async def close(self) -> None:
        """Never."""
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


class Interrupted(Silent):
    """Somebody does not want to wait for it."""

    async def close(self) -> None:
        """Never."""
        sys.stdout.write("closing\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGINT)
        await super().close()


class AtOnce(Silent):
    """Somebody pressed it before."""


begin = asyncio.run_coroutine_threadsafe
LEAST_SECONDS = background.LEAST_SECONDS


def begins(work: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """As asyncio's."""
    if work.cr_code is Quick.close.__code__:
        background.LEAST_SECONDS = 60.0  # what ends at once is waited for, however busy the machine is
    begun = begin(work, loop)
    if work.cr_code is AtOnce.close.__code__ and isinstance(work.cr_frame.f_locals["self"], AtOnce):
        sys.stdout.write("closing\n")
        raise KeyboardInterrupt
    return begun


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started it in the background may have had it ignored
    how = " ".join(sys.argv[1:])
    background.END_SECONDS = 60.0 if how else 0.2
    asyncio.run_coroutine_threadsafe = begins  # type: ignore[assignment]  # of one kind of work
    things = Quick(), {"interrupted": Interrupted, "at once": AtOnce, "": Silent}[how]()
    for one in things:
        background.start(one)
