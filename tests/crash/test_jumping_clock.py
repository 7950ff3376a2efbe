"""A node whose wall clock jumps hours ahead and back under load: it keeps its shards, for no longer than a lease by the
database's clock; what it takes over meanwhile it serves; no caller sees an error, and no key is forgotten, which would let work be
done again."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from cell_of_nodes import PATIENCE_SECONDS, Node, under_load

from participant_sdk.client import Client, call
from participant_sdk.testing.postgres import PostgresServer
from troth.cell import shard_of_key
from troth.log.postgres_cell import init_cell
from troth.log.postgres_store import status

SHARDS = 4
HOURS = 5
"""More than keys and outcomes are kept (`retention_seconds`)."""
LEASE_SECONDS = 6.0


async def owned(dsn: str) -> dict[str, tuple[str, int]]:
    """Who has which shard, by which claim; no lease is longer than one by the database's clock."""
    logs = await status(dsn)
    assert all(log.lease_seconds <= LEASE_SECONDS for log in logs), logs
    return {log.name: (log.owner, log.epoch) for log in logs}


async def renewed(dsn: str) -> None:
    """Wait until every lease was renewed since now."""
    waiting = {log.name: log.lease_seconds for log in await status(dsn)}
    async with asyncio.timeout(PATIENCE_SECONDS):
        while waiting:
            await asyncio.sleep(0.1)
            for log in await status(dsn):
                if waiting.get(log.name, LEASE_SECONDS + 1) < log.lease_seconds:
                    del waiting[log.name]
                elif log.name in waiting:
                    waiting[log.name] = log.lease_seconds


def keyed(action: str) -> bool:
    """Whether its caller gives its actions keys."""
    return int(action.partition("/")[0]) % 2 == 1


async def again(client: Client, actions: list[str]) -> None:
    """Whoever comes with the key of what has committed is told that, and nothing is done."""
    for action in actions:
        both = (call("north", "put", action=action), call("south", "put", action=action))
        done = await client.run(*both, key=action, timeout=60, wait="complete", attempts=20)
        assert done.replayed, f"the key of {action} was forgotten"


async def test_a_clock_that_jumps_moves_no_shard_and_loses_no_key(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")

    def jump(hours: float) -> None:
        after = tmp_path / "clock.new"
        after.write_text(str(hours * 3600))
        after.rename(clock)

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(PostgresServer())
        await init_cell(server.dsn(), "c1", SHARDS)
        lease = f"lease_seconds={LEASE_SECONDS}"
        jumping = Node(server.dsn(), 10, lease, program=(str(Path(__file__).with_name("jumping_node.py")), str(clock)))
        other = Node(server.dsn(), 10, lease)
        for node in (jumping, other):
            stack.push_async_callback(node.close)
            await node.start()
        await other.says("2 of 4 shards")
        load = await under_load(stack, tmp_path, (jumping, other))
        async with asyncio.timeout(PATIENCE_SECONDS):
            # The clock of a shard on which nothing ages yet says what the wall clock says (`troth.clock`).
            while len({shard_of_key(action, SHARDS) for action in load.committed if keyed(action)}) < SHARDS:
                await load.goes_on()
        before = await owned(server.dsn())
        assert {owner for owner, _ in before.values()} == {jumping.address, other.address}
        for hours in (HOURS, -HOURS):
            jump(hours)
            await load.goes_on()
            await renewed(server.dsn())
            assert await owned(server.dsn()) == before, "each keeps what it has"
        jump(HOURS)
        await other.end(signal.SIGTERM)
        await jumping.says("the wall clock is far from the log's")
        await jumping.says("4 of 4 shards")
        await load.goes_on()
        await load.end()
        await again(load.client, [action for action in load.committed if keyed(action)][::5])
        north, south = await load.done()
    assert not load.errors
    assert north == south == Counter(load.committed)
