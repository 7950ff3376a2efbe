"""`troth participants`: who is known, who is connected, who owes what."""

from __future__ import annotations

import time
from typing import Any

import click

from coordinator.cli import render
from coordinator.cli.asking import confirm
from coordinator.cli.command import (
    Commands,
    Group,
    Later,
    coordinator_option,
    json_option,
    paging_options,
    tell_of_more,
    why_options,
)
from coordinator.cli.remote import connected, who_am_i
from coordinator.core.words import blocks_words
from troth.moments import utc
from troth.v1 import admin_pb2

EXAMPLES = """
troth participants                                   # who is connected, who owes what
troth participants list --json
troth participants affected payments                 # every branch that is in doubt there, every commit that its log lacks
troth participants replace payments --log-id 5f0c... --why "its disk died, restored from backup"
troth participants accept-loss --why "the coordinator's log is from last night"
troth participants reconcile payments --dsn postgresql://db/bank   # does it hold what the coordinator says?
troth participants repair payments --why "somebody posed as it"
troth participants forget payments --why "it was renamed"
"""


ELSEWHERE = Commands(Later(
    "reconcile", "Compare what the coordinator says with what the participant NAME, and its slots, hold: `troth reconcile` of one.",
    "coordinator.cli.reconcile:of_one",
))  # fmt: skip


@click.group(cls=Group, examples=EXAMPLES, commands=ELSEWHERE, invoke_without_command=True)
@paging_options(1_000)
@coordinator_option
@json_option
@click.pass_context
def participants(context: click.Context, /, **options: Any) -> None:
    """List participants, or let another log take over a name."""
    if context.invoked_subcommand is None:
        _list(**options)


@participants.command("list", examples="troth participants list --json")
@paging_options(1_000)
@coordinator_option
@json_option
def list_(**options: Any) -> None:
    """List the participants that the coordinator knows, by name."""
    _list(**options)


def _list(limit: int, page_token: str, coordinator: str | None, timeout: float, as_json: bool) -> None:
    with connected(coordinator, timeout) as remote:
        request = admin_pb2.ListParticipantsRequest(page_token=page_token)
        response = remote.pages(remote.admin.ListParticipants, request, "participants", limit)
    if as_json:
        render.write_json(render.plain(response))
        return
    columns = ("PARTICIPANT", "CONNECTED", "INCARNATION", "VOTES_OWED", "ACKS_OWED", "STRANDED", "LOG", "SOFTWARE")
    render.write_table(
        columns,
        (
            (
                p.participant, p.connected, p.incarnation, p.votes_owed, p.acknowledgements_owed, p.stranded_total, p.log_id,
                p.software,
            )
            for p in response.participants
        ),
    )  # fmt: skip
    for row in response.participants:
        _tell(row)
    tell_of_more(len(response.participants), response.total, response.next_page_token)


