"""The log in MariaDB: the log's contract, who owns it, what is refused, and what a database that went back in time is told."""

from __future__ import annotations

import asyncio
import signal

import pymysql
import pytest
from log_contract import LogContract
from log_samples import NAME, ROLE, Store, batch, lost, numbers, opened
from mariadb_samples import MariadbStore

from participant_sdk.testing.mariadb import MariadbServer
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.errors import LogDamaged, LogError, LogFailed, LogForeign, LogLocked, Reason
from troth.log import batches, mariadb_schema, owned
from troth.log.mariadb import Leases, MariadbLog
from troth.log.mariadb_store import connect, from_error, init, status, unfit
from troth.mariadb.connection import Connection


@pytest.mark.both
class TestMariadbLog(LogContract):
    """The log in a MariaDB database."""

    @pytest.fixture
    def store(self, mariadb_store: MariadbStore) -> Store:
        return mariadb_store


async def expire(store: MariadbStore) -> None:
    """The lease has lapsed, be the owner alive or not."""
    await store.query("UPDATE troth_lease SET expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND")


# ---- owning


async def test_an_owner_whose_log_was_claimed_writes_nothing_more(mariadb_store: MariadbStore) -> None:
    old = await opened(mariadb_store, lease_seconds=60.0)
    await old.write(batch(1), sync=True)
    await expire(mariadb_store)
    new = await opened(mariadb_store)
    for drop_below in (1, 0):
        with pytest.raises(LogFailed) as failed:
            await old.write(batch(2), sync=True, drop_below=drop_below)
        assert failed.value.reason is Reason.LOG_FENCED
    assert (await lost(old)).reason is Reason.LOG_FENCED
    await old.close()
    await new.close()
    again = mariadb_store.log()
    _, records = await again.open()
    await again.close()
    assert numbers(records) == [1]


async def test_a_large_batch_becomes_several_rows_of_one_transaction(
    mariadb_store: MariadbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MariadbLog, "batch_bytes_max", 250)
    log = await opened(mariadb_store)
    await log.write(batch(1, 2, 3, 4, size=90), sync=True)
    rows = await mariadb_store.query("SELECT first_seq, records FROM troth_batch ORDER BY first_seq")
    assert [tuple(row) for row in rows] == [(1, 2), (3, 2)]
    await log.close()
    log = mariadb_store.log()
    _, records = await log.open()
    await log.close()
    assert numbers(records) == [1, 2, 3, 4]


async def waiting(store: MariadbStore, count: int) -> None:
    """Until so many transactions of the server wait for a lock. What it tells of them is as old as the last 0.1 s of silence."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        statement = "SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
        while len(await store.query(statement)) < count:  # noqa: ASYNC110 - it happens in the server, which tells nobody
            await asyncio.sleep(0.12)


async def gate(store: MariadbStore) -> Connection:
    """Somebody in a transaction that has the log's row."""
    connection = await connect(store.dsn)
    await connection.ask("BEGIN")
    return connection


@pytest.mark.both
async def test_an_append_that_waited_behind_the_claim_does_not_land(mariadb_store: MariadbStore) -> None:
    """Its statement began before the claim, and runs after it: what it sees must be the new epoch."""
    old = await opened(mariadb_store)
    await old.write(batch(1), sync=True)
    claim = await gate(mariadb_store)
    await claim.ask(mariadb_schema.CLAIM, {"role": ROLE, "name": NAME})
    writing = asyncio.ensure_future(old.write(batch(2), sync=True))
    await waiting(mariadb_store, 1)
    await claim.ask("UPDATE troth_log SET epoch = epoch + 1")
    await claim.ask("COMMIT")
    with pytest.raises(LogFailed) as fenced:
        await writing
    assert fenced.value.reason is Reason.LOG_FENCED
    await claim.close()
    await old.close()


