"""`troth txn`: see, understand and force transactions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from coordinator.cli import render
from coordinator.cli.asking import confirm
from coordinator.cli.command import Group, coordinator_option, json_option, why_options
from coordinator.cli.failure import REFUSED, Failure
from coordinator.cli.remote import Remote, connected, translated, who_am_i
from coordinator.services.status import outcome_name
from troth.v1 import admin_pb2, client_pb2

EXAMPLES = """
troth txn list                                       # what is not finished, oldest first
troth txn list --state COMMITTING --participant payments --json
troth txn show c1.7.9f2c4e1a.3.42                    # the facts
troth txn explain c1.7.9f2c4e1a.3.42                 # in words: why, who owes what, what next
troth txn watch c1.7.9f2c4e1a.3.42                   # each state as it comes
troth txn resolve c1.7.9f2c4e1a.3.42 abort --why "the client is gone"
troth txn forget c1.7.9f2c4e1a.3.42 --why "repaid by hand, ticket 4711"
"""

COLUMNS = ("TRANSACTION", "STATE", "OUTCOME", "AGE_SECONDS", "PARTICIPANTS", "OWING", "KEY")

ACTIONS = {
    "abort": admin_pb2.RESOLVE_ACTION_ABORT,
    "commit": admin_pb2.RESOLVE_ACTION_COMMIT,
    "abandon": admin_pb2.RESOLVE_ACTION_ABANDON,
}


@click.group(cls=Group, examples=EXAMPLES)
def txn() -> None:
    """See, understand and force transactions."""


@txn.command("list", examples="troth txn list --state COMMITTING\ntroth txn list --finished --json")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only this state; several times.")
@click.option("--participant", default="", help="Only transactions of this participant.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@click.option("--finished", is_flag=True, help="Finished ones within the retention too.")
@coordinator_option
@json_option
def list_(
    states: tuple[str, ...], participant: str, limit: int, finished: bool, coordinator: str | None, timeout: float,
    as_json: bool,
) -> None:  # fmt: skip
    """List transactions, oldest first."""
    request = admin_pb2.ListTransactionsRequest(
        states=[state.upper() for state in states], participant=participant, limit=limit, finished=finished
    )
    with connected(coordinator, timeout) as remote:
        response = remote.call(remote.admin.ListTransactions, request)
    if as_json:
        render.write_json(render.plain(response))
        return
    render.write_table(COLUMNS, (_row(summary) for summary in response.transactions))
    if response.total > len(response.transactions):
        render.tell(f"{len(response.transactions)} of {response.total}; --limit shows more")


def _row(summary: admin_pb2.TransactionSummary) -> tuple[Any, ...]:
    return (
        summary.transaction_id, summary.state, outcome_name(summary.outcome), summary.age_seconds,
        list(summary.participants), list(summary.owing), summary.key,
    )  # fmt: skip


@txn.command(examples="troth txn show c1.7.9f2c4e1a.3.42")
@click.argument("transaction_id")
@coordinator_option
@json_option
def show(transaction_id: str, coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Show the facts of one transaction."""
    with connected(coordinator, timeout) as remote:
        response = _explain(remote, transaction_id)
    if not response.HasField("summary"):
        raise Failure(REFUSED, "UNKNOWN_TRANSACTION", response.explanation)
    if as_json:
        document = render.plain(response)
        render.write_json({"summary": document["summary"], "branches": document["branches"]})
        return
    _show_summary(response.summary)
    _show_branches(response)


