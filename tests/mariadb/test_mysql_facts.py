"""How MySQL differs from MariaDB in what the resource is built on, tried on the real server. What is the same in both stands in
`test_mariadb_facts.py`."""

from __future__ import annotations

from contextlib import closing

import pytest
from ma_bench import LIMITS, Database
from test_mariadb_facts import LOCK_TIMEOUT, NOT_KNOWN, XID, Session

from participant_sdk.registry import Registry
from participant_sdk.resources.contract import Broken, Done
from participant_sdk.resources.mariadb import MariaDB
from participant_sdk.testing.mariadb import MariadbServer
from tests.xa_servers import on_mysql
from troth.mariadb import errors

pytestmark = on_mysql
UPDATE = "UPDATE item SET value = value + 1"
NOWAIT, TOO_SLOW = 3572, 3024


@pytest.fixture
def server(mariadb: MariadbServer) -> MariadbServer:
    with closing(Session(mariadb)) as session:
        session.ask("DROP TABLE IF EXISTS item", "CREATE TABLE item (name VARCHAR(20) PRIMARY KEY, value INT)")
        session.ask("INSERT INTO item VALUES ('a', 1)")
    return mariadb


def prepared(session: Session) -> None:
    session.begin()
    session.ask(UPDATE)
    assert session.prepare() == []


def test_a_prepared_branch_leaves_its_session_at_once(server: MariadbServer) -> None:
    """So others finish it while that session lives, and goes on with something else."""
    with closing(Session(server)) as first, closing(Session(server)) as second:
        prepared(first)
        assert first.ask("SELECT value FROM item") == [(1,)]
        assert len(second.ask("XA RECOVER")) == 1
        assert second.ask(f"XA COMMIT {XID}") == []
        assert first.ask(f"XA COMMIT {XID}") == NOT_KNOWN
        assert first.ask("SELECT value FROM item") == [(2,)]


def test_listing_what_is_prepared_needs_a_privilege_and_finishing_it_does_not(server: MariadbServer) -> None:
    with closing(Session(server)) as root:
        root.ask("CREATE USER IF NOT EXISTS nobody", "GRANT SELECT ON troth.item TO nobody")
        prepared(root)
        with closing(Session(server, user="nobody")) as session:
            assert session.ask("XA RECOVER") == errors.LISTING_DENIED
            assert session.ask(f"XA COMMIT {XID}") == []
        root.ask("DROP USER nobody")


def test_a_server_that_was_demoted_finishes_a_branch_all_the_same(server: MariadbServer) -> None:
    """MariaDB refuses that (1290)."""
    with closing(Session(server)) as root, closing(Session(server)) as second:
        prepared(root)
        second.ask("SET GLOBAL super_read_only = 1")
        try:
            assert second.ask(UPDATE) in errors.READ_ONLY
            assert second.ask(f"XA COMMIT {XID}") == []
        finally:
            second.ask("SET GLOBAL super_read_only = 0", "SET GLOBAL read_only = 0")


def test_errors_have_numbers_of_their_own(server: MariadbServer) -> None:
    with closing(Session(server)) as first, closing(Session(server)) as second:
        first.begin()
        first.ask(UPDATE)
        second.ask("SET innodb_lock_wait_timeout = 1", "SET max_execution_time = 50")
        assert second.ask("SELECT * FROM item FOR UPDATE NOWAIT") == NOWAIT
        assert second.ask(UPDATE) == LOCK_TIMEOUT
        assert second.ask("SELECT COUNT(*) FROM information_schema.COLUMNS a, information_schema.COLUMNS b") == TOO_SLOW
        first.ask(f"XA END {XID}", f"XA ROLLBACK {XID}")
    assert NOWAIT in errors.CONFLICTS and TOO_SLOW in errors.TOO_SLOW


async def test_a_user_who_may_not_list_branches_is_refused_at_the_start(database: Database) -> None:
    database.sql("CREATE USER short_sighted@localhost")
    try:
        database.sql(f"GRANT ALL ON {database.name}.* TO short_sighted@localhost")
        bank = MariaDB(database.dsn(user="short_sighted"), limits=LIMITS)
        bank.bind("bank", Registry())
        broken = await bank.open()
        assert isinstance(broken, Broken) and "GRANT XA_RECOVER_ADMIN ON *.* TO `short_sighted`@`localhost`" in broken.why
        database.sql("GRANT XA_RECOVER_ADMIN ON *.* TO short_sighted@localhost")
        assert await bank.open() == Done()
        await bank.close()
    finally:
        database.sql("DROP USER short_sighted@localhost")


async def test_a_server_that_keeps_branches_in_their_sessions_is_refused(database: Database) -> None:
    database.sql("SET GLOBAL xa_detach_on_prepare = OFF")
    bank = MariaDB(database.dsn(), limits=LIMITS)
    bank.bind("bank", Registry())
    try:
        broken = await bank.open()
        assert isinstance(broken, Broken) and "SET GLOBAL xa_detach_on_prepare = ON" in broken.why
    finally:
        database.sql("SET GLOBAL xa_detach_on_prepare = ON")
    assert await bank.open() == Done()
    await bank.close()


@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy", "pymysql"])
async def test_a_password_is_checked_as_the_server_likes_it(database: Database, driver: str) -> None:
    """caching_sha2_password, which is the default."""
    database.sql("CREATE USER secretive@localhost IDENTIFIED BY 'p4ss'")
    try:
        database.sql(f"GRANT ALL ON {database.name}.* TO secretive@localhost")
        database.sql("GRANT XA_RECOVER_ADMIN ON *.* TO secretive@localhost")
        where = database.dsn(driver=driver, user="secretive").replace("secretive@", "secretive:p4ss@")
        bank = MariaDB(where, limits=LIMITS)
        bank.bind("bank", Registry())
        assert await bank.open() == Done()
        await bank.close()
    finally:
        database.sql("DROP USER secretive@localhost")
