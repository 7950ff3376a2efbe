"""`troth reconcile`: does everybody hold what the coordinator says? Each difference in words, with its correction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from coordinator.cli import render
from coordinator.cli.calling import Remote
from coordinator.cli.command import Command, Function, coordinator_option, json_option
from coordinator.cli.failure import OK, REFUSED, failure_of
from coordinator.cli.remote import connected, who_am_i
from coordinator.core.model import outcome_name
from coordinator.drift import databases
from coordinator.drift.comparing import STRANDED, Drift, Kind, Known, compare
from coordinator.drift.evidence import Branch, Evidence, coordinator_of, read_file
from troth.errors import LogError, Reason
from troth.moments import utc
from troth.v1 import admin_pb2

EXAMPLES = """
troth reconcile                                                       # what the coordinator itself knows to be wrong
troth reconcile --dsn postgresql://db/bank --file var/orders/shop.db  # beside what these participants hold
troth reconcile --dsn postgresql://db/bank --apply                    # correct what is provably safe; the rest waits for a review
troth reconcile --dsn mysql://ops@db/bank --apply                     # MariaDB and MySQL likewise
"""
AWAY_SECONDS = 60.0
"""Who is away, and has owed an acknowledgement for longer, is told."""


def evidence_options(function: Function) -> Function:
    """`--dsn`, `--file`, `--apply`."""
    text = "Correct what is provably safe, and ask a second person for the rest."
    function = click.option("--apply", "applies", is_flag=True, help=text)(function)
    function = click.option(
        "--file", "files", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
        help="A participant's log, running or not; several times.",
    )(function)  # fmt: skip
    text = "A service's database, of PostgreSQL, MariaDB or MySQL; several times."
    return click.option("--dsn", "dsns", multiple=True, metavar="DSN", help=text)(function)


@click.command(cls=Command, examples=EXAMPLES)
@evidence_options
@coordinator_option
@json_option
def reconcile(
    dsns: Sequence[str], files: Sequence[Path], applies: bool, coordinator: str | None, timeout: float, as_json: bool
) -> int:
    """Compare what the coordinator says with what participants hold. Exit 1 when something is wrong, and is left so.

    Changes nothing without --apply. With it, branches are finished that are prepared in PostgreSQL, MariaDB or MySQL, whose outcome
    is decided, whose service is away, and which no session holds; each is told on stderr before.
    """
    return run(Asked(dsns, files, applies, as_json=as_json), coordinator, timeout)


@click.command("reconcile", cls=Command, examples="troth participants reconcile payments --dsn postgresql://db/bank")
@click.argument("name")
@evidence_options
@coordinator_option
@json_option
def of_one(
    name: str, dsns: Sequence[str], files: Sequence[Path], applies: bool, coordinator: str | None, timeout: float, as_json: bool
) -> int:
    """Compare what the coordinator says with what the participant NAME, and its slots, hold: `troth reconcile` of one."""
    return run(Asked(dsns, files, applies, name, as_json), coordinator, timeout)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be looked at, and what may be done."""

    dsns: Sequence[str] = ()
    files: Sequence[Path] = ()
    applies: bool = False
    participant: str = ""
    """Only of this one, and its slots; empty for all."""
    as_json: bool = False

    def wants(self, name: str) -> bool:
        """Whether something of this participant is wanted."""
        return self.participant in ("", name, name.partition("/")[0])

    def read(self) -> list[Evidence]:
        """What the files and databases hold now. Raises `LogError`."""
        return [*asyncio.run(_databases(self.dsns)), *(read_file(path) for path in self.files)]


async def _databases(dsns: Sequence[str]) -> list[Evidence]:
    return [await databases.read_database(dsn, _label(number)) for number, dsn in enumerate(dsns)]


def _label(number: int) -> str:
    """A database by its place among the options: an address may hold secrets."""
    return f"--dsn {number + 1}"