async def test_an_append_under_way_is_awaited_by_the_claim(mariadb_store: MariadbStore) -> None:
    """The append has the row and has not ended: a claim waits for it, and then reads it."""
    old = await opened(mariadb_store, lease_seconds=60.0)
    await expire(mariadb_store)
    append = await gate(mariadb_store)
    body = batches.pack([batch(1)[0].record.SerializeToString()])  # type: ignore[union-attr]  # it has one
    row = {"first_seq": 1, "records": 1, "drop_below": 0, "crc": batches.checksum(1, body), "body": body}
    assert (await append.ask(mariadb_schema.APPEND, {"log": 1, "epoch": 1, **row})).changed == 1
    new = mariadb_store.log()
    claiming = asyncio.ensure_future(new.open())
    await waiting(mariadb_store, 1)
    await append.ask("COMMIT")
    _, records = await claiming
    assert numbers(records) == [1]
    await append.close()
    await old.close()
    await new.close()


async def test_of_owners_that_claim_at_once_one_has_it(mariadb_store: MariadbStore) -> None:
    logs = [mariadb_store.log() for _ in range(5)]
    done = await asyncio.gather(*(log.open() for log in logs), return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in done) == 1
    assert all(isinstance(one, LogLocked) for one in done if isinstance(one, BaseException))
    await asyncio.gather(*(log.close() for log in logs))
    assert [tuple(row) for row in await mariadb_store.query("SELECT epoch FROM troth_log")] == [(1,)]


async def test_a_lease_is_renewed_and_given_back(mariadb_store: MariadbStore) -> None:
    log = await opened(mariadb_store, lease_seconds=0.15)
    (first,) = await mariadb_store.query("SELECT expires_at FROM troth_lease")
    later = first
    while later == first:
        (later,) = await mariadb_store.query("SELECT expires_at FROM troth_lease")
    assert later > first
    await log.close()
    assert await mariadb_store.query("SELECT log FROM troth_lease") == []


async def test_an_idle_owner_learns_that_it_was_replaced(mariadb_store: MariadbStore) -> None:
    old = await opened(mariadb_store, lease_seconds=0.15)
    await mariadb_store.query("UPDATE troth_lease SET epoch = epoch + 1")
    assert (await lost(old)).reason is Reason.LOG_FENCED
    await old.close()


async def test_an_owner_whose_epoch_another_one_has_as_well_is_fenced(mariadb_store: MariadbStore) -> None:
    """Behind a failover that lost the end of a store: the epoch was given out again."""
    old = await opened(mariadb_store, lease_seconds=0.15)
    await mariadb_store.query("UPDATE troth_lease SET owner = 'another'")
    assert (await lost(old)).reason is Reason.LOG_FENCED
    await old.close()
    assert [tuple(row) for row in await mariadb_store.query("SELECT owner FROM troth_lease")] == [("another",)]


async def test_who_was_stopped_for_long_asks_before_it_speaks(mariadb_store: MariadbStore) -> None:
    log = await opened(mariadb_store, lease_seconds=60.0)
    until = log.held_until
    await expire(mariadb_store)
    await log.hold()
    assert log.held_until > until, "nobody has claimed it: it is ours again"
    await expire(mariadb_store)
    new = await opened(mariadb_store)
    with pytest.raises(LogFailed) as fenced:
        await log.hold()
    assert (await lost(log)) is fenced.value
    await log.close()
    await new.close()


async def test_leases_of_several_logs_are_renewed_together_and_anew_after_a_lost_connection(mariadb_store: MariadbStore) -> None:
    await mariadb_store.init("c2")
    leases = Leases(mariadb_store.dsn, 60.0, "both")
    logs = [mariadb_store.log(name=name, leases=leases) for name in (NAME, "c2")]
    for log in logs:
        await log.open()
    await leases.renew()
    mariadb_store.cut()
    with pytest.raises(LogError, match="the lease of both"):
        await leases.renew()
    await leases.renew()
    for log in logs:
        await log.close()
    assert all(log.lost is not None and log.lost.done() for log in logs), "their own connections are lost"
    await leases.close()


async def test_a_lost_connection_is_a_failed_log_and_the_next_claim_tells_at_once(mariadb_store: MariadbStore) -> None:
    """Not after the lease: a session that has ended has let go of its lock."""
    log = await opened(mariadb_store, lease_seconds=600.0)
    await log.write(batch(1), sync=True)
    mariadb_store.cut()
    with pytest.raises(LogFailed) as failed:
        await log.write(batch(2), sync=True)
    assert failed.value.reason is Reason.LOG_FAILED
    await log.close()
    log = mariadb_store.log(acknowledged=log.acknowledged)
    _, records = await log.open()
    await log.close()
    assert numbers(records) == [1]


