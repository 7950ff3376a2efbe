"""A store that is slow, or full, under callers: what is new is shed, nothing is lost or told wrongly, and it is served again by
itself. And two cells of one name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from cell_of_nodes import PATIENCE_SECONDS, Node, done_at, participant

from participant_sdk import Participant
from participant_sdk.client import Aborted, Client, OutcomeUnknown, call
from participant_sdk.testing.postgres import PostgresServer
from troth.log.postgres_cell import init_cell

OPEN_MAX = 20
CALLS = 60
SLOW = """
CREATE FUNCTION troth.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
CREATE TRIGGER wait BEFORE INSERT ON troth.batch FOR EACH ROW EXECUTE FUNCTION troth.wait();
"""
FULL = """
CREATE FUNCTION troth.full() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER no_room BEFORE INSERT ON troth.batch FOR EACH ROW EXECUTE FUNCTION troth.full();
"""


@asynccontextmanager
async def served(directory: Path, *settings: str) -> AsyncIterator[tuple[Node, Client, list[Participant], psycopg.AsyncConnection]]:
    """A node, a client, two services, and a way past them into the store."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(PostgresServer())
        await init_cell(server.dsn(), "c1", 1)
        node = Node(server.dsn(), 1, *settings)
        stack.push_async_callback(node.close)
        await node.start()
        services = [await stack.enter_async_context(participant(name, directory, node.address)) for name in ("north", "south")]
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(service.wait_connected() for service in services))
        client = await stack.enter_async_context(Client(node.address))
        past = await stack.enter_async_context(await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True))
        yield node, client, services, past


async def put(client: Client, action: str, *, attempts: int = 1, seconds: float = 60.0) -> str:
    """What one caller is told."""
    try:
        both = (call("north", "put", action=action), call("south", "put", action=action))
        await client.run(*both, timeout=seconds, attempts=attempts, wait="complete")
    except Aborted as error:
        return error.reason.name
    except OutcomeUnknown:
        return "UNKNOWN"
    return "COMMITTED"


async def test_a_slow_store_sheds_what_is_new_and_what_it_took_commits(tmp_path: Path) -> None:
    async with served(tmp_path, f"open_transactions_max={OPEN_MAX}", "lease_seconds=60") as (_, client, services, past):
        await past.execute(SLOW)
        await past.execute("SELECT pg_advisory_lock(1)")
        calls = [asyncio.create_task(put(client, str(number))) for number in range(CALLS)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while sum(one.done() for one in calls) < CALLS - OPEN_MAX:  # noqa: ASYNC110 - tasks of others
                await asyncio.sleep(0.02)
        shed = [one.result() for one in calls if one.done()]
        assert set(shed) == {"OVERLOADED"}
        await past.execute("SELECT pg_advisory_unlock(1)")
        told = Counter(await asyncio.gather(*calls))
        assert told == {"OVERLOADED": CALLS - OPEN_MAX, "COMMITTED": OPEN_MAX}
        committed = Counter(str(number) for number, one in enumerate(calls) if one.result() == "COMMITTED")
        assert await done_at(services[0]) == await done_at(services[1]) == committed


async def test_a_full_store_commits_nothing_and_is_served_again_when_there_is_room(tmp_path: Path) -> None:
    async with served(tmp_path) as (node, client, services, past):
        assert await put(client, "before", attempts=20) == "COMMITTED"
        await past.execute(FULL)
        assert await put(client, "meanwhile", seconds=3.0) in ("COORDINATOR_AWAY", "PARTICIPANT_AWAY", "TIMEOUT", "UNKNOWN")
        await node.says("No space left on device")
        await past.execute("DROP TRIGGER no_room ON troth.batch")
        assert await put(client, "after", attempts=100) == "COMMITTED"
        north, south = [await done_at(service) for service in services]
        assert north == south
        assert north["before"] == north["after"] == 1


async def test_of_two_cells_of_one_name_a_service_follows_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncExitStack() as stack:
        addresses = []
        for _ in range(2):
            server = await stack.enter_async_context(PostgresServer())
            await init_cell(server.dsn(), "c1", 1)
            node = Node(server.dsn(), 1)
            stack.push_async_callback(node.close)
            await node.start()
            addresses.append(node.address)
        async with participant("north", tmp_path, addresses[0]) as service:
            await service.wait_connected()
        async with participant("north", tmp_path, addresses[1]), asyncio.timeout(PATIENCE_SECONDS):
            while "FOREIGN_COORDINATOR" not in caplog.text:  # noqa: ASYNC110 - it is told to people
                await asyncio.sleep(0.02)
