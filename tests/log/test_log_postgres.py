"""The log in PostgreSQL: who owns it, what is refused, and what a database that went back in time is told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from log_pgbouncer import PgBouncer
from log_samples import NAME, ROLE, PostgresStore, batch, lost, numbers, opened

from participant_sdk.testing.postgres import PostgresServer
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.errors import LogDamaged, LogError, LogFailed, LogForeign, LogLocked, Reason
from troth.log import batches, owned, postgres_schema
from troth.log.postgres import PostgresLog


@pytest.fixture
async def own_server() -> AsyncIterator[PostgresServer]:
    """A server that the test may stop."""
    async with PostgresServer() as server:
        yield server


async def expire(store: PostgresStore) -> None:
    """The lease has lapsed, be the owner alive or not."""
    await store.query("UPDATE troth.lease SET expires_at = clock_timestamp() - interval '1 second'")


# ---- owning


async def test_an_owner_whose_log_was_claimed_writes_nothing_more(postgres_store: PostgresStore) -> None:
    old = await opened(postgres_store)
    await old.write(batch(1), sync=True)
    await expire(postgres_store)
    new = await opened(postgres_store)
    for _ in range(2):
        with pytest.raises(LogFailed) as failed:
            await old.write(batch(2), sync=True, drop_below=1)
        assert failed.value.reason is Reason.LOG_FENCED
    assert (await lost(old)).reason is Reason.LOG_FENCED
    await new.write(batch(3), sync=True)
    await old.close()
    await new.close()
    log = postgres_store.log()
    _, records = await log.open()
    await log.close()
    assert numbers(records) == [1, 3]


@pytest.mark.parametrize("drop_below", [0, 2])
async def test_a_large_batch_of_a_fenced_owner_leaves_nothing(
    postgres_store: PostgresStore, monkeypatch: pytest.MonkeyPatch, drop_below: int
) -> None:
    monkeypatch.setattr(PostgresLog, "batch_bytes_max", 100)
    old = await opened(postgres_store)
    await old.write(batch(1, 2, size=90), sync=True)
    await expire(postgres_store)
    new = await opened(postgres_store)
    with pytest.raises(LogFailed):
        await old.write(batch(3, 4, 5, size=90), sync=True, drop_below=drop_below)
    with pytest.raises(LogFailed):
        await old.write([], sync=True, drop_below=drop_below)
    await old.close()
    await new.close()
    log = postgres_store.log()
    _, records = await log.open()
    await log.close()
    assert numbers(records) == [1, 2]


async def test_a_batch_too_large_for_a_row_becomes_several_in_order(
    postgres_store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgresLog, "batch_bytes_max", 250)
    log = await opened(postgres_store)
    await log.write(batch(1), sync=True)
    await log.write(batch(2, 3, 4, 5, 6, size=90), sync=True, drop_below=2)
    await log.close()
    assert await postgres_store.query("SELECT first_seq, records FROM troth.batch ORDER BY 1") == [(2, 2), (4, 2), (6, 1)]
    log = postgres_store.log()
    _, records = await log.open()
    await log.close()
    assert [(stored.seq, number) for stored, number in zip(records, numbers(records), strict=True)] == [
        (2, 2), (3, 3), (4, 4), (5, 5), (6, 6),
    ]  # fmt: skip


BLOCKS_APPENDS = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
CREATE TRIGGER wait BEFORE INSERT ON troth.batch FOR EACH ROW EXECUTE FUNCTION wait();
"""


async def waiting(store: PostgresStore, count: int) -> None:
    """Until so many statements of the store's database wait for a lock."""
    statement = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(await store.query(statement)) < count:  # noqa: ASYNC110 - it happens in the server, which tells nobody
            await asyncio.sleep(0)


