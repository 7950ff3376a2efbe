"""A cell in a store: made once, joined by nodes, looked at, left; and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from log_samples import PostgresStore

from troth.errors import LogError, LogForeign, LogLocked, Reason
from troth.log.owned import Claim
from troth.log.postgres import PostgresLog
from troth.log.postgres_cell import CellStore, init_cell
from troth.log.postgres_leases import Leases
from troth.log.postgres_store import upgrade


@pytest_asyncio.fixture
async def leases(postgres_store: PostgresStore) -> AsyncIterator[Leases]:
    """One node's leases, in a store with the cell c5 of two shards."""
    await init_cell(postgres_store.dsn, "c5", 2)
    one = Leases(postgres_store.dsn, 60.0, "test")
    yield one
    await one.close()


async def joined(store: PostgresStore, leases: Leases, name: str = "n1") -> CellStore:
    cell = CellStore(store.dsn, "c5", leases)
    await cell.open()
    await cell.join(name, f"{name}:1")
    return cell


async def test_a_cell_is_made_once_and_keeps_its_number_of_shards(postgres_store: PostgresStore, leases: Leases) -> None:
    assert await init_cell(postgres_store.dsn, "c5", 2) == []
    with pytest.raises(LogForeign, match="is there with 2 shards"):
        await init_cell(postgres_store.dsn, "c5", 4)
    with pytest.raises(LogForeign, match="is there already"):
        await init_cell(postgres_store.dsn, "c5-01", 1)
    with pytest.raises(LogForeign, match="no cell 'c6'; it has 'c5'"):
        await CellStore(postgres_store.dsn, "c6", leases).open()


async def test_a_node_sees_nodes_and_shards_and_who_has_what(postgres_store: PostgresStore, leases: Leases) -> None:
    cell = await joined(postgres_store, leases)
    log = PostgresLog(postgres_store.dsn, role="coordinator", name="c5-00", leases=leases, owner="n1")
    await log.open()
    await leases.renew()
    seen = await cell.beat("n1:1", draining=False, leaving=["c5-00"])
    (node,) = seen.nodes
    assert (node.name, node.address, node.lives, node.draining) == ("n1", "n1:1", True, False)
    seen = await cell.beat("n1:1", draining=True, leaving=[])
    first, second = seen.shards
    assert (first.name, first.owner, first.held, first.claim, first.leaving) == ("c5-00", "n1", True, 1, True)
    assert (second.owner, second.held, second.claim) == ("", False, 0)
    assert await cell.batches() == {"c5-00": 0, "c5-01": 0}
    await log.close()
    await cell.leave()
    assert await postgres_store.query("SELECT name FROM troth.node") == []


