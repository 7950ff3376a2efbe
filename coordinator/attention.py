"""What needs people, the most pressing first: one answer for the console's first page, the metric and the webhook.

Everything is read through the admin service, so a node of a cell answers for the whole cell.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from coordinator.core.model import outcome_name
from coordinator.inside import Inside, everybody
from coordinator.services.fills import WARN_PERCENT, percent
from troth.moments import utc
from troth.v1 import admin_pb2, common_pb2

ROWS_MAX = 50
"""Things of one kind that are named; of more the number is told."""
OLD_SECONDS = 30.0
"""From this age on something undecided or unacknowledged is not in passing any more."""

KINDS = {
    "loss": "the coordinator's log, or a participant's, has lost what it had said",
    "heuristic": "transactions that did not end in one way, or may not have",
    "stranded": "branches in doubt about which the coordinator's log can say nothing",
    "invariant": "invariants of services that do not hold in what is committed",
    "in_doubt": f"transactions that are decided or handed over and not over for more than {OLD_SECONDS:.0f} seconds",
    "review": "orders of operators that wait for a second person",
    "away": "participants that are not connected and owe something",
    "refused": "logs that were refused under a participant's name",
    "unchecked": "invariants of services that these could not check",
    "limit": f"limits that are {WARN_PERCENT} % full",
    "history": "transactions that are missing in the history",
    "draining": "coordinators that take no new work",
    "settings": "nodes of the cell whose settings are others than this one's",
}
"""Every kind, the most pressing first."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that needs people."""

    kind: str
    subject: str
    """The transaction, participant or limit that it is about."""
    text: str
    age_seconds: float = 0.0
    """For how long, where that is known."""
    command: str = ""
    """What to type to see more."""

    @property
    def key(self) -> tuple[str, str]:
        """The same thing has the same key the next time it is looked at."""
        return self.kind, self.subject

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def attention(inside: Inside) -> list[Item]:
    """Everything that needs people now. Raises `RequestError` when that cannot be found out."""
    found = [item async for item in _all(inside)]
    order = list(KINDS)
    return sorted(found, key=lambda item: (order.index(item.kind), -item.age_seconds))


async def _all(inside: Inside) -> AsyncIterator[Item]:
    async for item in _transactions(inside):
        yield item
    for review in (await inside.look("ListReviews", admin_pb2.ListReviewsRequest())).reviews:
        text = f"{review.who} asks for {review.order} of {review.object} ({review.why}): {review.would}"
        yield Item("review", review.review, text, command="troth review list")
    async for row in everybody(partial(inside.look, "ListParticipants")):
        for item in _of_participant(row):
            yield item
    status = await inside.look("GetStatus", admin_pb2.GetStatusRequest())
    for fill in status.fills:
        if percent(fill) >= WARN_PERCENT:
            text = f"{fill.limit} is {percent(fill)} % full ({fill.used} of {fill.max})"
            yield Item("limit", fill.limit, text, command="troth status")
    if status.draining:
        text = f"{status.coordinator} is draining and takes no new work"
        yield Item("draining", status.coordinator, text, command="troth status")
    for node, names in inside.common.otherwise.items():
        text = f"{node} has other settings: {', '.join(names)}; make them the same, and restart or reload"
        yield Item("settings", node, text, command="troth cell")
    history = inside.common.history
    if history is not None and history.dropped:
        yield Item("history", "history", f"{history.dropped} transactions are missing in the history since the start")


async def _transactions(inside: Inside) -> AsyncIterator[Item]:
    heuristic = admin_pb2.ListTransactionsRequest(states=["HEURISTIC"], limit=ROWS_MAX)
    for row in (await inside.look("ListTransactions", heuristic)).transactions:
        ended = "it may not have ended as was decided" if row.outcome == common_pb2.OUTCOME_HAZARD else "it ended"
        text = f"{ended} ({outcome_name(row.outcome)}): look at {', '.join(row.participants)}, repair, then forget it"
        yield _about(row, "heuristic", text)
    waiting = admin_pb2.ListTransactionsRequest(
        states=["COMMITTING", "HANDED_OVER", "SETTLING", "PROVING"], limit=ROWS_MAX, slow_ms=int(OLD_SECONDS * 1000)
    )
    for row in (await inside.look("ListTransactions", waiting)).transactions:
        text = f"it is {row.state}, and waits for {', '.join(row.owing) or 'nobody: settle it by hand'}"
        yield _about(row, "in_doubt", text)


def _about(row: admin_pb2.TransactionSummary, kind: str, text: str) -> Item:
    return Item(kind, row.transaction_id, text, row.age_seconds, f"troth txn explain {row.transaction_id}")


def _of_participant(row: admin_pb2.ParticipantSummary) -> list[Item]:
    name, found = row.participant, list[Item]()
    command = "troth participants"
    if row.loss:
        found.append(Item("loss", name, f"{name}: {row.loss}", command=command))
    if row.lacking_total:
        text = f"the log of {name} does not have {row.lacking_total} commits that were made under this name: compare, and repair"
        found.append(Item("loss", name, text, command=f"troth participants affected {name} --lacking"))
    if row.unlisted_ended_ms:
        text = f"the log of {name} may lack commits until {utc(row.unlisted_ended_ms)}, which cannot be listed any more: compare"
        found.append(Item("loss", name, text, command=command))
    if row.stranded_total:
        text = f"{name} is in doubt about {row.stranded_total} branches of which this log knows nothing: {row.stranded[0]} …"
        command_of_it = f"troth txn explain {row.stranded[0]}"
        if row.stranded_total > 1:
            command_of_it = f"troth participants affected {name} --stranded"
        found.append(Item("stranded", name, text, command=command_of_it))
    owed = row.votes_owed + row.acknowledgements_owed
    if not row.connected and owed:
        text = f"{name} is not connected and owes {row.votes_owed} votes and {row.acknowledgements_owed} acknowledgements: start it"
        found.append(Item("away", name, text, row.oldest_owed_seconds, f"troth txn list --participant {name}"))
    if row.refused_log_id and not row.connected:
        text = f"another log ({row.refused_log_id}) was refused under the name {name}"
        found.append(Item("refused", name, text, command=command))
    return found + [_of_invariant(name, one) for one in row.invariants if one.state in _INVARIANTS]


_INVARIANTS = {"VIOLATED": ("invariant", "does not hold"), "UNCHECKED": ("unchecked", "cannot be checked")}


def _of_invariant(participant: str, one: admin_pb2.InvariantSummary) -> Item:
    kind, what = _INVARIANTS[one.state]
    text = f"the invariant {one.name} of {participant} {what}: {one.detail}"
    return Item(kind, f"{participant} {one.name}", text, one.for_seconds, "troth participants")