async def test_an_append_under_way_is_awaited_by_the_claim(postgres_store: PostgresStore) -> None:
    """The append has the row FOR SHARE and has not ended: a claim waits for it, and then reads it."""
    old = await opened(postgres_store)
    await expire(postgres_store)
    await postgres_store.query(BLOCKS_APPENDS)
    gate = await postgres_store.connect()
    await gate.execute("SELECT pg_advisory_lock(1)")
    writing = asyncio.ensure_future(old.write(batch(1), sync=True))
    await waiting(postgres_store, 1)
    new = postgres_store.log()
    claiming = asyncio.ensure_future(new.open())
    await waiting(postgres_store, 2)
    await gate.execute("SELECT pg_advisory_unlock(1)")
    _, records = await claiming
    await writing
    assert numbers(records) == [1]
    with pytest.raises(LogFailed):
        await old.write(batch(2), sync=True)
    await gate.close()
    await old.close()
    await new.close()


async def test_an_append_that_waited_behind_the_claim_does_not_land(postgres_store: PostgresStore) -> None:
    """Its statement began before the claim, and runs after it: what it sees must be the new epoch."""
    old = await opened(postgres_store)
    await old.write(batch(1), sync=True)
    claim = await postgres_store.connect()
    async with claim.transaction():
        await claim.execute(postgres_schema.CLAIM, {"role": ROLE, "name": NAME})
        writing = asyncio.ensure_future(old.write(batch(2), sync=True))
        await waiting(postgres_store, 1)
        await claim.execute("UPDATE troth.log SET epoch = epoch + 1")
    with pytest.raises(LogFailed) as fenced:
        await writing
    assert fenced.value.reason is Reason.LOG_FENCED
    await claim.close()
    await old.close()


async def test_who_learns_of_it_while_an_append_waits_is_told_once(postgres_store: PostgresStore) -> None:
    old = await opened(postgres_store, lease_seconds=0.15)
    claim = await postgres_store.connect()
    async with claim.transaction():
        await claim.execute(postgres_schema.CLAIM, {"role": ROLE, "name": NAME})
        writing = asyncio.ensure_future(old.write(batch(2), sync=True))
        await waiting(postgres_store, 1)
        await claim.execute("UPDATE troth.log SET epoch = epoch + 1")
        await postgres_store.query("UPDATE troth.lease SET epoch = epoch + 1")
        first = await lost(old)
    with pytest.raises(LogFailed) as fenced:
        await writing
    assert fenced.value is first
    await claim.close()
    await old.close()


async def test_of_owners_that_claim_at_once_one_has_it(postgres_store: PostgresStore) -> None:
    logs = [postgres_store.log() for _ in range(5)]
    done = await asyncio.gather(*(log.open() for log in logs), return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in done) == 1
    assert all(isinstance(one, LogLocked) for one in done if isinstance(one, BaseException))
    await asyncio.gather(*(log.close() for log in logs))
    assert await postgres_store.query("SELECT epoch FROM troth.log") == [(1,)]


async def test_a_lease_is_renewed_and_given_back(postgres_store: PostgresStore) -> None:
    log = await opened(postgres_store, lease_seconds=0.15)
    (first,) = await postgres_store.query("SELECT expires_at FROM troth.lease")
    later = first
    while later == first:
        (later,) = await postgres_store.query("SELECT expires_at FROM troth.lease")
    assert later > first
    await log.close()
    assert await postgres_store.query("SELECT log FROM troth.lease") == []


async def test_an_idle_owner_learns_that_it_was_replaced(postgres_store: PostgresStore) -> None:
    old = await opened(postgres_store, lease_seconds=0.15)
    await postgres_store.query("UPDATE troth.log SET epoch = epoch + 1")
    await postgres_store.query("UPDATE troth.lease SET epoch = epoch + 1")
    assert (await lost(old)).reason is Reason.LOG_FENCED
    await old.close()


