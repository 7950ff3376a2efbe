"""Whoever closes a log in a database that accepts and never answers ends all the same: no driver has a time limit for answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from log_samples import PostgresStore, batch, lost, opened
from mariadb_samples import MariadbStore

from tests.stopped import silent
from troth.errors import LogError, LogFailed, Reason
from troth.log import mariadb, owned, postgres_leases, postgres_store
from troth.mariadb import address


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(postgres_store, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(address, "CONNECT_SECONDS", 2)


async def ends(store: Any) -> None:
    """Its log has a connection for its records and one for its lease: neither is answered."""
    log = await opened(store, lease_seconds=60.0)
    await log.hold()
    with silent(store.server):
        await log.close()
    assert (await lost(log)).reason is Reason.LOG_FAILED


async def is_hurried(store: Any) -> None:
    """What is under way when somebody closes fails; what nobody closes waits."""
    log = await opened(store, lease_seconds=60.0)
    with silent(store.server):
        writing = asyncio.ensure_future(log.write(batch(1), sync=True))
        await asyncio.wait([writing], timeout=0.3)
        assert not writing.done()
        log.hurry()
        log.hurry()
        with pytest.raises(LogFailed):
            await writing
        await log.close()
    assert (await lost(log)).reason is Reason.LOG_FAILED


async def are_let_go(leases: owned.Leases, server: Any) -> None:
    """Of leases that are just being renewed."""
    await leases.renew()
    with silent(server):
        renewing = asyncio.ensure_future(leases.renew())
        await asyncio.wait([renewing], timeout=0.3)
        assert not renewing.done()
        await leases.close()
        with pytest.raises(LogError, match="the lease of both"):
            await renewing


async def is_asked_no_more(leases: owned.Leases, server: Any) -> None:
    """To connect has a time limit of its own; it is not tried again."""
    leases.hurry()
    with silent(server):
        with pytest.raises(LogError):
            await leases.renew()
        with pytest.raises(LogError, match="the server did not answer") as away:
            await leases.renew()
        assert away.value.reason is Reason.LOG_AWAY
        await leases.close()


async def test_a_log_in_a_silent_postgresql_is_closed(postgres_store: PostgresStore) -> None:
    await ends(postgres_store)


async def test_a_log_in_a_silent_mariadb_is_closed(mariadb_store: MariadbStore) -> None:
    await ends(mariadb_store)


async def test_a_write_to_a_silent_postgresql_is_waited_for_until_somebody_closes(postgres_store: PostgresStore) -> None:
    await is_hurried(postgres_store)


async def test_a_write_to_a_silent_mariadb_is_waited_for_until_somebody_closes(mariadb_store: MariadbStore) -> None:
    await is_hurried(mariadb_store)


async def test_a_silent_postgresql_is_connected_to_once_when_leases_are_closed(postgres_store: PostgresStore) -> None:
    await is_asked_no_more(postgres_leases.Leases(postgres_store.dsn, 60.0, "both"), postgres_store.server)


async def test_a_silent_mariadb_is_connected_to_once_when_leases_are_closed(mariadb_store: MariadbStore) -> None:
    await is_asked_no_more(mariadb.Leases(mariadb_store.dsn, 60.0, "both"), mariadb_store.server)


async def test_leases_in_a_silent_postgresql_are_let_go(postgres_store: PostgresStore) -> None:
    await are_let_go(postgres_leases.Leases(postgres_store.dsn, 60.0, "both"), postgres_store.server)


async def test_leases_in_a_silent_mariadb_are_let_go(mariadb_store: MariadbStore) -> None:
    await are_let_go(mariadb.Leases(mariadb_store.dsn, 60.0, "both"), mariadb_store.server)
