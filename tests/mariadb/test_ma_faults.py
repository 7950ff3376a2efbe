"""Faults with the real server, on the whole resource."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pymysql
import pytest
from ma_bench import ASYNC, LIMITS, Database, MariadbWorkbench, execute, from_dsn

from participant_sdk.registry import Registry
from participant_sdk.resources.contract import Begun, BranchOutcome, Broken, Done, Known, Refused, Unreachable
from participant_sdk.resources.mariadb import MariaDB, MariadbLimits
from participant_sdk.resources.relational import finishing
from participant_sdk.testing.contract import FIRST, LONGER, Bench, operation
from tests.relational import all_finish_it, impatient, until
from troth.errors import ConfigError
from troth.log import mariadb_branches, mariadb_store
from troth.mariadb import finishing as of_mariadb
from troth.v1 import record_pb2

MARKING = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'INSERT INTO troth_branch%'"
"""Who writes a marker or a tombstone, and is not done at once: he waits for another."""
NOTHING = record_pb2.BranchWork()
NAME = mariadb_branches.branch_name("contract", FIRST)


def bench_of(database: Database) -> Bench:
    return Bench(MariadbWorkbench(database, ASYNC, from_dsn()))


def xid(database: Database) -> str:
    return mariadb_branches.xid_of(NAME, database.name).sql


@pytest.fixture
async def bench(database: Database) -> AsyncIterator[Bench]:
    bench = bench_of(database)
    await bench.open()
    yield bench
    await bench.resource.close()


def slow(database: Database, *, lock: str = "") -> Any:
    """Another process in the middle of the branch `NAME`, whose marker is written."""
    return database.session(
        f"SELECT GET_LOCK('{lock or mariadb_branches.branch_lock(NAME, database.name)}', 0)", f"XA START {xid(database)}",
        "INSERT INTO item VALUES ('a', 1)", f"INSERT INTO troth_branch (gid) VALUES ('{NAME}')", f"XA END {xid(database)}",
    )  # fmt: skip


def say(connection: Any, statement: str) -> None:
    connection.cursor().execute(statement)


# ---- somebody else finishes


def by_hand(database: Database, verb: str) -> Callable[[], Any]:
    """A database administrator, who has to wait for the session to end as everybody."""

    async def finish() -> bool:
        try:
            database.sql(f"XA {verb} {xid(database)}")
        except Exception:
            return False
        return True

    return finish


@pytest.mark.both
async def test_a_commit_by_hand_is_found_out_when_the_decision_is_abort(bench: Bench, database: Database) -> None:
    branch, work = await bench.prepared()
    await until(by_hand(database, "COMMIT"))
    assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Done)
    broken = await bench.resource.rollback(branch, work)
    assert isinstance(broken, Broken) and "committed it by hand" in broken.why


@pytest.mark.both
async def test_a_rollback_by_hand_is_found_out_when_the_decision_is_commit(bench: Bench, database: Database) -> None:
    branch, work = await bench.prepared()
    await until(by_hand(database, "ROLLBACK"))
    broken = await bench.resource.commit(branch, work, one_phase=False)
    assert isinstance(broken, Broken) and "by hand" in broken.why
    assert isinstance(await bench.resource.rollback(branch, work), Done)


@pytest.mark.both
async def test_five_finishers_at_once_agree(bench: Bench, database: Database) -> None:
    await all_finish_it(bench, [bench_of(database) for _ in range(4)])


@pytest.mark.both
async def test_branches_of_others_on_the_same_server_are_not_listed(bench: Bench, database: Database) -> None:
    theirs = mariadb_branches.xid_of(NAME, "another").sql, "X'61',X'62',7"
    for number, one in enumerate(theirs):
        work = f"INSERT INTO item VALUES ('{number}', 1)"
        other = database.session(f"XA START {one}", work, f"XA END {one}", f"XA PREPARE {one}")
        other.close()
    assert await bench.in_doubt() == []


async def test_who_closes_waits_for_what_is_just_being_forgotten(bench: Bench, database: Database) -> None:
    """Also when who asked for it has been cancelled: else a task would be left that nobody holds, with a connection."""
    branch, work = await bench.prepared()
    assert isinstance(await until(lambda: bench.resource.commit(branch, work, one_phase=False)), Done)
    blocker = database.session("BEGIN", "SELECT gid FROM troth_branch FOR UPDATE")
    asking = asyncio.create_task(bench.resource.forget(branch))
    forgetting = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DELETE FROM troth_branch%'"
    await until(lambda: asyncio.to_thread(database.sql, forgetting))
    asking.cancel()
    closing = asyncio.create_task(bench.resource.close())
    await asyncio.wait([asking])
    await asyncio.to_thread(database.sql, "SELECT 1")
    assert not closing.done()
    blocker.close()
    await closing
    assert not database.sql("SELECT gid FROM troth_branch")


# ---- attached to its session


async def test_a_branch_that_is_still_attached_is_not_taken_for_unknown(
    bench: Bench, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1397, though it is prepared: its session is ended, and then it is committed."""
    monkeypatch.setattr(of_mariadb, "ATTACHED_WAITS", (0.01,))
    other = slow(database)
    say(other, f"XA PREPARE {xid(database)}")
    assert isinstance(await bench.resource.commit(NAME, NOTHING, one_phase=False), Unreachable)
    assert isinstance(await until(lambda: bench.resource.commit(NAME, NOTHING, one_phase=False)), Done)
    assert await bench.visible("a") == 1