async def test_an_owner_whose_epoch_another_one_has_as_well_is_fenced(postgres_store: PostgresStore) -> None:
    """Behind a failover that lost the end of a store: the epoch was given out again. Its lease was renewed for both."""
    old = await opened(postgres_store, lease_seconds=0.15)
    await postgres_store.query("UPDATE troth.lease SET owner = 'another'")
    assert (await lost(old)).reason is Reason.LOG_FENCED
    await old.close()
    assert await postgres_store.query("SELECT owner FROM troth.lease") == [("another",)]


async def test_a_lease_is_renewed_on_a_new_connection_when_the_old_one_was_lost(postgres_store: PostgresStore) -> None:
    log = await opened(postgres_store, lease_seconds=0.15)
    statement = "SELECT pid FROM pg_stat_activity WHERE application_name = 'troth lease c1'"
    old: list[object] = []
    while not old:
        old = await postgres_store.query(statement)
    await postgres_store.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'troth lease c1'")
    new = old
    while new == old or not new:
        new = await postgres_store.query(statement)
    await log.close()
    assert log.lost is not None
    assert not log.lost.done()


async def test_who_was_stopped_for_long_asks_before_it_speaks(postgres_store: PostgresStore) -> None:
    """As after SIGSTOP: no timer has run, and the lease has lapsed meanwhile."""
    log = await opened(postgres_store, lease_seconds=60.0)
    until = log.held_until
    await expire(postgres_store)
    await log.hold()
    assert log.held_until > until, "nobody has claimed it: it is ours again"
    await expire(postgres_store)
    new = await opened(postgres_store)
    with pytest.raises(LogFailed) as fenced:
        await log.hold()
    assert fenced.value.reason is Reason.LOG_FENCED
    assert (await lost(log)) is fenced.value
    await log.close()
    await new.close()


async def test_an_error_at_the_end_is_a_failed_log(postgres_store: PostgresStore) -> None:
    log = await opened(postgres_store)
    postgres_store.cut()
    await log.close()
    assert (await lost(log)).reason is Reason.LOG_FAILED


async def test_a_lost_connection_is_a_failed_log_and_the_next_claim_tells(postgres_store: PostgresStore) -> None:
    log = await opened(postgres_store)
    await log.write(batch(1), sync=True)
    postgres_store.cut()
    with pytest.raises(LogFailed) as failed:
        await log.write(batch(2), sync=True)
    assert failed.value.reason is Reason.LOG_FAILED
    await log.close()
    log = postgres_store.log(acknowledged=log.acknowledged)
    _, records = await log.open()
    await log.close()
    assert numbers(records) == [1]


async def test_a_cancelled_writer_cancels_nothing(postgres_store: PostgresStore) -> None:
    log = await opened(postgres_store)
    writing = asyncio.ensure_future(log.write(batch(1), sync=True))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await log.close()
    log = postgres_store.log()
    _, records = await log.open()
    await log.close()
    assert numbers(records) == [1]


async def test_a_server_killed_in_the_middle_keeps_what_was_acknowledged(own_server: PostgresServer) -> None:
    store = PostgresStore(own_server)
    await store.create()
    log = await opened(store)
    await log.write(batch(1, 2), sync=True)
    own_server.stop(signal.SIGQUIT)
    with pytest.raises(LogFailed):
        await log.write(batch(3), sync=True)
    await log.close()
    with pytest.raises(LogError) as away:
        await store.log().open()
    assert away.value.reason is Reason.LOG_AWAY
    own_server.start()
    log = store.log(acknowledged=2)
    _, records = await log.open()
    await log.close()
    assert numbers(records) == [1, 2]


class Notice:
    """What a server says whose wait for a replica was cancelled (tests/crash/test_failover.py has real ones)."""

    source_function = "SyncRepWaitForLSN"


async def test_a_commit_that_no_replica_has_is_a_failed_log(postgres_store: PostgresStore) -> None:
    log = await opened(postgres_store)
    await log.write(batch(1), sync=True)
    log._noticed(Notice())
    with pytest.raises(LogFailed, match="was written, but the wait for the synchronous replica was cancelled") as failed:
        await log.write(batch(2), sync=True)
    assert (await lost(log)) is failed.value
    await log.close()
    log = postgres_store.log(acknowledged=log.acknowledged)
    log._noticed(Notice())
    with pytest.raises(LogFailed, match="was opened, but"):
        await log.open()


