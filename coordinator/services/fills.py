"""How full each limit is: told to operators who ask, and in the log before it is reached."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import Callable, Sequence
from typing import Any

from coordinator.services.context import Context
from troth.logs import get_logger
from troth.v1 import admin_pb2

log = get_logger("troth.limits")

WARN_PERCENT = 80
"""From here on the log warns."""
CALM_PERCENT = 70
"""Below this a limit that was warned of is out of danger, and is warned of again: one that sways around 80 is told once."""
INTERVAL_SECONDS = 5.0

FILES = "file_descriptors"


def levels(context: Context) -> list[admin_pb2.Fill]:
    """Every limit that fills up, the fullest first."""
    config = context.config
    found = [
        admin_pb2.Fill(limit=name, used=used, max=config.value(name))
        for source in (context.core, context.calls, context.watches, context.outboxes)
        for name, used in source.fill().items()
        if getattr(config.core, name, 1)  # a limit of 0 keeps nothing, and cannot be reached
    ]
    return sorted((*found, *_files()), key=lambda one: (-percent(one), one.limit))


def percent(fill: admin_pb2.Fill) -> int:
    """How full, rounded down: 100 is full."""
    return fill.used * 100 // fill.max


def _files() -> Sequence[admin_pb2.Fill]:
    with contextlib.suppress(OSError):  # without /proc, or when not even it can be opened, which `descriptors` tells
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY:
            return [admin_pb2.Fill(limit=FILES, used=len(os.listdir("/proc/self/fd")), max=most)]
    return []


async def watch(context: Context, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
    """Have the log warn of each limit that is nearly reached, once until it is out of danger, until cancelled."""
    warned: set[str] = set()
    while True:
        for one in levels(context):
            full = percent(one)
            if full >= WARN_PERCENT and one.limit not in warned:
                warned.add(one.limit)
                log.warning(
                    "a limit is nearly reached; docs/reference/limits.md tells what happens then",
                    limit=one.limit, used=one.used, max=one.max, percent=full,
                )  # fmt: skip
            elif full < CALM_PERCENT and one.limit in warned:
                warned.discard(one.limit)
                log.info("a limit has room again", limit=one.limit, used=one.used, max=one.max, percent=full)
        await sleep(INTERVAL_SECONDS)