@pytest.mark.parametrize("verb", ["COMMIT", "ROLLBACK"])
async def test_a_success_that_is_none_is_found_out(
    bench: Bench, database: Database, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of MariaDB 10.11 while the session is just ending, one time in some hundred: the answer is OK, and nothing happens."""
    branch, work = await bench.prepared()
    say_nothing = AsyncMock(return_value=True)
    with monkeypatch.context() as patched:
        patched.setattr(of_mariadb, "_said_done", say_nothing)
        if verb == "COMMIT":
            answer: object = await bench.resource.commit(branch, work, one_phase=False)
        else:
            answer = await bench.resource.rollback(branch, work)
    assert isinstance(answer, Unreachable) and "until the server is started again" in answer.why
    assert isinstance(await bench.resource.rollback(branch, work), Done)


async def test_what_else_a_server_says_of_a_branch_is_no_answer(database: Database) -> None:
    """1400: whoever asks is itself in a branch. That is an error of its own, and not taken for 1397."""
    connection = await mariadb_store.connect(database.dsn())
    try:
        await connection.ask("XA START 'another'")
        with pytest.raises(pymysql.Error) as raised:
            await of_mariadb.finish(connection, NAME, database.name, commit=True)
        assert raised.value.args[0] == 1400
    finally:
        await connection.close()


async def test_a_branch_of_a_session_that_does_not_say_so_is_held_as_well(database: Database) -> None:
    """It has no lock of the branch's name, as our own sessions do: that it is prepared, and cannot be finished, tells it."""
    holder, connection = [await mariadb_store.connect(database.dsn()) for _ in range(2)]
    xid = mariadb_branches.xid_of(NAME, database.name).sql
    try:
        for statement in (f"XA START {xid}", "CREATE TEMPORARY TABLE held (id INT)", f"XA END {xid}", f"XA PREPARE {xid}"):
            await holder.ask(statement)
        with pytest.raises(of_mariadb.StillAttached):
            await of_mariadb.finish(connection, NAME, database.name, commit=False)
    finally:
        await holder.ask(f"XA ROLLBACK {xid}")
        await holder.close()
        await connection.close()


# ---- what is slow, and lands late


@pytest.mark.both
async def test_a_vote_that_comes_after_its_tombstone_is_a_no(bench: Bench, database: Database) -> None:
    """Somebody asked for the branch while it worked, and was told that it never will be."""
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    database.sql(mariadb_branches.ENTOMB, branch)
    assert isinstance(await bench.resource.prepare(branch), Refused)
    assert (await bench.in_doubt(), await bench.visible("a")) == ([], None)


@pytest.mark.both
async def test_a_session_about_to_prepare_is_ended_before_an_absent_id_is_believed(bench: Bench, database: Database) -> None:
    other = slow(database)
    assert isinstance(await bench.resource.outcome(NAME), Unreachable)
    assert await until(lambda: bench.resource.outcome(NAME)) == Known(BranchOutcome.NEVER_SEEN)
    with pytest.raises(Exception, match=r"Lost connection|gone away|killed"):
        say(other, f"XA PREPARE {xid(database)}")
    assert database.prepared() == []


async def test_a_prepare_that_landed_after_it_was_looked_for_is_rolled_back(bench: Bench, database: Database) -> None:
    """Its marker is held by the prepared branch: asking again finds the id. (Its session is not known, or it would be awaited.)"""
    other = slow(database, lock="another")
    rolling_back = asyncio.create_task(bench.resource.rollback(NAME, NOTHING))
    await until(lambda: asyncio.to_thread(database.sql, MARKING))
    say(other, f"XA PREPARE {xid(database)}")
    await rolling_back
    other.close()
    assert isinstance(await until(lambda: bench.resource.rollback(NAME, NOTHING)), Done)
    assert (database.prepared(), await bench.visible("a")) == ([], None)


@pytest.mark.both
async def test_what_an_earlier_process_still_does_is_ended_at_the_next_start(bench: Bench, database: Database) -> None:
    """Its machine may be cut off: its sessions then keep their locks."""
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    successor = bench_of(database)
    successor.resource.bind("contract", Registry())
    assert isinstance(await successor.resource.open(), Unreachable)
    await until(successor.resource.open)
    assert isinstance(await bench.resource.prepare(branch), Refused | Unreachable)
    database.sql("UPDATE item SET value = 2")
    await successor.resource.close()


async def test_a_branch_that_another_session_works_for_is_not_begun_again(bench: Bench, database: Database) -> None:
    other = slow(database)
    begun = await bench.resource.begin(FIRST)
    other.close()
    assert isinstance(begun, Refused) and begun.cause.reason == "CONFLICT"


@pytest.mark.both
async def test_a_session_that_is_killed_in_mid_vote_leaves_an_unknown_that_is_settled(bench: Bench, database: Database) -> None:
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    blocker = database.session("BEGIN", f"INSERT INTO troth_branch VALUES ('{branch}', 0, NOW())")
    voting = asyncio.create_task(bench.resource.prepare(branch))
    ((session,),) = await until(lambda: asyncio.to_thread(database.sql, MARKING))
    database.sql(f"KILL {session}")
    assert isinstance(await voting, Refused | Unreachable)
    blocker.close()
    assert isinstance(await until(lambda: bench.resource.rollback(branch, NOTHING)), Done)
    assert (database.prepared(), await bench.visible("a")) == ([], None)


@pytest.mark.parametrize("one_phase", [False, True])
async def test_a_connection_that_is_lost_in_the_last_step_leaves_an_unknown_that_is_settled(
    bench: Bench, database: Database, one_phase: bool
) -> None:
    """The statement has reached the server, and its answer reaches nobody."""
    branch = await bench.begin()
    await bench.put(branch, "a", 1)
    working = bench.resource._branches[branch]._connection  # type: ignore[attr-defined]  # the driver is where the fault is
    ask = working.ask

    async def lose(statement: str, parameters: Any = ()) -> Any:
        answer = await ask(statement, parameters)
        if statement.startswith(("XA PREPARE", "XA COMMIT")):
            working.cut()
            raise ConnectionResetError("the answer is lost")
        return answer

    working.ask = lose
    if one_phase:
        assert isinstance(await bench.resource.commit(branch, NOTHING, one_phase=True), Unreachable)
        assert isinstance(await until(lambda: bench.resource.commit(branch, NOTHING, one_phase=True)), Done)
        assert await bench.visible("a") == 1
    else:
        assert isinstance(await bench.resource.prepare(branch), Unreachable)
        assert await bench.outcome(branch) is BranchOutcome.PREPARED
        assert isinstance(await bench.resource.rollback(branch, NOTHING), Done)
        assert await bench.visible("a") is None


# ---- locks


@pytest.mark.both
async def test_a_lock_timeout_that_the_author_catches_is_still_a_no(database: Database) -> None:
    """1205 undoes the statement alone, and XA PREPARE would succeed: half of the work would be committed."""
    from pymysql.err import OperationalError

    async def careless(db: Any) -> None:
        await execute(db, "INSERT INTO item VALUES ('mine', 1)")
        try:
            await execute(db, "UPDATE item SET value = 2 WHERE name = 'theirs'")
        except OperationalError:
            return

    database.sql("INSERT INTO item VALUES ('theirs', 1)")
    holder = database.session("BEGIN", "UPDATE item SET value = 9 WHERE name = 'theirs'")
    bench = Bench(MariadbWorkbench(database, {"careless": careless}, from_dsn()))
    await bench.open()
    branch = await bench.begin()
    refused = await bench.resource.execute(branch, operation("careless"))
    assert isinstance(refused, Refused) and refused.cause.reason == "CONFLICT" and refused.cause.retryable
    assert isinstance(await bench.resource.prepare(branch), Refused)
    holder.close()
    assert await bench.visible("mine") is None
    await bench.resource.close()


@pytest.mark.both
async def test_a_deadlock_is_a_no_and_leaves_nothing(bench: Bench, database: Database) -> None:
    database.sql("INSERT INTO item VALUES ('a', 0), ('b', 0)")
    first, second = await bench.begin(FIRST), await bench.begin(LONGER)
    await bench.put(first, "a", 1)
    await bench.put(second, "b", 1)
    crossing = [
        asyncio.create_task(bench.resource.execute(first, operation("put", name="b", value=2))),
        asyncio.create_task(bench.resource.execute(second, operation("put", name="a", value=2))),
    ]
    answers = await asyncio.gather(*crossing)
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert len(refused) == 1 and refused[0].cause.reason == "CONFLICT"
    for branch, answer in zip((first, second), answers, strict=True):
        if isinstance(answer, Refused):
            assert isinstance(await bench.resource.prepare(branch), Refused)
        else:
            await bench.resource.rollback(branch, await bench.prepare(branch))
    assert (await bench.visible("a"), await bench.visible("b")) == (0, 0)
    await bench.begin()  # and the connection is as good as new


# ---- the server


@pytest.mark.both
async def test_a_server_that_is_killed_between_the_phases_has_lost_nothing(own: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "WAIT_SECONDS", 0.3)
    bench = bench_of(own)
    await bench.open()
    branch, work = await bench.prepared()
    own.server.stop(signal.SIGKILL)
    assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Unreachable)
    away = await bench.resource.begin(LONGER)
    assert isinstance(away, Refused) and away.cause.reason == "PARTICIPANT_AWAY" and away.cause.retryable
    own.server.start()
    assert isinstance(await until(lambda: bench.resource.commit(branch, work, one_phase=False)), Done)
    assert await bench.visible("a") == 1
    assert isinstance(await bench.resource.begin(LONGER), Begun)
    await bench.resource.close()