def run(asked: Asked, coordinator: str | None, timeout: float) -> int:
    """Look, and tell; with `applies` also correct. Returns the exit code."""
    with connected(coordinator, timeout) as remote:
        drifts = _look(remote, asked)
        done = [_correct(remote, asked, drift) if asked.applies else "" for drift in drifts]
    left = [drift for drift, what in zip(drifts, done, strict=True) if not what.startswith(DONE)]
    if asked.as_json:
        rows = [_document(drift, what) for drift, what in zip(drifts, done, strict=True)]
        render.write_json({"drifts": rows, "left": len(left), "applied": asked.applies})
        return REFUSED if left else OK
    if not drifts:
        render.say("Nothing is wrong: everybody that was looked at holds what the coordinator says.")
    for drift, what in zip(drifts, done, strict=True):
        where = f" ({drift.source})" if drift.source else ""
        render.say(f"{drift.kind.value}: {' '.join(filter(None, (drift.participant, drift.transaction)))}{where}: {drift.what}")
        render.say(f"  {what or _proposal(asked, drift)}")
    return REFUSED if left else OK


DONE = "corrected: "


def _document(drift: Drift, done: str) -> dict[str, Any]:
    return {
        "kind": drift.kind.value, "participant": drift.participant, "transaction_id": drift.transaction, "what": drift.what,
        "fix": drift.fix, "source": drift.source, "safe": drift.safe is not None, "needs_review": drift.order is not None,
        "done": done,
    }  # fmt: skip


def _proposal(asked: Asked, drift: Drift) -> str:
    statement = _statement(asked, drift)
    if statement and drift.safe is not None:
        return f"{drift.fix}; or, if it stays away, with --apply: {statement}"
    return f"to do: {drift.fix}"


def _dsn(asked: Asked, drift: Drift) -> str:
    for number, dsn in enumerate(asked.dsns):
        if drift.source == _label(number):
            return dsn
    return ""


def _statement(asked: Asked, drift: Drift) -> str:
    dsn = _dsn(asked, drift)
    if not dsn or drift.branch is None or drift.safe is None:
        return ""
    return databases.statement(dsn, drift.branch, commit=drift.safe)


# ---- looking


def _look(remote: Remote, asked: Asked) -> list[Drift]:
    """Look twice at what is in doubt: a branch may end between the look at its database and the question to the coordinator."""
    first = _compare(remote, asked)
    if not any(drift.branch is not None for drift in first):
        return first
    again = {(drift.kind, drift.participant, drift.transaction, drift.source) for drift in first}
    return [one for one in _compare(remote, asked) if (one.kind, one.participant, one.transaction, one.source) in again]


def _compare(remote: Remote, asked: Asked) -> list[Drift]:
    found = asked.read()
    request = admin_pb2.ListParticipantsRequest()
    rows = remote.pages(remote.admin.ListParticipants, request, "participants", 0).participants
    connected_now = {one.participant for one in rows if one.connected}
    cache: dict[str, Known] = {}

    def ask(transaction: str) -> Known:
        if transaction not in cache:
            cache[transaction] = _ask(remote, transaction)
        return cache[transaction]

    drifts = [one for one in compare(found, ask, connected_now) if asked.wants(one.participant)]
    told = {(one.participant, one.transaction) for one in drifts}
    known = (one for row in rows if asked.wants(row.participant) for one in _of_participant(_whole(remote, row)))
    drifts += [one for one in known if (one.participant, one.transaction) not in told]
    return drifts if asked.participant else [*drifts, *_broken(remote, told)]


def _ask(remote: Remote, transaction: str) -> Known:
    if not coordinator_of(transaction):
        return Known(words="only a digest of its id is kept there; its participant's log has it")
    told = remote.call(remote.admin.Explain, admin_pb2.ExplainRequest(transaction_id=transaction))
    row, stranded = told.summary, bool(told.if_forced)
    if not row.state:
        return Known(STRANDED if stranded else "", words=told.explanation)
    outcome = outcome_name(row.outcome)
    return Known(row.state, outcome, tuple(row.participants), tuple(row.owing), told.explanation)


def _whole(remote: Remote, row: admin_pb2.ParticipantSummary) -> admin_pb2.ParticipantSummary:
    """A row with all that is affected, where it has the first of it only."""
    for field, detail in (
        ("stranded", admin_pb2.PARTICIPANT_DETAIL_STRANDED), ("lacking", admin_pb2.PARTICIPANT_DETAIL_LACKING),
    ):  # fmt: skip
        if getattr(row, f"{field}_total") > len(getattr(row, field)):
            getattr(row, field)[:] = remote.details(row.participant, detail)
    return row


