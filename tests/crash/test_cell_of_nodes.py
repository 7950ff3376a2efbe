"""Three nodes of a cell on one PostgreSQL server, two participants and a client under load: a node is killed, one is stopped for
longer than its lease, and all are restarted one after the other. No caller sees an error, and each action took effect once, in both
places or in none."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from cell_of_nodes import Node, under_load

from participant_sdk.testing.postgres import PostgresServer
from troth.log.postgres_cell import init_cell

SHARDS = 6


async def test_no_caller_notices_that_nodes_come_and_go(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(PostgresServer())
        await init_cell(server.dsn(), "c1", SHARDS)
        nodes = [Node(server.dsn()) for _ in range(3)]
        for node in nodes:
            stack.push_async_callback(node.close)
        await asyncio.gather(*(node.start() for node in nodes))
        load = await under_load(stack, tmp_path, nodes)
        await nodes[0].end(signal.SIGKILL)
        await load.goes_on()
        await nodes[0].start()
        await nodes[0].says(r"[2-6] of 6 shards")  # everybody has his share: what he gets from now on was the stopped one's
        stopped = nodes[1].process
        assert stopped is not None
        for node in nodes:
            node.forget()
        stopped.send_signal(signal.SIGSTOP)
        taking = [asyncio.create_task(node.says("serving a shard")) for node in (nodes[0], nodes[2])]
        await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
        for one in taking:
            one.cancel()
        await asyncio.gather(*taking, return_exceptions=True)
        stopped.send_signal(signal.SIGCONT)
        await nodes[1].says("LOG_FENCED")
        for node in nodes:
            await load.goes_on()
            await node.end(signal.SIGTERM)
            assert node.process is not None and node.process.returncode == 0
            await node.start()
        await load.goes_on()
        await load.end()
        north, south = await load.done()
    assert not load.errors
    assert north == south == Counter(load.committed)