@pytest.mark.both
async def test_a_server_that_is_demoted_keeps_the_branch_until_it_is_primary_again(own: Database) -> None:
    own.sql("CREATE USER IF NOT EXISTS app")
    own.sql("GRANT SELECT, INSERT, UPDATE, DELETE ON bench.* TO app")
    if own.dialect.listing_privilege:
        own.sql(f"GRANT {own.dialect.listing_privilege} ON *.* TO app")
    bench = Bench(MariadbWorkbench(own, ASYNC, lambda database: MariaDB(database.dsn(user="app"), limits=LIMITS)))
    await bench.open()
    branch, work = await bench.prepared()
    own.sql("SET GLOBAL read_only = 1")
    try:
        unreachable = await bench.resource.commit(branch, work, one_phase=False)
        assert isinstance(unreachable, Unreachable) and "takes no changes" in unreachable.why
        second = MariaDB(own.dsn(user="app"))
        broken = await second.open()
        await second.close()
        assert isinstance(broken, Broken) and "name the primary" in broken.why
    finally:
        own.sql("SET GLOBAL read_only = 0")
    assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Done)
    await bench.resource.close()


async def test_a_pool_whose_connections_are_all_taken_is_overloaded(database: Database) -> None:
    limits = MariadbLimits(connections_max=1)
    bench = Bench(MariadbWorkbench(database, ASYNC, lambda database: MariaDB(database.dsn(), limits=limits)))
    await bench.open()
    await bench.begin()
    with impatient(bench.resource):
        refused = await bench.resource.begin(LONGER)
    assert isinstance(refused, Refused) and refused.cause.reason == "OVERLOADED" and refused.cause.retryable
    await bench.resource.close()


