"""What all commands share: help that begins with examples, and the common options."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, MutableMapping
from importlib import import_module
from typing import Any, TypeVar

import click

from coordinator.cli import render

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


class Later(click.Command):
    """A command of which only its line in a list is known; its module is imported when it is run, or asked for what it has.

    `place` is `MODULE:NAME`. A module whose extra is not installed raises `ModuleNotFoundError` then.
    """

    def __init__(self, name: str, line: str, place: str = "") -> None:
        super().__init__(name, help=line)
        self.place = place or f"coordinator.cli.{name}:{name}"

    def itself(self) -> click.Command:
        """The command, imported."""
        module, _, attribute = self.place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the command itself, with which click goes on: it parses, runs, helps and completes there."""
        return self.itself().make_context(info_name, args, parent, **extra)


class Commands(MutableMapping[str, click.Command]):
    """The commands of a group by name, each imported when it is asked for: what one command needs, most others do not."""

    def __init__(self, *commands: Later) -> None:
        self.listed: dict[str, click.Command] = {command.name: command for command in commands if command.name}
        """What a list shows and what runs: nothing is imported for being listed."""

    def __getitem__(self, name: str) -> click.Command:
        known = self.listed[name]
        return known.itself() if isinstance(known, Later) else known

    def __setitem__(self, name: str, command: click.Command) -> None:
        self.listed[name] = command

    def __delitem__(self, name: str) -> None:
        del self.listed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)


class Group(_WithExamples, click.Group):
    """A group of commands with examples; its commands have them too."""

    command_class = Command

    def __init__(self, *args: Any, examples: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = examples

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name, as click lists it and runs it."""
        if isinstance(self.commands, Commands):
            return self.commands.listed.get(cmd_name)
        return super().get_command(ctx, cmd_name)


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
    for option in reversed(_TLS_OPTIONS):
        function = option(function)
    return click.option(
        "--coordinator", metavar="HOST:PORT",
        help="The coordinator; several nodes with commas between them. "
        "Default: $TROTH_COORDINATOR, else the address in the data directory, else 127.0.0.1:7420.",
    )(function)  # fmt: skip


def _keep_tls(context: click.Context, option: click.Parameter, value: str) -> None:
    """Every command that calls the coordinator has these; `coordinator.cli.calling` takes them from here."""
    given = tuple(shlex.split(value)) if option.name == "token_command" else value
    context.meta.setdefault(TLS_META, {})[str(option.name).removeprefix("tls_")] = given


TLS_META = "troth.tls"
"""Where a command's context keeps the files of TLS that it was given, by the names of `Tls`."""


def _tls_option(name: str, text: str, metavar: str = "FILE") -> Callable[[Function], Function]:
    variable = f"TROTH_CLIENT_{name.upper().removeprefix('TLS-').replace('-', '_')}"
    return click.option(
        f"--{name}", envvar=variable, default="", metavar=metavar, expose_value=False, callback=_keep_tls,
        help=f"{text} Default: ${variable}.",
    )  # fmt: skip


_TLS_OPTIONS = (
    _tls_option("tls-authorities", "Who signs for the coordinator; turns TLS on."),
    _tls_option("tls-certificate", "Your certificate."),
    _tls_option("tls-key", "Its private key."),
    _tls_option("token-file", "Instead of a certificate, your token; turns TLS on."),
    _tls_option("token-command", "Instead of that, a program that writes it.", "COMMAND"),
)


def paging_options(default: int) -> Callable[[Function], Function]:
    """`--limit` and `--page-token` of a listing."""

    def decorate(function: Function) -> Function:
        function = click.option(
            "--page-token", default="", metavar="TOKEN", help="Go on where a listing that was cut ended; it tells the token."
        )(function)
        return click.option(
            "--limit", type=click.IntRange(min=0), default=default, show_default=True, help="At most so many; 0 for all."
        )(function)

    return decorate


def tell_of_more(shown: int, total: int, token: str) -> None:
    """Say that a listing was cut, and how to see the rest."""
    if token:
        render.tell(f"{shown} of {total}; --limit 0 shows all, --page-token {token} goes on")


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
    click.option("--store", metavar="DSN", help="PostgreSQL database of the log, in place of the directory; see `troth store`."),
    click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one."),
    click.option("--tls-certificate", metavar="FILE", help="The coordinator's certificate; see `troth pki`."),
    click.option("--tls-key", metavar="FILE", help="The certificate's private key."),
    click.option("--tls-authorities", metavar="FILE", help="Who signs for participants, clients and operators."),
    click.option("--insecure", flag_value=True, default=None, help="Listen beyond this machine without TLS."),
    click.option("--name", metavar="NAME", help="The coordinator's name."),
    click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error."),
    click.option("--drain-seconds", metavar="SECONDS", help="How long a shutdown waits for undecided transactions."),
    click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Any setting, several times."),
)
