"""A participant on PostgreSQL in a transaction with others: commits, aborts, crashes, and what is left in the database."""

from __future__ import annotations

from pathlib import Path

import pytest
from pg_bench import ASYNC, BLOCKING, LIMITS, Database

from participant_sdk import Participant
from participant_sdk.client.client import call
from participant_sdk.resources.postgres import Postgres
from participant_sdk.testing.cluster import COORDINATOR, Cluster
from troth.errors import Aborted


def maker(database: Database, directory: Path, name: str) -> Participant:
    resource = Postgres(database.dsn, limits=LIMITS)
    participant = Participant(name, resource=resource, data_directory=directory, coordinator="memory:1")
    operations = ASYNC if name == "one" else BLOCKING
    for known, function in operations.items():
        participant.operation(name=known)(function)
    return participant


async def value(database: Database, name: str) -> int | None:
    rows = await database.sql("SELECT value FROM item WHERE name = %s", name)
    return rows[0][0] if rows else None


async def test_two_participants_on_one_database_commit_and_abort_together(database: Database, tmp_path: Path) -> None:
    makers = [lambda name=name: maker(database, tmp_path, name) for name in ("one", "two")]  # type: ignore[misc]  # a default
    async with Cluster(*makers) as cluster:
        done = await cluster.run(call("one", "put", name="a", value=1), call("two", "put", name="b", value=2))
        assert done.results == {"one": [None], "two": [None]}
        assert (await value(database, "a"), await value(database, "b")) == (1, 2)
        with pytest.raises(Aborted) as aborted:
            await cluster.run(call("one", "put", name="a", value=9), call("two", "refuse", name="b", value=9))
        assert aborted.value.code == "NO"
        assert (await value(database, "a"), await value(database, "b")) == (1, 2)
        await cluster.crash(COORDINATOR)
        await cluster.restart(COORDINATOR)
        for name in ("one", "two"):
            await cluster.restart(name)
        await cluster.run(call("one", "put", name="a", value=3), call("two", "get", name="b"))
        assert await value(database, "a") == 3
    assert await database.prepared() == []
