"""`troth txn`: see, understand and force transactions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli import render
from coordinator.cli.asking import confirm
from coordinator.cli.command import Group, coordinator_option, json_option, paging_options, tell_of_more, why_options
from coordinator.cli.durations import Duration, Since
from coordinator.cli.failure import OK, REFUSED, AlreadyTold, Failure
from coordinator.cli.remote import connected, who_am_i
from coordinator.core.listing import FINISHED_NAMES, STATE_NAMES
from coordinator.core.model import outcome_name
from coordinator.core.words import cause_words
from troth.v1 import admin_pb2, client_pb2

if TYPE_CHECKING:
    from coordinator.cli.calling import Remote

EXAMPLES = """
troth txn list                                       # what is not finished, oldest first
troth txn list --state COMMITTING --participant payments --json
troth txn list --since 24h --outcome ABORTED --newest     # what was aborted since yesterday, from the history
troth txn list --trace 4bf92f3577b34da6a3ce929d0e0e4736  # from a span, or a line of a log, to its transaction
troth txn show c1.7.9f2c4e1a.3.42                    # the facts
troth txn explain c1.7.9f2c4e1a.3.42                 # in words: why, who owes what, what next
troth txn watch c1.7.9f2c4e1a.3.42                   # each state as it comes
troth txn resolve c1.7.9f2c4e1a.3.42 abort --why "the client is gone"
troth txn forget c1.7.9f2c4e1a.3.42 --why "repaid by hand, ticket 4711"
"""

COLUMNS = ("TRANSACTION", "STATE", "OUTCOME", "AGE_SECONDS", "TOOK_SECONDS", "PARTICIPANTS", "OWING", "KEY", "CAUSE", "TRACE")
STATES = STATE_NAMES - FINISHED_NAMES
"""States of what is not over; what is over has outcomes."""

FORGET_WORDS = "it is no longer listed as something to look at; do it when the damage is repaired."

ACTIONS = {
    "abort": admin_pb2.RESOLVE_ACTION_ABORT,
    "commit": admin_pb2.RESOLVE_ACTION_COMMIT,
    "abandon": admin_pb2.RESOLVE_ACTION_ABANDON,
}


@click.group(cls=Group, examples=EXAMPLES)
def txn() -> None:
    """See, understand and force transactions."""


def named(known: Collection[str]) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[str, ...]]:
    """Takes those names that are known, in any case of letters."""

    def take(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(text.upper() for text in texts)
        for name in names:
            if name not in known:
                raise click.BadParameter(f"{name!r} is not one of {', '.join(sorted(known))}", context, option)
        return names

    return take


@txn.command(
    "list",
    examples="troth txn list --state COMMITTING\n"
    "troth txn list --since 24h --outcome ABORTED --newest\n"
    "troth txn list --since 7d --slow 2s --participant payments --limit 0 --csv > slow.csv",
)
@click.option(
    "--state", "states", multiple=True, metavar="STATE", callback=named(STATES),
    help=f"Only what is in this state; several times. One of {', '.join(sorted(STATES))}.",
)  # fmt: skip
@click.option(
    "--outcome", "outcomes", multiple=True, metavar="OUTCOME", callback=named(FINISHED_NAMES),
    help=f"What ended so; several times. One of {', '.join(sorted(FINISHED_NAMES))}.",
)  # fmt: skip
@click.option("--since", "since_ms", type=Since(), help="What ended since: 30m, 12h, 7d ago, or a time as 2026-01-31T08:00.")
@click.option("--slow", "slow_ms", type=Duration(), default=0, help="Only what took, or has taken, so long: 250ms, 2s, 1m.")
@click.option("--participant", default="", help="Only transactions of this participant.")
@click.option("--key", default="", help="Only transactions with this idempotency key, those that are over too.")
@click.option(
    "--trace", "trace_id", default="", metavar="TRACE_ID", callback=lambda context, option, text: text.strip().lower(),
    help="Only transactions of this trace, as a span or a line of a log has it; those that are over too, from the history.",
)  # fmt: skip
@click.option("--finished", is_flag=True, help="What is over, too; --outcome and --since say so themselves.")
@click.option("--newest", "newest_first", is_flag=True, help="Newest first.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with a line of names.")
@paging_options(100)
@coordinator_option
@json_option
def list_(
    limit: int, page_token: str, coordinator: str | None, timeout: float, as_json: bool, as_csv: bool, states: tuple[str, ...],
    outcomes: tuple[str, ...], since_ms: int | None, finished: bool, **filters: Any,
) -> None:  # fmt: skip
    """List transactions: those that are not over, and on request those that are, from the history."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    request = admin_pb2.ListTransactionsRequest(
        page_token=page_token, states=(*states, *outcomes), since_ms=since_ms or 0, finished=finished or bool(since_ms), **filters
    )
    with connected(coordinator, timeout) as remote:
        response = remote.pages(remote.admin.ListTransactions, request, "transactions", limit)
    if as_json:
        render.write_json(render.plain(response))
        return
    write = render.write_csv if as_csv else render.write_table
    write(COLUMNS, (_row(summary) for summary in response.transactions))
    tell_of_more(len(response.transactions), response.total, response.next_page_token)


