"""`troth demo` and `troth dev`: run the shop of the checkout."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import click

from coordinator.cli.command import Command
from coordinator.cli.failure import USAGE, Failure

CHECKOUT = Path(__file__).resolve().parents[2]
SHOP = CHECKOUT / "examples" / "shop"
_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@click.command(cls=Command, examples="troth demo\ntroth demo --orders my-orders.csv", context_settings=_PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> int:
    """Run the shop: orders over three services while everything is being killed."""
    return _run("demo", arguments)


@click.command(cls=Command, examples="troth dev\ntroth dev --keep\ntroth dev --closed", context_settings=_PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def dev(arguments: tuple[str, ...]) -> int:
    """Try it out: a coordinator, its console and three services, with a page to place orders and to crash one of them.

    Everything is in a temporary directory, and ends with Ctrl-C; --keep leaves the files.
    """
    return _run("dev", arguments)


def _run(name: str, arguments: tuple[str, ...]) -> int:
    """Run one of the shop's programs. It is told when somebody wants us to end, and we end when it has."""
    program = SHOP / f"{name}.py"
    if not program.is_file():
        raise Failure(
            USAGE, "NO_CHECKOUT", f"`troth {name}` is not installed: there is no {program}",
            f"Clone the repository and run `troth {name}` there.",
        )  # fmt: skip
    with subprocess.Popen([sys.executable, str(program), *arguments]) as running:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: running.terminate())
        while True:
            try:
                return running.wait()
            except KeyboardInterrupt:
                running.send_signal(signal.SIGINT)