@pytest.mark.both
async def test_a_server_killed_in_the_middle_keeps_what_was_acknowledged(breakable_mariadb: MariadbServer) -> None:
    store = MariadbStore(breakable_mariadb)
    await store.create()
    log = await opened(store)
    await log.write(batch(1, 2), sync=True)
    breakable_mariadb.stop(signal.SIGKILL)
    with pytest.raises(LogFailed):
        await log.write(batch(3), sync=True)
    await log.close()
    with pytest.raises(LogError) as away:
        await store.log().open()
    assert away.value.reason is Reason.LOG_AWAY
    breakable_mariadb.start()
    log = store.log(acknowledged=2)
    _, records = await log.open()
    await log.close()
    assert numbers(records) == [1, 2]


async def test_a_claim_behind_a_stuck_append_gives_up(mariadb_store: MariadbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "CLAIM_WAIT_SECONDS", 1.0)
    stuck = await gate(mariadb_store)
    await stuck.ask("SELECT * FROM troth_log LOCK IN SHARE MODE")
    with pytest.raises(LogError) as refused:
        await mariadb_store.log().open()
    assert refused.value.reason is Reason.LOG_AWAY
    await stuck.close()


# ---- what is refused


async def test_a_store_that_lost_what_it_acknowledged_is_refused(mariadb_store: MariadbStore) -> None:
    log = await opened(mariadb_store)
    await log.write(batch(1), sync=True)
    await log.write(batch(2), sync=True)
    await log.close()
    await mariadb_store.query("DELETE FROM troth_batch WHERE first_seq = 2")
    with pytest.raises(LogDamaged, match="record 2 of it was acknowledged"):
        await mariadb_store.log(acknowledged=log.acknowledged).open()
    assert [tuple(row) for row in await mariadb_store.query("SELECT epoch FROM troth_log")] == [(1,)], "a refusal changes nothing"


async def test_damage_is_told_with_its_place(mariadb_store: MariadbStore) -> None:
    log = await opened(mariadb_store)
    for number in (1, 2, 3):
        await log.write(batch(number), sync=True)
    await log.close()
    await mariadb_store.query("UPDATE troth_batch SET body = CONCAT(body, 'x') WHERE first_seq = 2")
    with pytest.raises(LogDamaged, match="damaged at batch 2: its body"):
        await mariadb_store.log().open()


@pytest.mark.parametrize(
    ("setting", "bad", "good"),
    [
        ("innodb_flush_log_at_trx_commit", "2", "1"),
        ("read_only", "1", "0"),
        ("max_allowed_packet", "1048576", "16777216"),
    ],
)  # fmt: skip
async def test_a_server_that_is_not_safe_is_refused(breakable_mariadb: MariadbServer, setting: str, bad: str, good: str) -> None:
    store = MariadbStore(breakable_mariadb)
    await store.create()
    store.say(f"SET GLOBAL {setting} = {bad}")
    try:
        with pytest.raises(LogError, match=f"has {setting} = ") as refused:
            await store.log().open()
        assert refused.value.reason is Reason.STORE_UNSAFE
    finally:
        store.say(f"SET GLOBAL {setting} = {good}")


async def test_a_binary_log_that_is_not_synced_is_refused() -> None:
    """After a crash it says which transactions were committed."""
    async with MariadbServer(log_bin="bin", sync_binlog="0") as server:
        with pytest.raises(LogError, match="sync_binlog = 0"):
            await init(server.dsn(), ROLE, [NAME])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"version": "9.7.4-2"}, []),
        ({"version": "10.11.19-MariaDB-0+deb12u1"}, []),
        ({"version": "8.0.29"}, ["is 8.0.29"]),
        ({"version": "9.7.4-2", "innodb_redo_log_enabled": "OFF"}, ["has innodb_redo_log_enabled = OFF"]),
        ({"version": "9.7.4-2", "group_replication_group_name": "a"}, ["has group_replication_group_name = a"]),
    ],
)
def test_which_servers_keep_a_log_safe(said: dict[str, str], told: list[str]) -> None:
    assert [what for what, _ in unfit({"log_bin": "OFF", "max_allowed_packet": "16777216", **said})] == told


