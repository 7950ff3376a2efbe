"""`troth review`: orders that wait for a second person."""

from __future__ import annotations

import click

from coordinator.cli import render
from coordinator.cli.asking import confirm
from coordinator.cli.command import Group, coordinator_option, json_option
from coordinator.cli.failure import REFUSED, Failure
from coordinator.cli.remote import connected
from troth.v1 import admin_pb2

EXAMPLES = """
troth review list
troth review show c1-9f2c4e1a                        # what would happen
troth review approve c1-9f2c4e1a --why "checked with the bank"
troth review reject c1-9f2c4e1a --why "wrong transaction"
"""


@click.group(cls=Group, examples=EXAMPLES)
def review() -> None:
    """List, approve or reject what others have asked for (four eyes)."""


@review.command(name="list", examples="troth review list --json")
@coordinator_option
@json_option
def list_(coordinator: str | None, timeout: float, as_json: bool) -> None:
    """List what waits for a second person."""
    rows = _rows(coordinator, timeout)
    if as_json:
        render.write_json({"reviews": [render.plain(one) for one in rows]})
        return
    render.write_table(
        ("REVIEW", "WHO", "ORDER", "OBJECT", "EXPIRES", "WHY"),
        ((one.review, one.who, one.order, one.object, f"{one.expires_seconds:.0f} s", one.why) for one in rows),
    )


def _rows(coordinator: str | None, timeout: float) -> list[admin_pb2.ReviewSummary]:
    with connected(coordinator, timeout) as remote:
        return list(remote.call(remote.admin.ListReviews, admin_pb2.ListReviewsRequest()).reviews)


def _one(review: str, coordinator: str | None, timeout: float) -> admin_pb2.ReviewSummary:
    for one in _rows(coordinator, timeout):
        if one.review == review:
            return one
    raise Failure(REFUSED, "NOT_ACTIVE", f"no order {review!r} waits", "`troth review list` shows what does.")


@review.command(examples="troth review show c1-9f2c4e1a")
@click.argument("review")
@coordinator_option
@json_option
def show(review: str, coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Show one order, and what would happen."""
    one = _one(review, coordinator, timeout)
    if as_json:
        render.write_json(render.plain(one))
    else:
        render.write_facts(render.plain(one).items())


def _decide(review: str, why: str, coordinator: str | None, timeout: float, *, approve: bool) -> None:
    with connected(coordinator, timeout) as remote:
        request = admin_pb2.DecideReviewRequest(review=review, approve=approve, why=why)
        response = remote.call(remote.admin.DecideReview, request)
    render.say(response.message)


@review.command(examples='troth review approve c1-9f2c4e1a --why "checked with the bank"')
@click.argument("review")
@click.option("--why", required=True, help="Why; it is recorded.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@coordinator_option
def approve(review: str, why: str, yes: bool, coordinator: str | None, timeout: float) -> None:
    """Approve an order, which is then done. Whoever has asked for it cannot."""
    one = _one(review, coordinator, timeout)
    confirm(f"approve {one.order} {one.object}, asked for by {one.who}:", (one.would,), yes)
    _decide(review, why, coordinator, timeout, approve=True)


@review.command(examples='troth review reject c1-9f2c4e1a --why "wrong transaction"')
@click.argument("review")
@click.option("--why", required=True, help="Why; it is recorded.")
@coordinator_option
def reject(review: str, why: str, coordinator: str | None, timeout: float) -> None:
    """Reject an order; nothing happens. Whoever has asked for it can, too."""
    _decide(review, why, coordinator, timeout, approve=False)
