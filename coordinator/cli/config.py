"""`troth config`: what is set, and where that comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coordinator.cli import render
from coordinator.cli.command import Group, config_options, json_option
from coordinator.config import Loaded, load, parse_assignments

EXAMPLES = """
troth config show                                    # every setting, and where it comes from
troth config show --config troth.toml --json
troth config check --config troth.toml               # exit 2 with what is wrong
"""


def load_options(file: str | None, assignments: tuple[str, ...], **named: Any) -> Loaded:
    """The settings from the options of `config_options`: what was not given is `None`."""
    flags: dict[str, Any] = parse_assignments(assignments)
    flags.update({name: value for name, value in named.items() if value is not None})
    return load(Path(file) if file else None, flags=flags)


@click.group(cls=Group, examples=EXAMPLES)
def config() -> None:
    """Show or check the daemon's settings."""


@config.command(examples="troth config show\ntroth config show --set open_transactions_max=500 --json")
@config_options
@json_option
def show(as_json: bool, **options: Any) -> None:
    """Show every setting, its unit, and where its value comes from."""
    loaded = load_options(**options)
    if as_json:
        render.write_json(
            {one.name: {"value": one.value, "unit": one.unit, "origin": one.origin} for one in loaded.settings}
        )
        return
    rows = ((one.name, _exact(one.value), one.unit, one.origin) for one in loaded.settings)
    render.write_table(("SETTING", "VALUE", "UNIT", "FROM"), rows)


def _exact(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@config.command(examples="troth config check --config troth.toml")
@config_options
@json_option
def check(as_json: bool, **options: Any) -> None:
    """Check the settings; exit 2 with what is wrong."""
    load_options(**options)
    if as_json:
        render.write_json({"ok": True})
    else:
        render.say("ok")