def _row(summary: admin_pb2.TransactionSummary) -> tuple[Any, ...]:
    return (
        summary.transaction_id, summary.state, outcome_name(summary.outcome), summary.age_seconds,
        (summary.ended_ms - summary.first_attempt_ms) / 1000 if summary.ended_ms else None,
        list(summary.participants), list(summary.owing), summary.key,
        cause_words(summary.cause) if summary.HasField("cause") else "", summary.trace_id,
    )  # fmt: skip


@txn.command(examples="troth txn show c1.7.9f2c4e1a.3.42")
@click.argument("transaction_id")
@coordinator_option
@json_option
def show(transaction_id: str, coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Show the facts of one transaction."""
    with connected(coordinator, timeout) as remote:
        response = _known(_explain(remote, transaction_id))
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
        response = _known(_explain(remote, transaction_id))
    if as_json:
        render.write_json(render.plain(response))
    else:
        _show_explanation(response)


def _explain(remote: Remote, transaction_id: str) -> admin_pb2.ExplainResponse:
    response: admin_pb2.ExplainResponse = remote.call(remote.admin.Explain, admin_pb2.ExplainRequest(transaction_id=transaction_id))
    return response


def _known(response: admin_pb2.ExplainResponse) -> admin_pb2.ExplainResponse:
    """The explanation; raises `Failure` when nothing is known of the transaction."""
    if not response.HasField("summary"):
        raise Failure(REFUSED, "UNKNOWN_TRANSACTION", response.explanation)
    return response


def _show_summary(summary: admin_pb2.TransactionSummary) -> None:
    render.write_facts(zip((column.lower() for column in COLUMNS), _row(summary), strict=True))


def _show_branches(response: admin_pb2.ExplainResponse) -> None:
    if response.branches:
        render.say()
        columns = ("PARTICIPANT", "STATE", "CONNECTED", "NEXT_TRY_SECONDS")
        render.write_table(columns, ((b.participant, b.state, b.connected, _next(b)) for b in response.branches))


def _next(branch: admin_pb2.BranchExplanation) -> str:
    return f"{branch.next_try_seconds:.1f}" if branch.next_try_seconds >= 0 else "-"


def _show_explanation(response: admin_pb2.ExplainResponse) -> None:
    summary = response.summary
    key = f", key {summary.key}" if summary.key else ""
    render.say(f"{summary.transaction_id} is {summary.state}, outcome {outcome_name(summary.outcome)}{key}.")
    render.say(response.explanation)
    for branch in response.branches:
        due = f" Next try in {branch.next_try_seconds:.1f} s." if branch.next_try_seconds >= 0 else ""
        render.say(f"  {branch.explanation}{due}")
    if any(branch.blocks.since_ms for branch in response.branches):
        render.say(f"Begun by {summary.owner or summary.client or 'a client that is not connected'}.")
    if response.next:
        render.say(f"Next: {response.next}")
    for line in response.if_forced:
        render.say(f"If forced: {line}")


@txn.command(examples="troth txn watch c1.7.9f2c4e1a.3.42")
@click.argument("transaction_id")
@coordinator_option
@json_option
def watch(transaction_id: str, coordinator: str | None, timeout: float, as_json: bool) -> int:
    """Tell each state of a transaction until it is finished; exit 1 when nothing is known of it.

    A coordinator that goes away is waited for, up to --timeout, and the watch goes on by itself. With --json: one list, written as
    it grows; when the watch fails, its last entry is the error.
    """
    from coordinator.cli import watching  # and with it gRPC

    last = ""
    states = watching.follow(coordinator, timeout, transaction_id)
    for state in _as_json_list(states) if as_json else states:
        last = state.state
        if not as_json:
            render.say(state.state, outcome_name(state.outcome), state.explanation)
    return REFUSED if last == watching.UNKNOWN else OK


def _as_json_list(states: Iterator[client_pb2.WatchResponse]) -> Iterator[client_pb2.WatchResponse]:
    """Write what goes by as one list. A failure before the first is not ours: then it is the only document."""
    before = "["
    try:
        for state in states:
            render.write_part(f"{before}\n{render.json_text(render.plain(state))}")
            before = ","
            yield state
    except Failure as failure:
        if before == "[":
            raise
        render.write_part(f",\n{render.json_text(failure.document())}\n]\n")
        raise AlreadyTold(failure) from failure
    render.write_part("\n]\n")


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
        request = admin_pb2.ResolveRequest(
            transaction_id=transaction_id, action=ACTIONS[action], participant=participant, who=who or who_am_i(), why=why,
            dry_run=True,
        )  # fmt: skip
        preview = remote.call(remote.admin.Resolve, request)
        confirm(f"{action} {transaction_id}{whom}: {told.explanation}", (preview.message,), yes)
        request.dry_run = False
        response = remote.call(remote.admin.Resolve, request)
    render.answer(response, as_json, response.message)


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
        request = admin_pb2.ForgetTransactionRequest(
            transaction_id=transaction_id, who=who or who_am_i(), why=why, dry_run=True
        )  # fmt: skip
        remote.call(remote.admin.ForgetTransaction, request)
        confirm(f"forget {transaction_id}: {told.explanation}", (FORGET_WORDS,), yes)
        request.dry_run = False
        response = remote.call(remote.admin.ForgetTransaction, request)
    render.answer(response, as_json, f"{transaction_id} is forgotten.")
