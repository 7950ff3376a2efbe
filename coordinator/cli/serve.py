"""`troth serve`: the daemon as a process."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import structlog

from coordinator.alone import Alone, Tell
from coordinator.cli import render
from coordinator.cli.command import Command, config_options
from coordinator.cli.config import load_options
from coordinator.cli.failure import LOG, OK, failure_of
from coordinator.config import Config
from coordinator.config_checks import LOG_FORMATS
from coordinator.notify import Notify
from coordinator.reloading import Read
from troth import failpoints
from troth.errors import TrothError
from troth.logs import get_logger, plain_traceback, visible, visible_lines

log = get_logger("troth.serve")

if TYPE_CHECKING:
    from coordinator.cell.node import CellNode

EXAMPLES = """
troth serve                                          # 127.0.0.1:7420, data in var/coordinator
troth serve --config troth.toml
troth serve --name c1 --data-directory var/c1 --listen 127.0.0.1:0
kill -HUP PID                                        # have it read its settings again; see `troth config reload`
troth serve --store postgresql://db/troth            # one of several nodes; see `troth store`
"""

GC_ALLOCATIONS = 50_000
"""Objects that are made and kept between two collections of the youngest generation.

Nearly everything here is freed without the collector. A full collection walks over all that is retained, for some 100 ms; with
Python's defaults that is often, under load and above all in recovery.
"""


@click.command(cls=Command, examples=EXAMPLES)
@config_options
def serve(**options: Any) -> int:
    """Run the coordinator until SIGTERM or SIGINT. A second signal does not wait for undecided transactions. SIGHUP has it read its
    settings again, as `troth config reload` does."""
    voice = configure_logging(_format_asked(options["assignments"], os.environ), "info")
    try:
        failpoints.arm_from_environment()
        config = load_options(**options).config
        voice = configure_logging(config.shell.log_format, config.shell.log_level)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(run(config, voice, functools.partial(load_options, **options)))
    except TrothError as error:
        failure = failure_of(error)
        voice.fail(failure.text())
        return failure.exit_code


async def run(config: Config, voice: Voice, read: Read | None = None) -> int:
    """Run one node and return the exit code. Raises `TrothError` when it cannot start."""
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)
    notify = Notify()
    node = _node(config, _both(voice.tell, notify.status), _both(voice.tell, notify.ready), read)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _end, node, notify)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, node.reload)
    beating = asyncio.create_task(notify.beat(), name="troth-watchdog")
    try:
        error = await node.run()
    finally:
        beating.cancel()
    if error is not None:
        voice.fail(f"stopped at once: {error}")
        return LOG
    voice.tell("stopped")
    return OK


def _format_asked(assignments: tuple[str, ...], environment: Mapping[str, str]) -> str:
    """The format in which wrong settings are told, when there are no right ones yet: as a flag or the environment has it."""
    named = [value for one in assignments for name, _, value in [one.partition("=")] if name == "log_format"]
    return next((one for one in (*named[-1:], environment.get("TROTH_LOG_FORMAT")) if one in LOG_FORMATS), "auto")


def _both(one: Tell, other: Tell) -> Tell:
    """Tells two."""

    def tell(what: str) -> None:
        one(what)
        other(what)

    return tell


def _end(node: Alone | CellNode, notify: Notify) -> None:
    notify.stopping()
    node.stop()


def _node(config: Config, tell: Tell, serving: Tell, read: Read | None) -> Alone | CellNode:
    """What runs: a coordinator on a file, or a node of a cell on a store. (The latter needs the extra `postgres`.)"""
    if not config.shell.store:
        return Alone(config, tell, serving, read)
    from coordinator.cell.node import CellNode

    return CellNode(config, tell, serving, read)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's when it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


class Voice(NamedTuple):
    """Says to people how the process is, and why it ends. Where all other lines are JSON, these are too, whatever the level."""

    tell: Tell
    fail: Tell


def configure_logging(log_format: str, level: str) -> Voice:
    """Structured log lines on stderr: JSON, or columns on a terminal. Lines of libraries are there too, from warnings on."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    last: Any = structlog.processors.JSONRenderer()
    if console:
        # The exception is a text by then; structlog's first versions of 25 warn of that unless they are told how it would be made.
        plain = structlog.dev.plain_traceback
        last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
    after: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _format_traceback]
    if console:
        after.append(_show)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[*after, last],
            foreign_pre_chain=[
                _take_fields,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
        )
    )
    handler.addFilter(_is_about_us)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("troth").setLevel(level.upper())
    logging.getLogger("troth.serve").setLevel(logging.INFO)
    logging.captureWarnings(True)
    if console:
        return Voice(_say_plainly, _say_plainly)
    sys.excepthook = _log_uncaught
    return Voice(log.info, log.error)


def _is_about_us(record: logging.LogRecord) -> bool:
    """Whether a line is for people. gRPC tells with a traceback that the status of a call did not reach a peer that has just left,
    which any peer may do at any time; a call that we have used wrongly fails with another text."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__name__ != "ExecuteBatchError" or not str(error).startswith('Failed "execute_batch"')


def _say_plainly(what: str) -> None:
    render.tell(f"troth: {what}")


def _log_uncaught(kind: type[BaseException], error: BaseException, _: object) -> None:
    log.critical("ended by an error of its own; please report it", exc_info=error)


def _format_traceback(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """The exception as a text, without locals."""
    told = event.pop("exc_info", None)
    error = told[1] if isinstance(told, tuple) else told
    return {**event, "exception": plain_traceback(error)} if isinstance(error, BaseException) else event


def _show(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """The parts of a line for a terminal; peers have a say in most of them."""
    lines = ("event", "exception")  # of libraries there may be several
    return {
        name: (visible_lines if name in lines else visible)(value) if isinstance(value, str) else value
        for name, value in event.items()
    }


def _take_fields(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """The parts of a line of `troth.logs`, in place of its text."""
    record = event["_record"]
    if not hasattr(record, "fields"):
        return event
    return {**event, "event": record.event, **record.fields}
