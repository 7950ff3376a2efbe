"""`troth config`: what is set, and where that comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coordinator.cli import render
from coordinator.cli.command import Group, config_options, coordinator_option, json_option
from coordinator.cli.failure import OK, AlreadyTold
from coordinator.cli.remote import connected, refused
from coordinator.config import Loaded, load, parse_assignments
from troth.v1 import admin_pb2

EXAMPLES = """
troth config show                                    # every setting, and where it comes from
troth config show --config troth.toml --json
troth config check --config troth.toml               # exit 2 with what is wrong
troth config reload --dry-run                        # what would a running daemon change, and what needs a restart?
"""


def load_options(file: str | None, assignments: tuple[str, ...], **named: Any) -> Loaded:
    """The settings from the options of `config_options`: what was not given is `None`."""
    flags: dict[str, Any] = parse_assignments(assignments)
    flags.update({name: value for name, value in named.items() if value is not None})
    return load(Path(file) if file else None, flags=flags)


@click.group(cls=Group, examples=EXAMPLES)
def config() -> None:
    """Show or check the daemon's settings, or have it read them again."""


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


@config.command(examples="troth config reload --dry-run\ntroth config reload")
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@coordinator_option
@json_option
def reload(dry_run: bool, coordinator: str | None, timeout: float, as_json: bool) -> int:
    """Have the daemon that answers read its settings again, from the flags, variables and file that it was started with.

    Tells each setting that differs. When one is wrong, or needs a restart, nothing is changed, and the exit code is 1.
    """
    with connected(coordinator, timeout) as remote:
        response = remote.ask(remote.admin.ReloadConfig, admin_pb2.ReloadConfigRequest(dry_run=dry_run))
    if as_json:
        render.write_json(render.plain(response))
    else:
        rows = (
            (one.name, one.before, one.after, "reload" if one.reloadable else "restart", one.origin) for one in response.changes
        )  # fmt: skip
        render.write_table(("SETTING", "BEFORE", "AFTER", "NEEDS", "FROM"), rows)
    if response.HasField("refusal"):
        raise AlreadyTold(refused(response.refusal))
    if not as_json:
        render.tell(f"troth: {_what_came(response, dry_run)}")
    return OK


def _what_came(response: admin_pb2.ReloadConfigResponse, dry_run: bool) -> str:
    if not response.changes:
        return "nothing differs from the settings in use"
    return "nothing is changed: this was a dry run" if dry_run else "these settings are in use now"
