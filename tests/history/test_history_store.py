"""Both places of a history: what is kept, found, narrowed, paged and dropped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from coordinator.core import listing
from coordinator.history.entry import key_hash, page_of, query_of, summary_of
from coordinator.history.postgres import PostgresHistory
from coordinator.history.sqlite import FILE, SqliteHistory
from coordinator.history.store import Bounds, HistoryError, HistoryStore
from troth import logs
from troth.v1 import admin_pb2, common_pb2

Listing = admin_pb2.ListTransactionsRequest
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
EVERYTHING = Bounds(1e9, 1_000_000, 1 << 40)


async def numbers(store: HistoryStore, **fields: Any) -> list[int]:
    """The transactions of a listing, by their numbers, page by page."""
    request, found = Listing(finished=True, **fields), list[int]()
    while True:
        page = page_of(request, *await store.page(query_of(request)), now_ms=100_000)
        found += [int(row.transaction_id.rpartition(".")[2]) for row in page.transactions]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_what_is_over_is_found_in_order_page_by_page(store: HistoryStore, over: Any) -> None:
    await store.write([over(number) for number in (3, 1, 2, 5, 4)])
    assert await numbers(store) == [1, 2, 3, 4, 5]
    assert await numbers(store, limit=2) == [1, 2, 3, 4, 5]
    assert await numbers(store, limit=2, newest_first=True) == [5, 4, 3, 2, 1]
    body = await store.find("c1.1.0badcafe.1.3")
    assert body is not None
    timeline = admin_pb2.TransactionSummary.FromString(body).timeline
    assert [(step.state, step.at_ms) for step in timeline.steps] == [("ACTIVE", 0), ("COMMITTED", 1000)]
    assert (timeline.branches[0].voted_ms, timeline.began_ms, timeline.took_ms) == (500, 3_000, 1_000)
    assert await store.find("c1.1.0badcafe.1.9") is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"states": ["ABORTED"]}, [2]),
        ({"states": ["ABORTED", "MIXED"]}, [2, 3]),
        ({"participant": "bank"}, [1, 2, 3]),
        ({"participant": "ban"}, []),
        ({"participant": "payments/0"}, [4]),
        ({"key": "order 7"}, [2]),
        ({"key": "order 8"}, []),
        ({"since_ms": 4_000}, [3, 4]),
        ({"trace_id": TRACE}, [3]),
        ({"trace_id": TRACE, "states": ["COMMITTED"]}, []),
        ({"trace_id": "0" * 32}, []),
        ({"slow_ms": 5_000}, [4]),
        ({"slow_ms": 2**63}, []),
        ({"participant": "bank", "since_ms": 3_000, "states": ["COMMITTED"]}, []),
    ],
)
async def test_a_listing_is_narrowed(store: HistoryStore, over: Any, fields: dict[str, Any], expected: list[int]) -> None:
    await store.write(
        [
            over(1, heuristic=TRACE), over(2, outcome=common_pb2.OUTCOME_ABORTED, key="order 7"),
            over(3, outcome=common_pb2.OUTCOME_MIXED, trace=common_pb2.TraceContext(traceparent=f"00-{TRACE}-{'1' * 16}-01")),
            over(4, participants=("payments/0",), at_ms=9_000),
        ]
    )  # fmt: skip
    assert await numbers(store, **fields) == expected


async def test_the_first_that_is_said_stays_unless_there_is_news(store: HistoryStore, over: Any) -> None:
    await store.write([over(1)])
    await store.write([over(1, outcome=common_pb2.OUTCOME_ABORTED), over(2)])
    assert await numbers(store, states=["COMMITTED"]) == [1, 2]
    await store.write([over(1, outcome=common_pb2.OUTCOME_MIXED, heuristic="bank was forced", is_news=True)])
    assert await numbers(store, states=["MIXED"]) == [1]


async def test_what_is_too_old_or_too_much_is_dropped_oldest_first(store: HistoryStore, over: Any) -> None:
    await store.write([over(number) for number in range(10)])
    assert await store.prune(EVERYTHING, 20_000) == 0
    assert await store.prune(Bounds(17.0, 1_000_000, 1 << 40), 20_000) == 2
    assert await store.prune(EVERYTHING._replace(rows_max=5), 20_000) == 3
    assert await numbers(store) == [5, 6, 7, 8, 9]
    assert await store.prune(EVERYTHING._replace(bytes_max=1), 20_000) > 0


async def test_another_node_of_the_cell_reads_what_one_has_written(dsn: str, over: Any) -> None:
    one, other, stranger = PostgresHistory(dsn, "c1"), PostgresHistory(dsn, "c1"), PostgresHistory(dsn, "c2")
    for place in (one, other, stranger):
        await place.open()
    await one.write([over(1)])
    assert (await numbers(other), await numbers(stranger)) == ([1], [])
    for place in (one, other, stranger):
        await place.close()


async def test_a_file_that_is_damaged_is_put_aside_and_a_new_one_begun(tmp_path: Path, over: Any) -> None:
    (tmp_path / FILE).write_bytes(b"this is no database, and never was one" * 100)
    place = SqliteHistory(tmp_path)
    with logs.quiet():
        await place.open()
    await place.write([over(1)])
    assert await numbers(place) == [1]
    await place.close()
    assert [name.partition("-")[0] for name in os.listdir(tmp_path) if "damaged" in name] == [f"{FILE}.damaged"]


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    place = SqliteHistory(tmp_path)
    await place.open()
    await place.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[60:64] = (99).to_bytes(4, "big")  # user_version
    (tmp_path / FILE).write_bytes(content)
    newer = SqliteHistory(tmp_path)
    with pytest.raises(HistoryError, match="newer version"):
        await newer.open()
    await newer.close()


def test_of_a_key_only_a_hash_is_kept_and_of_a_trace_its_id(over: Any) -> None:
    assert (key_hash(""), len(key_hash("order 7"))) == ("", 32)
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    contexts = (common_pb2.TraceContext(traceparent=parent), common_pb2.TraceContext(traceparent="nonsense"), None)
    kept = [summary_of(over(number, trace=context)).trace_id for number, context in enumerate(contexts)]
    assert kept == ["4bf92f3577b34da6a3ce929d0e0e4736", "", ""]


def test_a_listing_of_what_is_open_needs_no_history() -> None:
    assert not listing.is_of_what_is_over(Listing(states=["PREPARING"]))
    assert listing.is_of_what_is_over(Listing(states=["PREPARING", "ABORTED"]))
