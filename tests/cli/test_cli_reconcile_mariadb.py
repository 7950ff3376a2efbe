"""`troth reconcile --apply` in a real database of MariaDB, and of MySQL: what is finished, what is not, and why."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest.mock import AsyncMock

import pymysql
import pytest

from coordinator.drift import databases
from coordinator.drift.evidence import Branch, Fate
from coordinator.server import Daemon
from participant_sdk.testing.mariadb import MariadbServer
from tests.cli.owing import *  # noqa: F403 - a fixture
from tests.cli.owing import ABORTED, UNKNOWN
from tests.cli.test_cli_offline import TRANSACTION
from tests.relational import until
from tests.xa_servers import *  # noqa: F403 - fixtures, and a hook
from troth.log import mariadb_branches
from troth.mariadb import finishing

DATABASE = "drifting"


class Bank:
    """The database of `payments`, which is away."""

    def __init__(self, server: MariadbServer) -> None:
        self.server = server

    def dsn(self, user: str = "root") -> str:
        return self.server.dsn(DATABASE, user=user)

    def session(self, *statements: str, database: str = DATABASE) -> Any:
        connection = pymysql.connect(
            unix_socket=str(self.server.socket), user="root", database=database, autocommit=True, ssl_disabled=True
        )
        for statement in statements:
            connection.cursor().execute(statement)
        return connection

    def sql(self, *statements: str, database: str = DATABASE) -> list[Any]:
        """Rows of the last statement."""
        with self.session(*statements[:-1], database=database) as connection, connection.cursor() as cursor:
            cursor.execute(statements[-1])
            return list(cursor.fetchall())

    def create(self) -> None:
        self.drop()
        self.sql(f"CREATE DATABASE {DATABASE}", database="mysql")
        self.sql(mariadb_branches.CREATE)
        self.sql("CREATE TABLE stock (id VARCHAR(60) PRIMARY KEY) ENGINE = InnoDB")

    def drop(self) -> None:
        for xid in self.prepared():
            with suppress(pymysql.Error):
                self.sql(f"XA ROLLBACK {xid}", database="mysql")
        self.sql(f"DROP DATABASE IF EXISTS {DATABASE}", database="mysql")

    def prepared(self) -> list[str]:
        return [one.sql for one in mariadb_branches.listed(self.sql("XA RECOVER", database="mysql"))]

    def stock(self) -> list[str]:
        return [str(name) for (name,) in self.sql("SELECT id FROM stock ORDER BY id")]

    def working(self, transaction: str, *, marked: bool = True) -> Any:
        """The session of a branch of `payments` that has voted, which says as the SDK's that it works for it."""
        name, xid = name_of(transaction), xid_of(transaction)
        mark = [f"INSERT INTO troth_branch (gid) VALUES ('{name}')"] if marked else []
        return self.session(
            f"DO GET_LOCK('{mariadb_branches.branch_lock(name, DATABASE)}', 0)", f"XA START {xid}",
            f"INSERT INTO stock VALUES ('{transaction}')", *mark, f"XA END {xid}", f"XA PREPARE {xid}",
        )  # fmt: skip

    def prepare(self, transaction: str, *, marked: bool = True) -> None:
        self.working(transaction, marked=marked).close()


def name_of(transaction: str) -> str:
    return mariadb_branches.branch_name("payments", transaction)


def xid_of(transaction: str) -> str:
    return mariadb_branches.xid_of(name_of(transaction), DATABASE).sql


@pytest.fixture
def bank(mariadb: MariadbServer) -> Iterator[Bank]:
    bank = Bank(mariadb)
    bank.create()
    yield bank
    bank.drop()


async def done_by(troth: Any, bank: Bank, owing: Daemon, *more: str) -> dict[str, str]:
    """What was done, or why not, by transaction; of those of which something was said."""
    ran = await troth("reconcile", "--dsn", bank.dsn(), "--coordinator", owing.address, "--json", *more)
    done = {one["transaction_id"]: one["done"] for one in ran.json()["drifts"] if one["done"]}
    assert ran.err.count(": XA ") == len(done), "each was told before"
    return done


