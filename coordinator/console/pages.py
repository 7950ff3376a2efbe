"""What each page shows, read from inside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from coordinator.attention import attention
from coordinator.cli.durations import duration_ms
from coordinator.console import actions, waterfall
from coordinator.core.listing import FINISHED_NAMES, OPERATIONS_MAX, STATE_NAMES
from coordinator.core.model import outcome_name
from coordinator.core.words import blocks_words, cause_words
from coordinator.inside import Asker, Inside, everybody
from coordinator.services.fills import percent
from troth.errors import Reason, RequestError
from troth.identity.peer import Identity
from troth.v1 import admin_pb2

PAGE_ROWS = 50
STATES = sorted(STATE_NAMES - FINISHED_NAMES)
OUTCOMES = sorted(FINISHED_NAMES)
LIMITS_SHOWN = 6


@dataclass(slots=True)
class Page:
    """A template, and what it shows."""

    template: str
    title: str
    values: dict[str, Any] = field(default_factory=dict)
    status: int = 200


async def home(inside: Inside, asker: Asker) -> Page:
    """What needs people first; then how the coordinator is."""
    status = await inside.ask("GetStatus", admin_pb2.GetStatusRequest(), asker)
    cell = await inside.ask("GetCell", admin_pb2.GetCellRequest(), asker)
    people = [row.connected async for row in everybody(lambda request: inside.ask("ListParticipants", request, asker))]
    history = inside.common.history
    return Page("home.html", "What needs you", {
        "items": await attention(inside), "status": status, "cell": cell, "history": history,
        "fills": [(fill, percent(fill)) for fill in status.fills[:LIMITS_SHOWN]],
        "connected": sum(people), "participants": len(people),
    })  # fmt: skip


# ---- transactions


async def transactions(inside: Inside, asker: Asker, query: Mapping[str, str]) -> Page:
    """One page of a listing; all that narrows it is in the address."""
    filters = {name: query.get(name, "").strip() for name in ("show", "participant", "key", "trace", "since", "slow", "order")}
    request = _listing_of(filters, query.get("after", ""))
    response = await inside.ask("ListTransactions", request, asker)
    kept = {name: value for name, value in filters.items() if value}
    following = f"?{urlencode({**kept, 'after': response.next_page_token})}" if response.next_page_token else ""
    return Page("transactions.html", "Transactions", {
        "rows": response.transactions, "total": response.total, "filters": filters, "following": following,
        "first": f"?{urlencode(kept)}" if query.get("after") else "", "states": STATES, "outcomes": OUTCOMES,
        "command": _command_of(filters), "rows_shown": len(response.transactions),
    })  # fmt: skip


def _listing_of(filters: Mapping[str, str], after: str) -> admin_pb2.ListTransactionsRequest:
    show = filters["show"].upper()
    states = [show] if show in STATE_NAMES else []
    now_ms = time.time_ns() // 1_000_000
    ago = _milliseconds("since", filters["since"])
    return admin_pb2.ListTransactionsRequest(
        states=states, finished=show in ("ALL", "") or bool(ago), participant=filters["participant"], key=filters["key"],
        trace_id=filters["trace"].lower(),
        slow_ms=_milliseconds("slow", filters["slow"]), since_ms=now_ms - ago if ago else 0, limit=PAGE_ROWS, page_token=after,
        newest_first=filters["order"] != "oldest",
    )  # fmt: skip


def _milliseconds(name: str, text: str) -> int:
    if not text:
        return 0
    found = duration_ms(text)
    if found is None:
        raise RequestError(Reason.INVALID_ARGUMENT, f"{name}: {text[:40]!r} is not a duration such as 250ms, 2s, 30m, 12h or 7d")
    return found


def _command_of(filters: Mapping[str, str]) -> str:
    show = filters["show"].upper()
    words = ["troth txn list"]
    if show in FINISHED_NAMES:
        words.append(f"--outcome {show}")
    elif show in STATE_NAMES:
        words.append(f"--state {show}")
    elif show != "OPEN":
        words.append("--finished")
    words += [f"--{name} {filters[name]}" for name in ("participant", "key", "trace", "since", "slow") if filters[name]]
    return " ".join([*words, *(["--newest"] if filters["order"] != "oldest" else [])])


async def transaction(inside: Inside, asker: Asker, transaction_id: str) -> Page:
    """One transaction: the waterfall, the words, the branches, and what can be done."""
    explained = await inside.ask("Explain", admin_pb2.ExplainRequest(transaction_id=transaction_id), asker)
    summary = explained.summary if explained.HasField("summary") else None
    drawing = waterfall.draw(summary.timeline) if summary is not None and summary.HasField("timeline") else None
    return Page(
        "transaction.html", transaction_id,
        {
            "id": transaction_id, "explained": explained, "summary": summary, "drawing": drawing, "legend": waterfall.LEGEND,
            "offers": actions.offers(transaction_id, explained.if_forced),
            "times": {one.participant: one for one in summary.timeline.branches} if summary is not None else {},
        },
        200 if summary is not None or explained.if_forced else 404,
    )  # fmt: skip


async def preview(
    inside: Inside, asker: Asker, identity: Identity, offer: actions.Offer, filled: Mapping[str, str], wrong: str = ""
) -> Page:
    """What an action would do, and the form that asks for it."""
    explained = await inside.ask("Explain", admin_pb2.ExplainRequest(transaction_id=offer.transaction_id), asker)
    request = request_of(offer, identity.name or "console", "a preview", dry_run=True)
    response = await inside.ask(method_of(offer), request, asker)
    said = getattr(response, "message", "") or "it is no longer listed as something to look at; do it when the damage is repaired."
    prepared = sum(branch.state == "PREPARED" for branch in explained.branches)
    return Page("confirm.html", f"{offer.verb.capitalize()} {offer.transaction_id}", {
        "offer": offer, "explained": explained, "said": said, "filled": filled, "wrong": wrong, "prepared": prepared,
        "refusal": response.refusal.message if response.HasField("refusal") else "", "identity": identity,
    }, 422 if wrong else 200)  # fmt: skip


def method_of(offer: actions.Offer) -> str:
    """The method of the admin service that does it."""
    return "ForgetTransaction" if offer.verb == "forget" else "Resolve"


def request_of(offer: actions.Offer, who: str, why: str, *, dry_run: bool = False) -> Any:
    """The request that does it, or says what it would do."""
    if offer.verb == "forget":
        return admin_pb2.ForgetTransactionRequest(transaction_id=offer.transaction_id, who=who, why=why, dry_run=dry_run)
    return admin_pb2.ResolveRequest(
        transaction_id=offer.transaction_id, action=actions.ACTIONS[offer.verb], participant=offer.participant, who=who, why=why,
        dry_run=dry_run,
    )  # fmt: skip


# ---- participants


async def participants(inside: Inside, asker: Asker, query: Mapping[str, str]) -> Page:
    """All of them, by name; slots of one service stand together."""
    request = admin_pb2.ListParticipantsRequest(limit=PAGE_ROWS, page_token=query.get("after", ""))
    response = await inside.ask("ListParticipants", request, asker)
    following = f"?{urlencode({'after': response.next_page_token})}" if response.next_page_token else ""
    return Page("participants.html", "Participants", {
        "rows": response.participants, "total": response.total, "following": following,
        "first": "/participants" if query.get("after") else "",
    })  # fmt: skip


async def participant(inside: Inside, asker: Asker, name: str) -> Page:
    """One participant: what it offers, and what it holds."""
    before = name[:-1] + chr(max(ord(name[-1]) - 1, 1)) + "\x7f" if name else ""
    response = await inside.ask("ListParticipants", admin_pb2.ListParticipantsRequest(limit=1_000, page_token=before), asker)
    row = next((row for row in response.participants if row.participant == name), None)
    held = await inside.ask("ListTransactions", admin_pb2.ListTransactionsRequest(participant=name, limit=PAGE_ROWS), asker)
    values = {"name": name, "row": row, "held": held.transactions, "total": held.total, "operations_max": OPERATIONS_MAX}
    return Page("participant.html", name, values, 200 if row is not None else 404)


TEMPLATE_GLOBALS = {
    "outcome_name": outcome_name, "cause_words": cause_words, "blocks_words": blocks_words, "duration": waterfall.duration
}  # fmt: skip