def test_a_user_who_may_not_list_what_is_prepared_is_told_the_privilege() -> None:
    error = from_error("the database", pymysql.err.OperationalError(1401, "XAER_RMERR: Fatal error"), "read")
    assert error.reason is Reason.STORE_UNSAFE and "GRANT XA_RECOVER_ADMIN" in str(error.hint)


async def test_a_session_that_cannot_be_set_up_is_closed(mariadb_store: MariadbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troth.mariadb.connection._OURS", "no_such_setting = %s + %s")
    with pytest.raises(LogError, match="cannot be reached"):
        await connect(mariadb_store.dsn)


async def test_a_database_without_a_store_or_with_a_newer_one_is_refused(mariadb_store: MariadbStore) -> None:
    with pytest.raises(LogForeign, match="holds no store of Troth"):
        await MariadbLog(mariadb_store.server.dsn(), role=ROLE, name=NAME).open()
    await mariadb_store.query("UPDATE troth_store SET format_version = 99")
    with pytest.raises(LogForeign, match="has format 99") as refused:
        await mariadb_store.log().open()
    assert refused.value.reason is Reason.LOG_TOO_NEW


async def test_a_log_that_was_never_made_is_refused_with_those_that_are_there(mariadb_store: MariadbStore) -> None:
    with pytest.raises(LogForeign, match=r"no log of the coordinator 'c9'; it has coordinator 'c1'"):
        await mariadb_store.log(name="c9").open()


async def test_a_user_without_privileges_is_told_what_to_grant(mariadb_store: MariadbStore) -> None:
    mariadb_store.say("CREATE USER stranger", f"GRANT SELECT ON {mariadb_store.database}.troth_log TO stranger")
    try:
        with pytest.raises(LogError) as refused:
            await MariadbLog(mariadb_store.server.dsn(mariadb_store.database, user="stranger"), role=ROLE, name=NAME).open()
        assert (refused.value.reason, "GRANT" in refused.value.hint) == (Reason.STORE_UNSAFE, True)
        await init(mariadb_store.dsn, ROLE, (), branches=True, grant_to="stranger")
        log = MariadbLog(mariadb_store.server.dsn(mariadb_store.database, user="stranger"), role=ROLE, name=NAME)
        await log.open()
        await log.write(batch(1), sync=True)
        await log.close()
    finally:
        mariadb_store.say("DROP USER stranger")


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [("mysql://root:s3cret@localhost/x?unix_socket=/nowhere", Reason.LOG_AWAY), ("mysql://root@h", Reason.CONFIG)],
)
async def test_a_wrong_address_is_told_and_a_password_is_not(dsn: str, reason: Reason) -> None:
    with pytest.raises(LogError) as refused:
        await MariadbLog(dsn, role=ROLE, name=NAME).open()
    assert refused.value.reason is reason
    assert "s3cret" not in str(refused.value)


# ---- making


async def test_making_a_store_twice_changes_nothing_and_it_tells_what_it_has(mariadb_store: MariadbStore) -> None:
    assert await mariadb_store.init(NAME, "c2") == ["c2"]
    assert await mariadb_store.init(NAME, "c2") == []
    log = await opened(mariadb_store)
    await log.write(batch(1, 2), sync=True)
    first, second = await status(mariadb_store.dsn)
    assert (first.role, first.name, first.epoch, first.batches, second.name) == (ROLE, NAME, 1, 1, "c2")
    assert (bool(first.owner), first.lease_seconds > 0, first.bytes > 0) == (True, True, True)
    await log.close()
    first, _ = await status(mariadb_store.dsn)
    assert (first.owner, first.lease_seconds) == ("", 0)


async def test_an_error_while_a_store_is_made_or_read_is_the_logs_error(mariadb_store: MariadbStore) -> None:
    mariadb_store.say("DROP TABLE troth_lease")
    with pytest.raises(LogError, match="could not be read"):
        await status(mariadb_store.dsn)
    mariadb_store.say("DROP TABLE troth_log", "CREATE VIEW troth_log AS SELECT 1 AS number")
    with pytest.raises(LogError, match="could not be changed"):
        await mariadb_store.init("c3")
