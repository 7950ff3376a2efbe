"""Listings: what is in them, in which order, and that pages lose and repeat nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest

from coordinator.core import listing
from tests.coordinator_core import test_table as states
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.test_operators import administer
from troth.errors import RequestError
from troth.v1 import admin_pb2, common_pb2

Listing = admin_pb2.ListTransactionsRequest


def finished() -> Driver:
    """Transaction 1 committed with a key, 2 was refused by a, 3 is open; a second between each."""
    driver = Driver()
    driver.run(1, "ab", key="k")
    driver.vote("a", 1, "READ_ONLY")
    driver.vote("b", 1, "READ_ONLY")
    driver.wait(1.0)
    driver.run(2, "ab")
    driver.vote("a", 2, "NO")
    driver.wait(1.0)
    driver.run(3, "ac")
    return driver


def ids(driver: Driver, **fields: Any) -> list[str]:
    return [item.transaction_id for item in administer(driver, Listing(**fields)).transactions]


def test_the_list_is_of_what_is_open_or_of_all_oldest_first() -> None:
    driver = finished()
    everything = administer(driver, Listing(finished=True))
    assert [(item.transaction_id, item.state) for item in everything.transactions] == [
        (driver.id(1), "COMMITTED"),
        (driver.id(2), "ABORTED"),
        (driver.id(3), "PREPARING"),
    ]
    assert everything.transactions[0].key == "k" and list(everything.transactions[2].owing) == ["a", "c"]
    assert (everything.total, everything.next_page_token) == (3, "")
    assert ids(driver) == [driver.id(3)]


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"states": ["ABORTED"]}, [2]),
        ({"states": ["ABORTED", "PREPARING"]}, [2, 3]),
        ({"states": ["COMMITTING"]}, []),
        ({"finished": True, "participant": "c"}, [3]),
        ({"participant": "b"}, []),
        ({"key": "k"}, [1]),
        ({"key": "k", "states": ["ABORTED"]}, []),
        ({"key": "l"}, []),
    ],
)
def test_the_list_can_be_narrowed(fields: dict[str, Any], numbers: list[int]) -> None:
    driver = finished()
    assert ids(driver, **fields) == [driver.id(number) for number in numbers]


@pytest.mark.parametrize("fields", [{"key": "k"}, {"participant": "b", "finished": True}])
def test_what_a_client_whose_clock_is_ahead_has_run_is_listed_too(fields: dict[str, Any]) -> None:
    """It ended before it began, by these clocks."""
    driver = Driver()
    driver.run(1, "ab", key="k", first_attempt_ms=driver.book.clock_ms + 60_000)
    assert ids(driver, **fields) == [driver.id(1)], "while it runs"
    driver.vote("a", 1, "READ_ONLY")
    driver.vote("b", 1, "READ_ONLY")
    assert ids(driver, **fields) == [driver.id(1)]
    assert ids(driver, slow_ms=1, **fields) == []


def test_what_is_open_is_found_by_its_trace() -> None:
    """Of what is over no trace is kept here: the history knows it."""
    driver, trace = Driver(), "4bf92f3577b34da6a3ce929d0e0e4736"
    driver.run(1, "ab", trace=common_pb2.TraceContext(traceparent=f"00-{trace}-00f067aa0ba902b7-01"))
    driver.run(2, "ab")
    driver.run(3, "ab", trace=common_pb2.TraceContext(traceparent=f"00-{trace}"))
    assert ids(driver, trace_id=trace) == [driver.id(1)]
    assert ids(driver, trace_id="0" * 32) == []
    assert [row.trace_id for row in administer(driver, Listing()).transactions] == [trace, "", ""]
    for name in "ab":
        driver.vote(name, 1, "READ_ONLY")
    assert ids(driver, trace_id=trace) == []


@pytest.mark.parametrize("trace_id", ["x", "0" * 31, "0" * 33, "A" * 32])
def test_a_trace_id_that_is_none_is_refused(trace_id: str) -> None:
    with pytest.raises(RequestError, match="trace_id is not 32 hexadecimal digits"):
        listing.check_transactions(Listing(trace_id=trace_id))


def test_a_state_that_is_none_is_refused_and_told_which_there_are() -> None:
    with pytest.raises(RequestError, match="'BOGUS' is not a state; the states are ABORTED, ACTIVE, COMMITTED"):
        listing.check_transactions(Listing(states=["ACTIVE", "BOGUS"]))
    listing.check_transactions(Listing(states=sorted(listing.STATE_NAMES), page_token="17/c1.1.0badcafe.3.4"))


@pytest.mark.parametrize("token", ["x", "/", "7", "7/", "x/c1.1.0badcafe.3.4", "7/" + "x" * listing.TOKEN_CHARACTERS_MAX])
def test_a_token_of_nobody_is_refused(token: str) -> None:
    with pytest.raises(RequestError, match="page_token"):
        listing.check_transactions(Listing(page_token=token))


def test_the_token_of_participants_is_bounded_too() -> None:
    listing.check_participants(admin_pb2.ListParticipantsRequest(page_token="a"))
    with pytest.raises(RequestError, match="page_token"):
        listing.check_participants(admin_pb2.ListParticipantsRequest(page_token="a" * 401))


def _pages(driver: Driver, between: Any, **fields: Any) -> list[str]:
    """All rows, page by page; `between` is done after each."""
    seen: list[str] = []
    token = ""
    while True:
        page = administer(driver, Listing(page_token=token, **fields))
        seen += [item.transaction_id for item in page.transactions]
        token = page.next_page_token
        if not token:
            return seen
        assert page.transactions
        between()


@pytest.mark.parametrize("seed", range(20))
def test_pages_repeat_and_lose_nothing_while_transactions_begin_and_end(seed: int) -> None:
    chance = random.Random(seed)
    driver = Driver()
    numbers = iter(range(1, 1000))

    def begin() -> None:
        driver.run(next(numbers), "ab")
        driver.wait(chance.choice((0.0, 0.001)))

    def end() -> None:
        if driver.book.live:
            driver.vote("a", int(chance.choice(sorted(driver.book.live)).rpartition(".")[2]), "NO")

    for _ in range(30):
        begin()
    there = set(driver.book.live)
    seen = _pages(driver, lambda: (begin(), end(), end()), finished=True, limit=chance.randint(2, 7))
    assert len(seen) == len(set(seen)) and there <= set(seen)


def test_a_page_is_bounded_in_bytes_and_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    for number in range(1, 8):
        driver.run(number, "ab", key=f"{number}" * 200)
    first = administer(driver, Listing())
    assert len(first.transactions) == 7
    monkeypatch.setattr(listing, "PAGE_BYTES_MAX", 2 * first.transactions[0].ByteSize())
    page = administer(driver, Listing())
    assert (len(page.transactions), page.total) == (3, 7) and page.next_page_token
    assert len(_pages(driver, lambda: None)) == 7
    monkeypatch.setattr(listing, "PAGE_BYTES_MAX", 0)  # one row is larger than a page
    assert len(administer(driver, Listing()).transactions) == 1
    monkeypatch.setattr(listing, "ROWS_MAX", 2)
    monkeypatch.setattr(listing, "PAGE_BYTES_MAX", 1_000_000)
    assert len(administer(driver, Listing(limit=5)).transactions) == 2


def test_participants_are_listed_with_what_they_owe() -> None:
    driver = states.committing()
    driver.run(2, "ac")
    driver.lose("b")
    listed = administer(driver, admin_pb2.ListParticipantsRequest()).participants
    assert [(one.participant, one.connected, one.votes_owed, one.acknowledgements_owed) for one in listed] == [
        ("a", True, 1, 1),
        ("b", False, 0, 1),
        ("c", True, 1, 0),
    ]


def test_participants_come_in_pages() -> None:
    driver = Driver()
    first = administer(driver, admin_pb2.ListParticipantsRequest(limit=2))
    assert [one.participant for one in first.participants] == ["a", "b"]
    assert (first.total, first.next_page_token) == (3, "b")
    driver.connect("aa", 9)  # who comes before the token is on no later page
    second = administer(driver, admin_pb2.ListParticipantsRequest(limit=2, page_token="b"))
    assert [one.participant for one in second.participants] == ["c"]
    assert (second.total, second.next_page_token) == (4, "")
