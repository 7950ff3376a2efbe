"""`troth serve`: the daemon as a process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import click
import structlog

from coordinator.cli import render
from coordinator.cli.command import Command, config_options
from coordinator.cli.config import load_options
from coordinator.cli.failure import LOG, OK
from coordinator.config import Config
from coordinator.server import Daemon, make_daemon
from troth import failpoints
from troth.errors import TrothError

EXAMPLES = """
troth serve                                          # 127.0.0.1:7420, data in var/coordinator
troth serve --config troth.toml
troth serve --name c1 --data-directory var/c1 --listen 127.0.0.1:0
"""

GC_ALLOCATIONS = 50_000
"""Objects that are made and kept between two collections of the youngest generation.

Nearly everything here is freed without the collector. A full collection walks over all that is retained, for some 100 ms; with
Python's defaults that is often, under load and above all in recovery.
"""


@click.command(cls=Command, examples=EXAMPLES)
@config_options
def serve(**options: Any) -> int:
    """Run the coordinator until SIGTERM or SIGINT. A second signal does not wait for undecided transactions."""
    failpoints.arm_from_environment()
    loaded = load_options(**options)
    configure_logging(loaded.config)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(run(loaded.config))


async def run(config: Config) -> int:
    """Run one daemon and return the exit code. Raises `TrothError` when it cannot start."""
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)
    daemon = make_daemon(config)
    gc.disable()  # recovery makes much, and nothing of it is garbage
    await daemon.start()
    gc.freeze()  # what was loaded and recovered stays: a collection need not look at it again
    gc.enable()
    stop = asyncio.Event()
    _on_signals(stop, daemon)
    render.tell(f"troth: serving on {daemon.address} (coordinator {config.shell.name}, epoch {daemon.epoch})")
    if not await _failed_before(stop.wait(), daemon):
        render.tell("troth: draining")
        if not await _failed_before(daemon.drain(), daemon):
            await daemon.stop()
    if daemon.failed.done():
        return await _abandon(daemon)
    render.tell("troth: stopped")
    return OK


async def _failed_before(what: Any, daemon: Daemon) -> bool:
    """Whether the log failed while something was awaited."""
    task = asyncio.ensure_future(what)
    await asyncio.wait((task, daemon.failed), return_when=asyncio.FIRST_COMPLETED)
    if daemon.failed.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True
    await task
    return False


async def _abandon(daemon: Daemon) -> int:
    error = daemon.failed.result()
    render.tell(f"troth: stopped at once: {error}")
    with contextlib.suppress(TrothError):
        await daemon.abandon()
    return LOG


def _on_signals(stop: asyncio.Event, daemon: Daemon) -> None:
    def signalled() -> None:
        if stop.is_set():
            daemon.hurry.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's when it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def configure_logging(config: Config) -> None:
    """Structured log lines on stderr."""
    level = getattr(logging, config.shell.log_level.upper())
    console = config.shell.log_format == "console" or (config.shell.log_format == "auto" and sys.stderr.isatty())
    last = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    before: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not console:
        before.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*before, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
