"""`troth drain` and `troth status`: the daemon as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from coordinator.cli import render
from coordinator.cli.command import Command, coordinator_option, json_option
from coordinator.cli.remote import connected
from troth.v1 import admin_pb2


@click.command(cls=Command, examples="troth drain\ntroth drain --json")
@coordinator_option
@json_option
def drain(coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Refuse new transactions. What is begun goes on; stop the daemon with SIGTERM when nothing is undecided."""
    with connected(coordinator, timeout) as remote:
        response = remote.call(remote.admin.Drain, admin_pb2.DrainRequest())
    render.answer(response, as_json, "draining", f"undecided={response.undecided}", f"unacknowledged={response.unacknowledged}")


PER_SHARD = (
    "One node of a cell of {shards} shards. The limits of the core hold for each shard, and the fullest one here is shown. "
    "keys_max is of the cell, and of it each shard has one part in {shards}. Calls, streams, watches and outboxes are the node's."
)
"""What is said of limits where there are several shards (docs/decisions/0047)."""


@click.command(cls=Command, examples="troth status\ntroth status --json")
@coordinator_option
@json_option
def status(coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Tell the daemon's identity, counters and limits, and how full those are that fill up. Warns of what is 80 % full."""
    from coordinator.services.fills import WARN_PERCENT, percent

    with connected(coordinator, timeout) as remote:
        response = remote.call(remote.admin.GetStatus, admin_pb2.GetStatusRequest())
        shards = len(remote.call(remote.admin.GetCell, admin_pb2.GetCellRequest()).shards)
    document = render.plain(response)
    if as_json:
        render.write_json(document)
    else:
        _show_status(document, ((one.limit, one.used, one.max, f"{percent(one)} %") for one in response.fills))
        if shards > 1:
            render.say()
            render.say(PER_SHARD.format(shards=shards))
    for one in response.fills:
        if percent(one) >= WARN_PERCENT:
            render.tell(f"troth: {one.limit} is {percent(one)} % full; see docs/reference/limits.md")


def _show_status(document: dict[str, Any], fills: Iterable[tuple[Any, ...]]) -> None:
    nested = {"counters": "COUNTER", "limits": "LIMIT OF A REQUEST"}
    render.write_facts((name, value) for name, value in document.items() if name not in (*nested, "fills", "features"))
    render.say()
    told = ((one["name"], one["where"], "held back" if one["held_back"] else "used", one["what"]) for one in document["features"])
    render.write_table(("FEATURE", "OF THE", "STATE", "WHAT IT IS FOR"), told)
    render.say()
    render.write_table(("LIMIT", "USED", "MAX", "FULL"), fills)
    for name, title in nested.items():
        render.say()
        render.write_table((title, "VALUE"), document[name].items())
