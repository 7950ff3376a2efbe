"""One answer out of those of several shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from coordinator.core.blocking import LISTED_MAX
from coordinator.core.listing import ROWS_DEFAULT, ROWS_MAX, STRANDED_MAX, token_of
from coordinator.history.entry import learn
from coordinator.identity.who import CALLER
from coordinator.services.context import Common
from coordinator.services.fills import percent
from troth import __version__
from troth.errors import Reason
from troth.v1 import admin_pb2


def copy_of(message: Any) -> Any:
    """A message of its own for each shard."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


# ---- pages


def transactions(request: Any, pages: Sequence[admin_pb2.ListTransactionsResponse]) -> admin_pb2.ListTransactionsResponse:
    """The first rows of all pages. Each page begins behind the same place, so the token of one is good for all."""
    if len(pages) == 1:
        return pages[0]
    response = admin_pb2.ListTransactionsResponse(
        total=sum(page.total for page in pages), over=sum(page.over for page in pages)
    )
    found = {_place(row): row for page in pages for row in page.transactions}
    places = sorted(found, reverse=request.newest_first)
    cut = [_place(page.transactions[-1]) for page in pages if page.next_page_token]
    kept = _kept(places, cut, request.limit, newest_first=request.newest_first)
    response.transactions.extend(found[place] for place in places[:kept])
    if kept < len(places) or cut:
        response.next_page_token = token_of(response.transactions[-1])
    return response


def with_history(
    request: admin_pb2.ListTransactionsRequest, known: admin_pb2.ListTransactionsResponse, past: admin_pb2.ListTransactionsResponse
) -> admin_pb2.ListTransactionsResponse:
    """What coordinators know, and what the history remembers; of one transaction, what its coordinator knows, and what that
    has not kept."""
    remembered = {row.transaction_id: row for row in past.transactions}
    for row in known.transactions:
        if row.transaction_id in remembered:
            learn(row, remembered[row.transaction_id])
    response = transactions(request, [past, known])
    # The history has what the coordinators know to be over, but for the little that it has lost.
    response.over = max(past.total, known.over)
    response.total = known.total - known.over + response.over
    return response


def _place(row: admin_pb2.TransactionSummary) -> tuple[int, str]:
    return row.first_attempt_ms, row.transaction_id


def _kept(places: Sequence[Any], cut: Sequence[Any], limit: int, *, newest_first: bool = False) -> int:
    """How many rows make the page: behind the end of a page that was cut its shard may have more that come before."""
    count = min(len(places), limit or ROWS_DEFAULT, ROWS_MAX)
    if not cut:
        return count
    if newest_first:
        end = max(cut)
        return min(count, len([place for place in places if place >= end]))
    end = min(cut)
    return min(count, len([place for place in places if place <= end]))


def participants(request: Any, pages: Sequence[admin_pb2.ListParticipantsResponse]) -> admin_pb2.ListParticipantsResponse:
    """The first names of all pages; a participant is known to several shards, and told once."""
    if len(pages) == 1:
        return pages[0]
    rows: dict[str, list[admin_pb2.ParticipantSummary]] = {}
    for page in pages:
        for row in page.participants:
            rows.setdefault(row.participant, []).append(row)
    names = sorted(rows)
    # Shards do not all know the same ones: there are at least as many as one of them knows, and as are seen here.
    response = admin_pb2.ListParticipantsResponse(total=max(len(names), *(page.total for page in pages)))
    cut = [page.participants[-1].participant for page in pages if page.next_page_token]
    kept = _kept(names, cut, request.limit)
    response.participants.extend(_participant(rows[name]) for name in names[:kept])
    if kept < len(names) or cut:
        response.next_page_token = names[kept - 1]
    return response


def details(
    request: admin_pb2.ListParticipantDetailsRequest, answers: Sequence[admin_pb2.ListParticipantDetailsResponse]
) -> admin_pb2.ListParticipantDetailsResponse:
    """The first names of all pages, each once; refused if all shards have refused it."""
    pages = [answer for answer in answers if not answer.HasField("refusal")]
    if len(pages) < 2:
        return (pages or answers)[0]
    names = sorted({row.name for page in pages for row in page.rows})
    cut = [page.rows[-1].name for page in pages if page.next_page_token]
    kept = _kept(names, cut, request.limit)
    # Each shard lists the commits that it decided; what is in doubt, and the operations, several of them may list.
    totals = [page.total for page in pages]
    total = sum(totals) if request.detail == admin_pb2.PARTICIPANT_DETAIL_LACKING else max(len(names), *totals)
    response = admin_pb2.ListParticipantDetailsResponse(total=total)
    response.rows.extend(admin_pb2.ParticipantDetailRow(name=name) for name in names[:kept])
    if kept < len(names) or cut:
        response.next_page_token = names[kept - 1]
    return response