@pytest.mark.both
async def test_what_is_decided_is_finished_and_nothing_else(bank: Bank, owing: Daemon, troth: Any) -> None:
    for transaction in (TRANSACTION, ABORTED, UNKNOWN):
        bank.prepare(transaction)
    told = await troth("reconcile", "--dsn", bank.dsn(), "--coordinator", owing.address)
    assert told.code == 1 and f"with --apply: XA COMMIT {xid_of(TRANSACTION)}" in told.out
    assert await done_by(troth, bank, owing) == {} and len(bank.prepared()) == 3, "nothing is done without --apply"
    assert await done_by(troth, bank, owing, "--apply") == {
        TRANSACTION: f"corrected: XA COMMIT {xid_of(TRANSACTION)}", ABORTED: f"corrected: XA ROLLBACK {xid_of(ABORTED)}",
    }  # fmt: skip
    assert (bank.prepared(), bank.stock()) == ([xid_of(UNKNOWN)], [TRANSACTION])
    assert await done_by(troth, bank, owing, "--apply") == {}, "it is idempotent"


@pytest.mark.both
async def test_two_at_once_do_it_once_and_agree(bank: Bank, owing: Daemon) -> None:
    for transaction, commit in ((TRANSACTION, True), (ABORTED, False)):
        bank.prepare(transaction)
        branch = Branch("payments", transaction, Fate.PREPARED, gid=xid_of(transaction))
        assert await asyncio.gather(*(databases.finish(bank.dsn(), branch, commit=commit) for _ in range(4))) == [""] * 4
    assert (bank.prepared(), bank.stock()) == ([], [TRANSACTION])


@pytest.mark.both
async def test_a_branch_whose_session_is_there_is_left_to_it(bank: Bank, owing: Daemon, troth: Any) -> None:
    """MariaDB says 1397 to others, which is no proof of anything; and who reconciles ends nobody's session."""
    session = bank.working(TRANSACTION)
    done = await done_by(troth, bank, owing, "--apply")
    assert done[TRANSACTION].startswith(f"not corrected: {name_of(TRANSACTION)} is held by its session"), done
    session.ping(reconnect=False)
    assert (bank.prepared(), bank.stock()) == ([xid_of(TRANSACTION)], [])
    session.close()
    assert (await done_by(troth, bank, owing, "--apply"))[TRANSACTION].startswith("corrected: ")
    assert bank.stock() == [TRANSACTION]


@pytest.mark.both
async def test_a_server_that_was_demoted_is_not_asked(bank: Bank, owing: Daemon, troth: Any) -> None:
    bank.prepare(TRANSACTION)
    bank.sql("SET GLOBAL read_only = ON")
    try:
        done = await done_by(troth, bank, owing, "--apply")
    finally:
        bank.sql("SET GLOBAL read_only = OFF")
    assert "not corrected: the server takes no changes (read_only)" in done[TRANSACTION]
    assert bank.prepared() == [xid_of(TRANSACTION)]


@pytest.mark.both
@pytest.mark.parametrize("transaction", [TRANSACTION, ABORTED])
async def test_what_has_no_proof_is_not_touched(bank: Bank, owing: Daemon, troth: Any, transaction: str) -> None:
    bank.prepare(transaction, marked=False)
    done = await done_by(troth, bank, owing, "--apply")
    assert "has no marker in troth_branch" in done[transaction]
    assert bank.prepared() == [xid_of(transaction)]


