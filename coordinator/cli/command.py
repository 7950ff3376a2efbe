"""What all commands share: help that begins with examples, and the common options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


class _WithExamples:
    """Puts `examples` before everything else in the help."""

    examples: str = ""

    def format_usage(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then the usage."""
        if self.examples:
            formatter.write("Examples:\n")
            for line in self.examples.strip().splitlines():
                formatter.write(f"  {line.strip()}\n")
            formatter.write("\n")
        super().format_usage(context, formatter)  # type: ignore[misc]  # mixed into click's commands


class Command(_WithExamples, click.Command):
    """A command with examples."""

    def __init__(self, *args: Any, examples: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = examples


class Group(_WithExamples, click.Group):
    """A group of commands with examples; its commands have them too."""

    command_class = Command

    def __init__(self, *args: Any, examples: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = examples


Group.group_class = Group


def json_option(function: Function) -> Function:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)


def coordinator_option(function: Function) -> Function:
    """`--coordinator` and `--timeout`."""
    function = click.option(
        "--timeout", type=click.FloatRange(0.1, 3600), default=10.0, show_default=True,
        help="Seconds to wait for the coordinator.",
    )(function)  # fmt: skip
    return click.option(
        "--coordinator", metavar="HOST:PORT",
        help="The coordinator. Default: $TROTH_COORDINATOR, else the address in the data directory, else 127.0.0.1:7420.",
    )(function)  # fmt: skip


def why_options(function: Function) -> Function:
    """`--why`, `--who` and `--yes` of what is recorded."""
    function = click.option("--yes", is_flag=True, help="Do not ask.")(function)
    function = click.option("--who", help="Who asks. Default: USER@HOST.")(function)
    return click.option("--why", required=True, help="Why; it is recorded.")(function)


def config_options(function: Function) -> Function:
    """What the daemon's settings can be given with."""
    for option in reversed(_CONFIG_OPTIONS):
        function = option(function)
    return function


_CONFIG_OPTIONS = (
    click.option("--config", "file", type=click.Path(dir_okay=False), help="TOML file. Default: $TROTH_CONFIG."),
    click.option("--data-directory", metavar="DIR", help="Directory of the log."),
    click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one."),
    click.option("--name", metavar="NAME", help="The coordinator's name."),
    click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error."),
    click.option("--drain-seconds", metavar="SECONDS", help="How long a shutdown waits for undecided transactions."),
    click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Any setting, several times."),
)