def _participant(rows: Sequence[admin_pb2.ParticipantSummary]) -> admin_pb2.ParticipantSummary:
    """What the shards know of one participant."""
    newest: admin_pb2.ParticipantSummary = copy_of(max(rows, key=lambda row: (row.incarnation, row.connected)))
    newest.connected = any(row.connected for row in rows)
    newest.votes_owed = sum(row.votes_owed for row in rows)
    newest.oldest_owed_seconds = max(row.oldest_owed_seconds for row in rows)
    newest.acknowledgements_owed = sum(row.acknowledgements_owed for row in rows)
    stranded = dict.fromkeys(name for row in rows for name in row.stranded)
    del newest.stranded[:]
    newest.stranded.extend(list(stranded)[:STRANDED_MAX])
    newest.stranded_total = max(len(stranded), *(row.stranded_total for row in rows))
    blocking = sorted((one for row in rows for one in row.blocking), key=lambda one: one.since_ms)
    del newest.blocking[:]
    newest.blocking.extend(blocking[:LISTED_MAX])  # it asks the shard that began a transaction, and no other
    newest.blocking_total = sum(row.blocking_total for row in rows)
    lacking = [name for row in rows for name in row.lacking]
    del newest.lacking[:]
    newest.lacking.extend(lacking[:STRANDED_MAX])
    newest.lacking_total = sum(row.lacking_total for row in rows)
    newest.to_recall = sum(row.to_recall for row in rows)
    newest.recalling = any(row.recalling for row in rows)
    unlisted = max(rows, key=lambda row: row.unlisted_ended_ms)  # of the latest; the orders are those of that shard
    newest.unlisted_ended_ms = unlisted.unlisted_ended_ms
    newest.unlisted_epoch, newest.unlisted_order = unlisted.unlisted_epoch, unlisted.unlisted_order
    newest.loss = next((row.loss for row in rows if row.loss), "")
    return newest


# ---- orders and counters


def orders(answers: Sequence[Any]) -> Any:
    """What became of an order that all shards got: done, if each has done it that has anything to do with it.

    A shard that has nothing to do with it says so by its refusal, which counts only where all say that. Any other refusal is told,
    however many have done it: what was told as done is done everywhere. How many have is told with it, for whoever asks again.
    """
    response = type(answers[0])()
    refusals = [answer.refusal for answer in answers if answer.HasField("refusal")]
    done = len(answers) - len(refusals)
    told = [one for one in refusals if one.reason not in _NOTHING_HERE[type(response)]]
    if told or not done:
        response.refusal.CopyFrom((told or refusals)[0])
        response.refusal.message = "; ".join(dict.fromkeys(one.message for one in told or refusals))
        if done:
            response.refusal.message += f". It is done at {done} of {len(answers)} shards: ask again for the others"
    elif hasattr(response, "participants"):
        response.participants.extend(sorted({name for answer in answers for name in answer.participants}))
    return response


_UNKNOWN = Reason.UNKNOWN_PARTICIPANT.name
_NOTHING_HERE = {
    admin_pb2.ReplaceParticipantResponse: {_UNKNOWN}, admin_pb2.ForgetParticipantResponse: {_UNKNOWN},
    admin_pb2.AcceptLossResponse: {_UNKNOWN, Reason.NOT_ACTIVE.name},
}  # fmt: skip
"""By what reasons a shard says that an order is no business of its: it does not know the participant, or has lost nothing."""


def drains(answers: Iterable[admin_pb2.DrainResponse]) -> admin_pb2.DrainResponse:
    """What the shards of a node still have to do."""
    response = admin_pb2.DrainResponse()
    for answer in answers:
        response.undecided += answer.undecided
        response.unacknowledged += answer.unacknowledged
    return response


def statuses(cell: str, common: Common, answers: Sequence[admin_pb2.GetStatusResponse]) -> admin_pb2.GetStatusResponse:
    """The status of a node: what the shards count is added up, what the node counts for all of them is told once."""
    if len(answers) == 1:
        return answers[0]
    of_the_node = common.counters.as_dict()
    counters: Counter[str] = Counter()
    for answer in answers:
        counters.update({name: count for name, count in answer.counters.items() if name not in of_the_node})
    response = admin_pb2.GetStatusResponse(
        coordinator=cell, version=__version__, counters={**counters, **of_the_node},
        epoch=max((answer.epoch for answer in answers), default=0),
        draining=any(answer.draining for answer in answers),
        uptime_seconds=max((answer.uptime_seconds for answer in answers), default=0.0),
        features=common.features(), caller=CALLER.get().name, access=common.access,
    )  # fmt: skip
    if answers:
        response.limits.CopyFrom(answers[0].limits)
    fullest: dict[str, admin_pb2.Fill] = {}
    for fill in (fill for answer in answers for fill in answer.fills):
        known = fullest.get(fill.limit)
        if known is None or fill.used > known.used:
            fullest[fill.limit] = fill
    response.fills.extend(sorted(fullest.values(), key=lambda one: (-percent(one), one.limit)))
    return response