# ---- what is refused


async def test_a_server_with_replicas_that_are_not_waited_for_is_refused() -> None:
    async with PostgresServer(synchronous_standby_names="*", synchronous_commit="local") as server:
        with pytest.raises(LogError, match="synchronous_commit = local") as refused:
            await PostgresStore(server).create()
        assert refused.value.reason is Reason.STORE_UNSAFE


async def test_a_store_that_lost_what_it_acknowledged_is_refused(postgres_store: PostgresStore) -> None:
    log = await opened(postgres_store)
    await log.write(batch(1), sync=True)
    await log.write(batch(2), sync=True)
    await log.close()
    await postgres_store.query("DELETE FROM troth.batch WHERE first_seq = 2")
    with pytest.raises(LogDamaged, match="record 2 of it was acknowledged"):
        await postgres_store.log(acknowledged=log.acknowledged).open()
    assert await postgres_store.query("SELECT epoch FROM troth.log") == [(1,)], "a refusal changes nothing"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DELETE FROM troth.batch WHERE first_seq = 2", "damaged at batch 2: it is missing before batch 3"),
        ("UPDATE troth.batch SET body = set_byte(body, 6, 255) WHERE first_seq = 2", "damaged at batch 2: its body"),
        ("UPDATE troth.batch SET records = 2 WHERE first_seq = 3", "damaged at batch 3: its body"),
        ("UPDATE troth.batch SET body = '\\x00000009ff'::bytea, crc = %s WHERE first_seq = 3", "damaged at batch 3: its body"),
        ("UPDATE troth.batch SET body = '\\x0000'::bytea, crc = %s WHERE first_seq = 3", "damaged at batch 3: its body"),
    ],
)  # fmt: skip
async def test_damage_is_told_with_its_place(postgres_store: PostgresStore, damage: str, told: str) -> None:
    log = await opened(postgres_store)
    for number in (1, 2, 3):
        await log.write(batch(number), sync=True)
    await log.close()
    body = b"\x00\x00\x00\x09\xff" if "ff'" in damage else b"\x00\x00"
    await postgres_store.query(damage, *([batches.checksum(3, body)] if "%s" in damage else []))
    with pytest.raises(LogDamaged, match=told):
        await postgres_store.log().open()


@pytest.mark.parametrize("setting", ["synchronous_commit", "fsync", "full_page_writes"])
async def test_a_server_that_acknowledges_before_the_disk_has_it_is_refused(setting: str) -> None:
    async with PostgresServer(**{setting: "off"}) as server:
        store = PostgresStore(server)
        with pytest.raises(LogError, match=f"{setting} = off") as refused:
            await store.create()
        assert refused.value.reason is Reason.STORE_UNSAFE
        assert f"{setting} = on" in refused.value.hint


async def test_a_replica_is_refused(own_server: PostgresServer) -> None:
    own_server.stop()
    own_server.be_replica()
    own_server.start()
    with pytest.raises(LogError) as refused:
        await PostgresLog(own_server.dsn(), role=ROLE, name=NAME).open()
    assert (refused.value.reason, "name the primary" in refused.value.hint) == (Reason.LOG_AWAY, True)


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_proxy_that_shares_sessions_is_refused(postgres_store: PostgresStore, mode: str) -> None:
    with PgBouncer(postgres_store.server, mode) as proxy:
        log = PostgresLog(proxy.dsn(postgres_store.database), role=ROLE, name=NAME)
        if mode == "session":
            await log.open()
            await log.close()
            return
        with pytest.raises(LogError, match="transaction pooling") as refused:
            await log.open()
        assert refused.value.reason is Reason.STORE_UNSAFE