def _tell(p: admin_pb2.ParticipantSummary) -> None:
    """What a row has no room for."""
    for name in p.stranded:
        render.say(f"{p.participant} is in doubt about {name}, which this log did not begin, or has lost: settle it by hand")
    if p.stranded_total > len(p.stranded):
        more = p.stranded_total - len(p.stranded)
        render.say(f"... and about {more} more: troth participants affected {p.participant} --stranded")
    for name in p.lacking:
        render.say(f"{p.participant} has lost {name}, which was committed there: `troth txn explain {name}`")
    if p.lacking_total > len(p.lacking):
        more = p.lacking_total - len(p.lacking)
        render.say(f"... and {more} more: troth participants affected {p.participant} --lacking")
    if p.unlisted_ended_ms:
        render.say(
            f"{p.participant} may have lost commits that ended until {utc(p.unlisted_ended_ms)} (of epochs before "
            f"{p.unlisted_epoch}, and of that one with orders below {p.unlisted_order}), which are behind the retention and "
            f"cannot be listed: if its copy is older than that, compare by hand; then: "
            f"troth participants accept-loss {p.participant} --why ..."
        )
    for told in p.blocking:
        render.say(f"{p.participant} is in doubt about {told.transaction_id}: {blocks_words(told)}")
    if p.blocking_total > len(p.blocking):
        render.say(f"... and {p.blocking_total - len(p.blocking)} more of its branches hold somebody up")
    if p.recalling:
        left = f", {p.to_recall} are left" if p.connected else "; that goes on when it is connected"
        render.say(f"{p.participant} is asked which commits its log has, since that took the name over{left}")
    if p.undeclared:
        render.say(
            f"{p.participant} has operations that lock everything, for want of lock keys, and for which others have waited: "
            f"{', '.join(p.undeclared)}"
        )
    for one in p.invariants:
        if one.state != "HOLDS":
            what = "does not hold" if one.state == "VIOLATED" else "cannot be checked"
            since = utc(int((time.time() - one.for_seconds) * 1000))
            last = "" if p.connected else ", as it said last"
            render.say(f"the invariant {one.name} of {p.participant} {what}, since {since}{last}: {one.detail}")
    if p.awaited_log_id:
        render.say(f"{p.participant} waits for the log {p.awaited_log_id}, which an operator has named")
    if p.refused_log_id:
        render.say(
            f"{p.participant} was refused with the log {p.refused_log_id}; if it is to take the name over: "
            f"troth participants replace {p.participant} --log-id {p.refused_log_id} --why ..."
        )
    if p.loss:
        render.say(f"{p.loss}; see how-to/operate-a-coordinator, 'a lost or old log'")


_AFFECTED = """
troth participants affected payments                 # what is in doubt there and unknown here, and what its log lacks
troth participants affected payments --lacking --json
troth participants affected payments --operations    # what it offers
"""


@participants.command(examples=_AFFECTED)
@click.argument("name")
@click.option("--stranded", is_flag=True, help="What it is in doubt about, and the coordinator's log can say nothing of.")
@click.option("--lacking", is_flag=True, help="Commits that its log does not have any more.")
@click.option("--operations", is_flag=True, help="Its operations, while it is connected.")
@coordinator_option
@json_option
def affected(name: str, coordinator: str | None, timeout: float, as_json: bool, **wanted: bool) -> None:
    """List all that is affected at the participant NAME, by id, however much it is. Without an option: STRANDED and LACKING.

    NAME is as `troth participants` has it: of a service in slots that of one slot.
    """
    kinds = [kind for kind, is_wanted in wanted.items() if is_wanted] or ["stranded", "lacking"]
    with connected(coordinator, timeout) as remote:
        found = {kind: remote.details(name, _DETAILS[kind]) for kind in kinds}
    if as_json:
        render.write_json({"participant": name, **found})
        return
    render.write_table(("KIND", "NAME"), ((kind.upper(), one) for kind in kinds for one in found[kind]))
    render.tell(", ".join(f"{len(found[kind])} {kind}" for kind in kinds))


_DETAILS = {
    "stranded": admin_pb2.PARTICIPANT_DETAIL_STRANDED, "lacking": admin_pb2.PARTICIPANT_DETAIL_LACKING,
    "operations": admin_pb2.PARTICIPANT_DETAIL_OPERATIONS,
}  # fmt: skip


_ACCEPTING = """
troth participants accept-loss --why "the disk died, restored from last night"
troth participants accept-loss payments --why "compared with the statements of yesterday: nothing is missing"
"""


