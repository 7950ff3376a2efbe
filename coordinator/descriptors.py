"""Whether this process may still open files and connections.

When it may not, gRPC accepts no connection, tries again each second, and says nothing that we could hear. So we try ourselves.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from coordinator.services.context import Common
from troth.logs import get_logger

log = get_logger("troth.descriptors")

INTERVAL_SECONDS = 1.0


def one_is_free() -> bool:
    """Whether a file can be opened now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


async def watch(common: Common, free: Callable[[], bool] = one_is_free, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
    """Count the seconds in which there is no descriptor left, and have the log tell, until cancelled."""
    short = False
    while True:
        if not free():
            short = True
            common.counters.descriptor_shortages += 1
            common.quiet.tell(
                log.error,
                "out of file descriptors: no new connection is accepted; raise the limit (ulimit -n) or find who opens so many",
            )
        elif short:
            short = False
            log.warning("there are file descriptors again")
        await sleep(INTERVAL_SECONDS)
