"""All that a participant has many of: in the order of the names, in pages that lose and repeat nothing while it is settled."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from coordinator.core import events, listing
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.test_operators import administer
from tests.coordinator_core.test_recalling import let_in, says
from troth.errors import RequestError
from troth.v1 import admin_pb2, participant_pb2

MANY = 350
STRANDED, LACKING, OPERATIONS = (
    admin_pb2.PARTICIPANT_DETAIL_STRANDED,
    admin_pb2.PARTICIPANT_DETAIL_LACKING,
    admin_pb2.PARTICIPANT_DETAIL_OPERATIONS,
)
Details = admin_pb2.ListParticipantDetailsRequest


def pages(driver: Driver, between: Callable[[list[str]], object], **fields: Any) -> list[str]:
    """All names, page by page; `between` is done with those of each page."""
    seen, token = list[str](), ""
    while True:
        page = administer(driver, Details(page_token=token, **fields))
        names = [row.name for row in page.rows]
        assert names == sorted(names) and len(names) <= (fields.get("limit") or listing.ROWS_DEFAULT)
        seen += names
        if not page.next_page_token:
            return seen
        assert names and page.next_page_token == names[-1]
        token = page.next_page_token
        between(names)


def in_doubt() -> tuple[Driver, list[str]]:
    """a is in doubt about many transactions of another coordinator."""
    driver, ids = Driver(), [f"c9.1.0badcafe.1.{number}" for number in range(1, MANY + 1)]
    state = participant_pb2.BRANCH_STATE_PREPARED
    driver.connect("a", 9, reports=[participant_pb2.BranchReport(transaction_id=one, order=1, state=state) for one in ids])
    return driver, sorted(ids)


def settle(driver: Driver, transaction_id: str) -> None:
    """An operator has ended its branch, and it says so."""
    driver.say("a", participant_pb2.Acknowledgement(transaction_id=transaction_id, kind=participant_pb2.ACKNOWLEDGEMENT_KIND_DONE))
    driver.sync()


def test_all_branches_that_are_in_doubt_are_listed_and_the_row_has_a_hundred() -> None:
    driver, ids = in_doubt()
    (row,) = administer(driver, admin_pb2.ListParticipantsRequest(limit=1)).participants
    assert (len(row.stranded), row.stranded_total) == (listing.STRANDED_MAX, MANY)
    assert pages(driver, lambda _: None, participant="a", detail=STRANDED) == ids
    first = administer(driver, Details(participant="a", detail=STRANDED))
    assert (len(first.rows), first.total) == (listing.ROWS_DEFAULT, MANY)
    assert pages(driver, lambda _: None, participant="b", detail=STRANDED) == []


@pytest.mark.parametrize("seed", range(10))
def test_what_is_settled_between_two_pages_makes_nothing_else_come_twice_or_go_missing(seed: int) -> None:
    driver, ids = in_doubt()
    chance, settled = random.Random(seed), set[str]()

    def between(names: list[str]) -> None:
        for one in {names[-1], *chance.sample(sorted(set(ids) - settled), 9)} - settled:  # also the one that the token names
            settle(driver, one)
            settled.add(one)

    seen = pages(driver, between, participant="a", detail=STRANDED, limit=chance.randint(20, 60))
    assert len(seen) == len(set(seen)) and seen == sorted(seen)
    assert set(ids) - settled <= set(seen) <= set(ids) and len(settled) > 9
    assert pages(driver, lambda _: None, participant="a", detail=STRANDED) == sorted(set(ids) - settled)


def test_all_commits_that_a_log_lacks_are_listed_until_each_is_forgotten() -> None:
    driver = Driver(CoreSettings(late_heuristics_max=1_000))
    for number in range(1, MANY + 1):
        driver.complete(number, "ab")
    driver.sync()
    let_in(driver)
    for number in range(1, MANY + 1):
        says(driver, driver.id(number), "ROLLED_BACK")
    ids = sorted(driver.id(number) for number in range(1, MANY + 1))
    forgotten = set[str]()

    def forget(names: list[str]) -> None:
        for one in (names[-1], *(set(names[:3]))):
            request = admin_pb2.ForgetTransactionRequest(transaction_id=one, who="ann", why="done again")
            assert not administer(driver, request).HasField("refusal")
            forgotten.add(one)

    (row,) = administer(driver, admin_pb2.ListParticipantsRequest(limit=1, page_token="a")).participants
    assert (len(row.lacking), row.lacking_total) == (listing.STRANDED_MAX, MANY)
    assert pages(driver, forget, participant="b", detail=LACKING) == ids
    assert pages(driver, lambda _: None, participant="b", detail=LACKING) == sorted(set(ids) - forgotten) and len(forgotten) == 12
    assert pages(driver, lambda _: None, participant="a", detail=LACKING) == []


def test_all_operations_are_listed_while_it_is_connected() -> None:
    driver, names = Driver(), sorted(f"operation-{number}" for number in range(MANY))
    said = participant_pb2.Hello(participant="a", log_id="log-a", incarnation=1, operations=names)
    driver.step(events.HelloReceived("a", 9, said))
    driver.sync()
    assert pages(driver, lambda _: None, participant="a", detail=OPERATIONS) == names
    driver.lose("a")
    assert pages(driver, lambda _: None, participant="a", detail=OPERATIONS) == []


def test_a_page_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, ids = in_doubt()
    monkeypatch.setattr(listing, "PAGE_BYTES_MAX", 500)
    assert len(administer(driver, Details(participant="a", detail=STRANDED)).rows) < 50
    assert pages(driver, lambda _: None, participant="a", detail=STRANDED) == ids


def test_nobody_of_that_name_is_a_refusal_and_what_cannot_be_listed_an_error() -> None:
    assert administer(Driver(), Details(participant="nobody", detail=LACKING)).refusal.reason == "UNKNOWN_PARTICIPANT"
    listing.check_details(Details(participant="a", detail=LACKING, page_token="anything"))
    for wrong in (Details(participant="a"), Details(participant="No Name", detail=LACKING)):
        with pytest.raises(RequestError):
            listing.check_details(wrong)