@participants.command("accept-loss", examples=_ACCEPTING)
@click.argument("name", required=False, default="")
@why_options
@coordinator_option
@json_option
def accept_loss(name: str, why: str, who: str | None, yes: bool, coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Let the coordinator go on although its log has lost what participants have heard.

    With NAME: somebody has compared which commits the log of this participant may lack that cannot be listed; nothing else changes.
    """
    if name:
        what = f"{name} was compared, and repaired:"
        lines = ["commits of it that are behind the retention, and that its log may lack, are not told of any more."]
    else:
        what = "go on without what the log has lost:"
        lines = [
            "participants that have heard more than it says are welcome again, and new work begins;",
            "of transactions that began before, no abort is presumed: what is in doubt stays so until it is settled by hand;",
            "keys of requests that began before are EXPIRED: their clients have to find out what happened.",
        ]
    confirm(what, lines, yes)
    with connected(coordinator, timeout) as remote:
        request = admin_pb2.AcceptLossRequest(who=who or who_am_i(), why=why, participant=name)
        response = remote.call(remote.admin.AcceptLoss, request)
    accepted = ", ".join(response.participants)
    render.answer(response, as_json, f"Accepted of {accepted}." if name else f"Accepted. Welcome again: {accepted}.")


@participants.command(examples='troth participants forget payments --why "it was renamed"')
@click.argument("name")
@why_options
@coordinator_option
@json_option
def forget(name: str, why: str, who: str | None, yes: bool, coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Forget the participant NAME, which is away and owes nothing: its name is free, and its place."""
    confirm(f"forget {name}:", ("the next log that says Hello under this name has it.",), yes)
    with connected(coordinator, timeout) as remote:
        request = admin_pb2.ForgetParticipantRequest(participant=name, who=who or who_am_i(), why=why)
        response = remote.call(remote.admin.ForgetParticipant, request)
    render.answer(response, as_json, f"{name} is forgotten.")


@participants.command(examples='troth participants repair payments --why "somebody posed as it with incarnation 900000"')
@click.argument("name")
@why_options
@coordinator_option
@json_option
def repair(name: str, why: str, who: str | None, yes: bool, coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Let the log that has the name NAME in again, whatever incarnation and position were told under it: they were not its own."""
    confirm(f"repair {name}:", ("its log is accepted at its next Hello, whatever it tells of itself.",), yes)
    with connected(coordinator, timeout) as remote:
        rows = remote.pages(remote.admin.ListParticipants, admin_pb2.ListParticipantsRequest(), "participants", 0).participants
        log_id = next((row.log_id or row.awaited_log_id for row in rows if row.participant == name), "")
        request = admin_pb2.ReplaceParticipantRequest(participant=name, log_id=log_id, who=who or who_am_i(), why=why)
        response = remote.call(remote.admin.ReplaceParticipant, request)
    render.answer(response, as_json, f"The log {log_id} has the name {name}, and tells anew how far it is.")


@participants.command(examples='troth participants replace payments --log-id 5f0c... --why "its disk died"')
@click.argument("name")
@click.option("--log-id", required=True, metavar="ID", help="The log that takes the name over: `troth participants` tells it.")
@why_options
@coordinator_option
@json_option
def replace(
    name: str, log_id: str, why: str, who: str | None, yes: bool, coordinator: str | None, timeout: float, as_json: bool
) -> None:  # fmt: skip
    """Let the log ID take over the name NAME; another one is refused."""
    confirm(
        f"replace {name}:",
        (
            f"the log {log_id} is accepted under this name, and every other one is refused from then on;",
            "what the old log had prepared is not in the new one: commits that it owes will be HAZARD;",
            "so will what it was to decide alone, when its answer was lost and the new one does not have it;",
            "it is asked which commits it has; those that it lacks are listed by their ids, until each is forgotten;",
            "commits that are behind the retention cannot be listed: `troth participants` tells until when they ended.",
        ),
        yes,
    )
    with connected(coordinator, timeout) as remote:
        request = admin_pb2.ReplaceParticipantRequest(participant=name, log_id=log_id, who=who or who_am_i(), why=why)
        response = remote.call(remote.admin.ReplaceParticipant, request)
    render.answer(response, as_json, f"The log {log_id} will be accepted under the name {name}.")
