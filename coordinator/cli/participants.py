"""`troth participants`: who is known, who is connected, who owes what."""

from __future__ import annotations

import click

from coordinator.cli import render
from coordinator.cli.asking import confirm
from coordinator.cli.command import Group, coordinator_option, json_option, why_options
from coordinator.cli.remote import connected, who_am_i
from troth.v1 import admin_pb2

EXAMPLES = """
troth participants                                   # who is connected, who owes what
troth participants list --json
troth participants replace payments --why "its disk died, restored from backup"
"""


@click.group(cls=Group, examples=EXAMPLES, invoke_without_command=True)
@coordinator_option
@json_option
@click.pass_context
def participants(context: click.Context, coordinator: str | None, timeout: float, as_json: bool) -> None:
    """List participants, or let another log take over a name."""
    if context.invoked_subcommand is None:
        _list(coordinator, timeout, as_json)


@participants.command("list", examples="troth participants list --json")
@coordinator_option
@json_option
def list_(coordinator: str | None, timeout: float, as_json: bool) -> None:
    """List every participant that the coordinator knows."""
    _list(coordinator, timeout, as_json)


def _list(coordinator: str | None, timeout: float, as_json: bool) -> None:
    with connected(coordinator, timeout) as remote:
        response = remote.call(remote.admin.ListParticipants, admin_pb2.ListParticipantsRequest())
    if as_json:
        render.write_json(render.plain(response))
        return
    columns = ("PARTICIPANT", "CONNECTED", "INCARNATION", "VOTES_OWED", "ACKS_OWED", "LOG", "SOFTWARE")
    render.write_table(
        columns,
        (
            (p.participant, p.connected, p.incarnation, p.votes_owed, p.acknowledgements_owed, p.log_id, p.software)
            for p in response.participants
        ),
    )


@participants.command(examples='troth participants replace payments --why "its disk died, restored from backup"')
@click.argument("name")
@why_options
@coordinator_option
@json_option
def replace(
    name: str, why: str, who: str | None, yes: bool, coordinator: str | None, timeout: float, as_json: bool
) -> None:
    """Let the next log that says Hello under NAME take the name over."""
    confirm(
        f"replace {name}:",
        (
            "the next log under this name is accepted, and the old one is refused from then on;",
            "what the old log had prepared is not in the new one: commits that it owes will be HAZARD.",
        ),
        yes,
    )
    with connected(coordinator, timeout) as remote:
        request = admin_pb2.ReplaceParticipantRequest(participant=name, who=who or who_am_i(), why=why)
        response = remote.call(remote.admin.ReplaceParticipant, request)
    if as_json:
        render.write_json(render.plain(response))
    else:
        click.echo(f"The next log under the name {name} will be accepted.")
