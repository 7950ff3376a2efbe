"""`troth drain` and `troth status`: the daemon as a whole."""

from __future__ import annotations

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
    if as_json:
        render.write_json(render.plain(response))
    else:
        click.echo(f"draining\tundecided={response.undecided}\tunacknowledged={response.unacknowledged}")


@click.command(cls=Command, examples="troth status\ntroth status --json")
@coordinator_option
@json_option
def status(coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Tell the daemon's identity, counters and limits."""
    with connected(coordinator, timeout) as remote:
        response = remote.call(remote.admin.GetStatus, admin_pb2.GetStatusRequest())
    document = render.plain(response)
    if as_json:
        render.write_json(document)
        return
    nested = {"counters", "limits"}
    render.write_facts((name, value) for name, value in document.items() if name not in nested)
    for name in sorted(nested):
        click.echo()
        render.write_table((name.upper(), "VALUE"), document[name].items())