async def test_an_old_server_is_refused(postgres_store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_schema, "SERVER_VERSION_MIN", 990_000)
    with pytest.raises(LogError, match="is PostgreSQL 15"):
        await postgres_store.log().open()


async def test_an_error_while_a_store_is_made_or_read_is_the_logs_error(postgres_store: PostgresStore) -> None:
    await postgres_store.query("DROP TABLE troth.lease")
    with pytest.raises(LogError, match="could not be read"):
        await postgres_store.status()
    await postgres_store.query("DROP TABLE troth.log")
    with pytest.raises(LogError, match="could not be changed"):
        await postgres_store.init("c3")


async def test_a_database_without_a_store_is_refused(postgres: PostgresServer) -> None:
    with pytest.raises(LogForeign, match="holds no store of Troth"):
        await PostgresLog(postgres.dsn(), role=ROLE, name=NAME).open()


async def test_a_store_of_a_newer_version_is_refused(postgres_store: PostgresStore) -> None:
    await postgres_store.query("UPDATE troth.store SET format_version = 99")
    with pytest.raises(LogForeign, match="has format 99") as refused:
        await postgres_store.log().open()
    assert refused.value.reason is Reason.LOG_TOO_NEW


async def test_a_log_that_was_never_made_is_refused_with_those_that_are_there(postgres_store: PostgresStore) -> None:
    with pytest.raises(LogForeign, match=r"no log of the coordinator 'c9'; it has coordinator 'c1'"):
        await postgres_store.log(name="c9").open()


async def test_a_role_without_privileges_is_told_what_to_grant(postgres_store: PostgresStore) -> None:
    await postgres_store.query("CREATE ROLE stranger LOGIN")
    try:
        for dsn in (postgres_store.dsn.replace("user=troth", "user=stranger"),):
            with pytest.raises(LogError) as refused:
                await PostgresLog(dsn, role=ROLE, name=NAME).open()
            assert refused.value.reason is Reason.STORE_UNSAFE
            assert "GRANT" in refused.value.hint
    finally:
        await postgres_store.query("DROP ROLE stranger")


@pytest.mark.parametrize(("dsn", "reason"), [("host=/nowhere", Reason.LOG_AWAY), ("no such option=1", Reason.CONFIG)])
async def test_a_wrong_address_is_told(dsn: str, reason: Reason) -> None:
    with pytest.raises(LogError) as refused:
        await PostgresLog(dsn, role=ROLE, name=NAME).open()
    assert refused.value.reason is reason


async def test_a_password_is_never_told(postgres: PostgresServer) -> None:
    with pytest.raises(LogError) as refused:
        await PostgresLog("host=/nowhere password=s3cret", role=ROLE, name=NAME).open()
    assert "s3cret" not in str(refused.value)


async def test_a_claim_behind_a_stuck_append_gives_up(postgres_store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "CLAIM_WAIT_SECONDS", 0.05)
    connection = await postgres_store.connect()
    async with connection.transaction():
        await connection.execute("SELECT FROM troth.log FOR SHARE")
        with pytest.raises(LogError) as refused:
            await postgres_store.log().open()
    await connection.close()
    assert refused.value.reason is Reason.LOG_AWAY


# ---- making


async def test_making_a_store_twice_changes_nothing(postgres_store: PostgresStore) -> None:
    assert await postgres_store.init(NAME, "c2") == ["c2"]
    assert await postgres_store.init(NAME, "c2") == []


async def test_a_store_tells_what_it_has(postgres_store: PostgresStore) -> None:
    log = await opened(postgres_store)
    await log.write(batch(1, 2), sync=True)
    (status,) = await postgres_store.status()
    assert (status.role, status.name, status.epoch, status.batches) == (ROLE, NAME, 1, 1)
    assert status.owner
    assert status.lease_seconds > 0
    await log.close()
    (status,) = await postgres_store.status()
    assert (status.owner, status.lease_seconds) == ("", 0)