@pytest.mark.both
async def test_a_database_without_the_table_or_the_privileges_says_what_to_do(database: Database) -> None:
    database.sql("DROP TABLE troth_branch")
    resource = from_dsn()(database)
    broken = await resource.open()
    assert isinstance(broken, Broken) and "troth store init --participant" in broken.why
    await resource.close()
    await mariadb_store.init(database.dsn(), "participant", (), branches=True)
    database.sql("CREATE USER poor")
    try:
        database.sql("GRANT SELECT ON bench.item TO poor")
        poor = MariaDB(database.dsn(user="poor"), limits=LIMITS)
        broken = await poor.open()
        assert isinstance(broken, Broken) and "GRANT SELECT, INSERT, UPDATE, DELETE ON troth_branch TO `poor`@`%`" in broken.why
        for grant in mariadb_store.grants("poor", database.dialect):
            database.sql(grant)
        assert isinstance(await poor.open(), Done)
        await poor.close()
    finally:
        database.sql("DROP USER poor")


async def test_tombstones_are_dropped_after_a_week(database: Database) -> None:
    for name, age in (("troth:contract::old.1", 8), ("troth:contract::new.1", 1), ("troth:other::old.1", 8)):
        statement = "INSERT INTO troth_branch VALUES (%s, 0, UTC_TIMESTAMP(6) - INTERVAL %s DAY)"
        database.sql(statement, name, age)
    bench = bench_of(database)
    await bench.open()
    left = [row[0] for row in database.sql("SELECT gid FROM troth_branch ORDER BY 1")]
    assert left == ["troth:contract::new.1", "troth:other::old.1"]
    await bench.resource.close()


async def test_a_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    resource = MariaDB(f"mysql://root@localhost/nothing?unix_socket={tmp_path}/none")
    assert isinstance(await resource.open(), Unreachable)
    assert isinstance(await resource.in_doubt(), Unreachable)
    await resource.close()


@pytest.mark.parametrize(
    "database", ["postgresql://x/y", 5, None, "mysql://h", "mysql+oracle://h/d", "mysql://h:x/d", "mysql://h/d?sslmode=on"]
)
def test_what_is_no_database_is_refused_at_once(database: Any) -> None:
    with pytest.raises(ConfigError):
        MariaDB(database)


def test_an_isolation_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError):
        MariaDB("mysql://h/d", isolation="chaos")