@txn.command(examples="troth txn explain c1.7.9f2c4e1a.3.42")
@click.argument("transaction_id")
@coordinator_option
@json_option
def explain(transaction_id: str, coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Say in words why a transaction is where it is, who owes what, what comes next, and what forcing it would do."""
    with connected(coordinator, timeout) as remote:
        response = _explain(remote, transaction_id)
    if as_json:
        render.write_json(render.plain(response))
    else:
        _show_explanation(response)


def _explain(remote: Remote, transaction_id: str) -> admin_pb2.ExplainResponse:
    response: admin_pb2.ExplainResponse = remote.call(
        remote.admin.Explain, admin_pb2.ExplainRequest(transaction_id=transaction_id)
    )
    return response


def _show_summary(summary: admin_pb2.TransactionSummary) -> None:
    render.write_facts(zip((column.lower() for column in COLUMNS), _row(summary), strict=True))


def _show_branches(response: admin_pb2.ExplainResponse) -> None:
    if response.branches:
        click.echo()
        columns = ("PARTICIPANT", "STATE", "CONNECTED", "NEXT_TRY_SECONDS")
        render.write_table(columns, ((b.participant, b.state, b.connected, _next(b)) for b in response.branches))


def _next(branch: admin_pb2.BranchExplanation) -> str:
    return f"{branch.next_try_seconds:.1f}" if branch.next_try_seconds >= 0 else "-"


def _show_explanation(response: admin_pb2.ExplainResponse) -> None:
    if response.HasField("summary"):
        summary = response.summary
        click.echo(f"{summary.transaction_id} is {summary.state}, outcome {outcome_name(summary.outcome)}.")
    click.echo(response.explanation)
    for branch in response.branches:
        due = f" Next try in {branch.next_try_seconds:.1f} s." if branch.next_try_seconds >= 0 else ""
        click.echo(f"  {branch.explanation}{due}")
    if response.next:
        click.echo(f"Next: {response.next}")
    for line in response.if_forced:
        click.echo(f"If forced: {line}")


@txn.command(examples="troth txn watch c1.7.9f2c4e1a.3.42")
@click.argument("transaction_id")
@coordinator_option
@json_option
def watch(transaction_id: str, coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Tell each state of a transaction until it is finished. With --json: one list, written as it grows."""
    with connected(coordinator, timeout) as remote, translated(remote.address):
        states = remote.transactions.Watch(client_pb2.WatchRequest(transaction_id=transaction_id))
        if as_json:
            _write_json_list(render.plain(state) for state in states)
        else:
            for state in states:
                click.echo(f"{state.state}\t{outcome_name(state.outcome)}\t{state.explanation}")


def _write_json_list(documents: Iterator[dict[str, Any]]) -> None:
    # The first one is fetched before anything is written: a refusal must still be able to be the only document.
    first = next(documents, None)
    click.echo("[" if first is None else "[\n" + json.dumps(first, ensure_ascii=False), nl=False)
    for document in documents:
        click.echo(",\n" + json.dumps(document, ensure_ascii=False), nl=False)
    click.echo("\n]")


@txn.command(
    examples='troth txn resolve c1.7.9f2c4e1a.3.42 abort --why "the client is gone"\n'
    'troth txn resolve c1.7.9f2c4e1a.3.42 abandon --why "payments was scrapped" --yes'
)
@click.argument("transaction_id")
@click.argument("action", type=click.Choice(list(ACTIONS)))
@click.option("--participant", default="", help="Only the branch of this participant.")
@why_options
@coordinator_option
@json_option
def resolve(
    transaction_id: str, action: str, participant: str, why: str, who: str | None, yes: bool, coordinator: str | None,
    timeout: float, as_json: bool,
) -> None:  # fmt: skip
    """Force an outcome. It is recorded with who, when and why."""
    with connected(coordinator, timeout) as remote:
        told = _explain(remote, transaction_id)
        whom = f" at {participant}" if participant else ""
        matching = [line for line in told.if_forced if line.startswith(action)]
        confirm(f"{action} {transaction_id}{whom}: {told.explanation}", matching or told.if_forced, yes)
        request = admin_pb2.ResolveRequest(
            transaction_id=transaction_id, action=ACTIONS[action], participant=participant, who=who or who_am_i(), why=why
        )
        response = remote.call(remote.admin.Resolve, request)
    if as_json:
        render.write_json(render.plain(response))
    else:
        click.echo(response.message)


@txn.command(examples='troth txn forget c1.7.9f2c4e1a.3.42 --why "repaid by hand, ticket 4711"')
@click.argument("transaction_id")
@why_options
@coordinator_option
@json_option
def forget(
    transaction_id: str, why: str, who: str | None, yes: bool, coordinator: str | None, timeout: float, as_json: bool
) -> None:
    """Forget a heuristic outcome that has been dealt with."""
    with connected(coordinator, timeout) as remote:
        told = _explain(remote, transaction_id)
        confirm(f"forget {transaction_id}: {told.explanation}", told.if_forced, yes)
        request = admin_pb2.ForgetTransactionRequest(transaction_id=transaction_id, who=who or who_am_i(), why=why)
        response = remote.call(remote.admin.ForgetTransaction, request)
    if as_json:
        render.write_json(render.plain(response))
    else:
        click.echo(f"{transaction_id} is forgotten.")