async def test_whoever_gives_its_lease_back_is_not_told_that_another_has_the_log(
    postgres_store: PostgresStore, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that was asked for before, and one that comes between: both find no lease."""
    log = PostgresLog(postgres_store.dsn, role="coordinator", name="c5-00", leases=leases, owner="n1")
    await log.open()
    renew, give_back, asked, closed = leases._renewed, log._give_back, asyncio.Event(), asyncio.Event()

    async def renewed_late(claims: Sequence[Claim]) -> set[Claim]:
        if not asked.is_set():
            asked.set()
            await closed.wait()
        return await renew(claims)

    async def renewed_between() -> None:
        await give_back()
        await leases.renew()

    monkeypatch.setattr(leases, "_renewed", renewed_late)
    monkeypatch.setattr(log, "_give_back", renewed_between)
    renewing = asyncio.create_task(leases.renew())
    await asked.wait()
    await log.close()
    closed.set()
    await renewing
    assert log.lost is not None and not log.lost.done()


async def test_a_canary_and_settings_are_told_to_all_and_may_become_none(postgres_store: PostgresStore, leases: Leases) -> None:
    cell = await joined(postgres_store, leases)
    told = []
    for part in (1.0, 0.25, 0.0, 1.0):
        cell.canary = part
        told += [node.canary for node in (await cell.beat("n1:1", draining=False, leaving=[])).nodes]
    assert told == [1.0, 0.25, 0.0, 1.0]
    cell.canary = 0.5
    assert [node.settings for node in (await cell.beat("n1:1", draining=False, leaving=[])).nodes] == [""]
    for part in (0.5, 1.0):
        cell.canary, cell.settings = part, "a=1,b=2"
        (row,) = (await cell.beat("n1:1", draining=False, leaving=[])).nodes
        assert (row.canary, row.settings) == (part, "a=1,b=2")
    await cell.join("n1", "n1:1")
    await cell.leave()
    assert await postgres_store.query("SELECT name FROM troth.node") == []


async def test_what_a_node_uses_is_told_to_all_and_one_of_an_older_version_uses_nothing(
    postgres_store: PostgresStore, leases: Leases
) -> None:
    cell = await joined(postgres_store, leases)

    async def told() -> list[tuple[float, set[str]]]:
        seen = await cell.beat("n1:1", draining=False, leaving=[])
        return [(node.canary, set(node.features)) for node in seen.nodes]

    assert await told() == [(1.0, set())]
    cell.features, cell.canary = {"reviews", "key_results"}, 0.5
    assert await told() == [(0.5, {"reviews", "key_results"})]
    for process, canary in (("0a0b0c0d", 1.0), ("0a0b0c0d/0.25", 0.25)):  # what a version before this one tells of itself
        row = "('c5', 'older', '{}', 'o:1', 1, clock_timestamp())"
        columns = "(cell, name, process, address, backend_pid, expires_at)"
        await postgres_store.query(f"INSERT INTO troth.node {columns} VALUES {row.format(process)}")
        assert (await told())[-1] == (canary, set())
        await postgres_store.query("DELETE FROM troth.node WHERE name = 'older'")


async def test_a_name_belongs_to_the_node_that_lives(postgres_store: PostgresStore, leases: Leases) -> None:
    await joined(postgres_store, leases)
    with pytest.raises(LogLocked, match="is the node 'n1', and lives"):
        await joined(postgres_store, leases)
    await postgres_store.query("UPDATE troth.node SET expires_at = clock_timestamp() - interval '1 second'")
    await joined(postgres_store, leases)


async def test_who_was_taken_for_dead_joins_again(postgres_store: PostgresStore, leases: Leases) -> None:
    cell = await joined(postgres_store, leases)
    await postgres_store.query("DELETE FROM troth.node")
    await cell.beat("n1:1", draining=False, leaving=[])
    assert [node.lives for node in (await cell.beat("n1:1", draining=False, leaving=[])).nodes] == [True]


async def test_a_cell_that_lost_a_log_is_refused(postgres_store: PostgresStore, leases: Leases) -> None:
    cell = await joined(postgres_store, leases)
    await postgres_store.query("DELETE FROM troth.log WHERE name = 'c5-01'")
    with pytest.raises(LogError) as refused:
        await cell.beat("n1:1", draining=False, leaving=[])
    assert refused.value.reason is Reason.LOG_FOREIGN


async def test_a_store_of_the_first_format_becomes_one_of_cells(postgres_store: PostgresStore) -> None:
    await postgres_store.query("DROP TABLE troth.node, troth.cell")
    await postgres_store.query("ALTER TABLE troth.lease DROP COLUMN leaving")
    await postgres_store.query("UPDATE troth.store SET format_version = 1")
    assert await upgrade(postgres_store.dsn) == [1, 2]
    assert await postgres_store.query("SELECT shards FROM troth.cell") == [(1,)]
    assert await upgrade(postgres_store.dsn) == [2]


async def test_a_store_in_use_and_one_that_is_not_there_are_not_upgraded(postgres_store: PostgresStore) -> None:
    log = postgres_store.log()
    await log.open()
    await postgres_store.query("UPDATE troth.store SET format_version = 1")
    with pytest.raises(LogLocked, match="in use"):
        await upgrade(postgres_store.dsn)
    await log.close()
    await postgres_store.query("DROP SCHEMA troth CASCADE")
    with pytest.raises(LogForeign, match="holds no store"):
        await upgrade(postgres_store.dsn)
    await init_cell(postgres_store.dsn, "c5", 1)
    await postgres_store.query("UPDATE troth.store SET format_version = 1")
    with pytest.raises(LogForeign, match="older format 1"):
        await postgres_store.status()


async def test_a_cell_that_cannot_be_read_is_the_logs_error(postgres_store: PostgresStore, leases: Leases) -> None:
    await postgres_store.query("DROP TABLE troth.node, troth.cell")
    with pytest.raises(LogError, match="could not be read"):
        await CellStore(postgres_store.dsn, "c5", leases).open()


async def test_the_leases_of_all_logs_are_renewed_together_until_there_are_none(postgres_store: PostgresStore) -> None:
    await init_cell(postgres_store.dsn, "c5", 2)
    leases = Leases(postgres_store.dsn, 0.2, "test")
    logs = [PostgresLog(postgres_store.dsn, role="coordinator", name=f"c5-0{number}", leases=leases) for number in range(2)]
    for log in logs:
        await log.open()
    first = await postgres_store.query("SELECT expires_at FROM troth.lease ORDER BY log")
    later = first
    while any(one == other for one, other in zip(first, later, strict=True)):
        later = await postgres_store.query("SELECT expires_at FROM troth.lease ORDER BY log")
    await postgres_store.query("UPDATE troth.log SET epoch = epoch + 1 WHERE name = 'c5-00'")
    await postgres_store.query("UPDATE troth.lease SET epoch = 2 WHERE log = (SELECT number FROM troth.log WHERE name = 'c5-00')")
    for _ in range(2):
        with pytest.raises(LogError) as fenced:
            await logs[0].hold()
        assert fenced.value.reason is Reason.LOG_FENCED
    await logs[1].hold()
    for log in logs:
        await log.close()
    until = asyncio.get_running_loop().time() + leases.seconds
    while asyncio.get_running_loop().time() < until:  # a turn without anything to renew
        await postgres_store.query("SELECT 1")
    await leases.close()