@pytest.mark.parametrize("transaction", [TRANSACTION, ABORTED])
async def test_an_ok_of_the_server_is_not_believed(
    bank: Bank, owing: Daemon, troth: Any, transaction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of MariaDB 10.11 while the session is just ending: the answer is OK, and nothing happens."""
    bank.prepare(transaction)
    with monkeypatch.context() as patched:
        patched.setattr(finishing, "_said_done", AsyncMock(return_value=True))
        done = await done_by(troth, bank, owing, "--apply")
    assert done[transaction].startswith("not corrected: ") and "until the server is started again" in done[transaction]
    assert (await done_by(troth, bank, owing, "--apply"))[transaction].startswith("corrected: ")


@pytest.mark.both
@pytest.mark.parametrize(("commit", "verb", "told"), [(True, "ROLLBACK", "rolled back already"), (False, "COMMIT", "committed al")])
async def test_what_people_have_ended_otherwise_meanwhile_is_told(bank: Bank, commit: bool, verb: str, told: str) -> None:
    bank.prepare(TRANSACTION)
    branch = Branch("payments", TRANSACTION, Fate.PREPARED, gid=xid_of(TRANSACTION))

    async def by_hand() -> bool:  # who has to wait for the session to end, as everybody
        with suppress(pymysql.Error):
            bank.sql(f"XA {verb} {xid_of(TRANSACTION)}")
        return not bank.prepared()

    await until(by_hand)
    assert told in await databases.finish(bank.dsn(), branch, commit=commit)
    assert await databases.finish(bank.dsn(), branch, commit=not commit) == ""


async def test_a_branch_of_which_the_server_has_lost_sight_is_no_success(bank: Bank) -> None:
    """A marker that is not committed, of what is not listed: as of a branch that was swallowed before."""
    name, branch = name_of(TRANSACTION), Branch("payments", TRANSACTION, Fate.PREPARED, gid=xid_of(TRANSACTION))
    with bank.session("BEGIN", f"INSERT INTO troth_branch (gid) VALUES ('{name}')"):
        for commit in (True, False):
            assert "comes back when the server is started again" in await databases.finish(bank.dsn(), branch, commit=commit)


@pytest.mark.both
async def test_who_is_killed_in_between_has_done_it_or_leaves_it_to_the_next(bank: Bank, owing: Daemon, troth: Any) -> None:
    """Killed while the server carries the statement out: a global lock holds it up there."""
    bank.prepare(TRANSACTION)
    command = (sys.executable, "-m", "coordinator.cli", "reconcile", "--dsn", bank.dsn(), "--coordinator", owing.address, "--apply")
    with bank.session("FLUSH TABLES WITH READ LOCK"):
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        asking = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'XA COMMIT%'"
        await until(lambda: asyncio.to_thread(lambda: process.returncode is not None or bank.sql(asking)))
        process.kill()
        said, told = await process.communicate()
        assert f"payments {TRANSACTION}: XA COMMIT {xid_of(TRANSACTION)}" in told.decode() and not said, "it was told before"
        assert bank.stock() == []

    async def over() -> bool:
        await done_by(troth, bank, owing, "--apply")
        return not bank.prepared()

    await until(over)
    assert bank.stock() == [TRANSACTION]
    assert await done_by(troth, bank, owing, "--apply") == {}


@pytest.mark.both
async def test_who_may_not_look_is_told_what_is_needed_and_that_suffices(bank: Bank, owing: Daemon, troth: Any) -> None:
    """Somebody of this name may see the other table alone. What is told is done, statement by statement; then it is enough."""
    bank.sql("DROP USER IF EXISTS nosy", "CREATE USER nosy")
    bank.sql(f"GRANT SELECT ON {DATABASE}.stock TO nosy")
    bank.prepare(TRANSACTION)
    command = ("reconcile", "--dsn", bank.dsn("nosy"), "--coordinator", owing.address, "--apply", "--json")
    ran = await troth(*command)
    error = ran.json()["error"]
    assert (ran.code, error["reason"]) == (3, "STORE_UNSAFE") and "the user nosy@% may not see" in error["message"], error
    assert "GRANT SELECT ON troth_branch TO `nosy`@`%`" in error["hint"] and "INSERT" not in error["hint"]
    assert bank.prepared() == [xid_of(TRANSACTION)]
    bank.sql(*error["hint"].split("; "))
    assert [one["done"] for one in (await troth(*command)).json()["drifts"] if one["transaction_id"] == TRANSACTION] == [
        f"corrected: XA COMMIT {xid_of(TRANSACTION)}"
    ]
    assert bank.stock() == [TRANSACTION]
    bank.sql("DROP USER nosy")


async def test_a_database_without_a_table_of_proofs_is_compared_all_the_same(bank: Bank, owing: Daemon, troth: Any) -> None:
    bank.prepare(TRANSACTION, marked=False)
    bank.sql("DROP TABLE troth_branch")
    ran = await troth("reconcile", "--dsn", bank.dsn(), "--coordinator", owing.address)
    assert ran.code == 1 and f"decided, not applied: payments {TRANSACTION}" in ran.out
    assert "troth_branch" in (await done_by(troth, bank, owing, "--apply"))[TRANSACTION]
    assert bank.prepared() == [xid_of(TRANSACTION)]