def _of_participant(row: admin_pb2.ParticipantSummary) -> Iterator[Drift]:
    """What the coordinator itself knows to be wrong with a participant."""
    name = row.participant
    if row.loss:
        yield Drift(Kind.GAP, name, "", row.loss, "how-to/operate-a-coordinator, 'a lost or old log'")
    elif row.refused_log_id and not row.connected:
        fix = f"troth participants replace {name} --log-id {row.refused_log_id} --why ..., if that log is to have the name"
        yield Drift(Kind.GAP, name, "", f"the log {row.refused_log_id} was refused under this name", fix)
    for transaction in row.stranded:
        what = "it is in doubt, and the coordinator's log can say nothing of it"
        yield Drift(Kind.UNDECIDABLE, name, transaction, what, "name the logs of its other participants with --file")
    for transaction in row.lacking:
        what = "it had committed it, and its log does not have it any more"
        yield Drift(Kind.GAP, name, transaction, what, f"do it again by hand; then: troth txn forget {transaction} --why ...")
    if row.unlisted_ended_ms:
        what = f"it may lack commits that ended until {utc(row.unlisted_ended_ms)}: behind the retention, and in no list"
        fix = f"compare by hand, if its copy is older than that; then: troth participants accept-loss {name} --why ..."
        yield Drift(Kind.GAP, name, "", what, fix)
    if row.recalling:
        what = f"it is still asked which commits it has; {row.to_recall} are left"
        yield Drift(Kind.GAP, name, "", what, "wait, while it is connected")
    if row.acknowledgements_owed and not row.connected and row.oldest_owed_seconds > AWAY_SECONDS:
        what = f"it is away, and owes {row.acknowledgements_owed} acknowledgements, for {row.oldest_owed_seconds:.0f} s"
        yield Drift(Kind.OWED, name, "", what, f"start {name}: it is told")


def _broken(remote: Remote, told: set[tuple[str, str]]) -> Iterator[Drift]:
    """Transactions that did not end in one way, as far as no other line has them."""
    request = admin_pb2.ListTransactionsRequest(states=["HEURISTIC"])
    named = {transaction for _, transaction in told}
    for row in remote.pages(remote.admin.ListTransactions, request, "transactions", 0).transactions:
        if row.transaction_id not in named:
            outcome = outcome_name(row.outcome)
            yield Drift(Kind.BROKEN, "", row.transaction_id, f"it is {outcome}", f"troth txn explain {row.transaction_id}")


# ---- correcting


def _finish(dsn: str, branch: Branch, *, commit: bool) -> str:
    """Finish one branch, and say so before: whoever is killed in between has left a line. A database that is away is no reason to
    leave the branches of the others."""
    asking = databases.statement(dsn, branch, commit=commit)
    render.tell(f"{utc(int(time.time() * 1000))} {who_am_i()}: {branch.participant} {branch.transaction}: {asking}")
    try:
        return asyncio.run(databases.finish(dsn, branch, commit=commit))
    except LogError as error:
        return failure_of(error).text()


def _correct(remote: Remote, asked: Asked, drift: Drift) -> str:
    """Do what is safe, or ask for what a second person has to approve. Returns what was done, in words; empty for nothing."""
    dsn = _dsn(asked, drift)
    if drift.safe is not None and drift.branch is not None and dsn:
        wrong = _finish(dsn, drift.branch, commit=drift.safe)
        return f"not corrected: {wrong}" if wrong else f"{DONE}{_statement(asked, drift)}"
    if drift.order is None:
        return ""
    if not remote.call(remote.admin.GetStatus, admin_pb2.GetStatusRequest()).caller:
        return f"nobody has an identity here, so nobody could approve it; to do: {drift.fix}"
    action = admin_pb2.RESOLVE_ACTION_COMMIT if drift.order else admin_pb2.RESOLVE_ACTION_ABORT
    request = admin_pb2.ResolveRequest(
        transaction_id=drift.transaction, participant=drift.participant, action=action, who=who_am_i(),
        why=f"troth reconcile: {drift.what}"[:1000], review=True,
    )  # fmt: skip
    refusal = remote.ask(remote.admin.Resolve, request).refusal
    if refusal.reason == Reason.AWAITS_APPROVAL.name:
        return f"{refusal.message}: `troth review list`"
    return f"not asked for: {refusal.message}; to do: {drift.fix}"
