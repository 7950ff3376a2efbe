"""What `shared/FACTS.md` says of MariaDB is tried on the real server, and not believed: the resource is built on it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pymysql
import pytest

from participant_sdk.testing.mariadb import MariadbServer
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.mariadb.dialect import dialect_of

XID = "X'61',X'62',7"
NOT_KNOWN, RMFAIL, OUTSIDE, TAKEN, LOCK_TIMEOUT, DEADLOCK, READ_ONLY = 1397, 1399, 1400, 1440, 1205, 1213, 1290


class Session:
    """A connection of PyMySQL: `ask` returns rows, or the number of the error."""

    def __init__(self, server: MariadbServer, *, autocommit: bool = True, user: str = "root") -> None:
        self.connection = pymysql.connect(
            unix_socket=str(server.socket), user=user, database="troth", autocommit=autocommit, ssl_disabled=True
        )

    def ask(self, *statements: str) -> Any:
        cursor = self.connection.cursor()
        for statement in statements:
            try:
                cursor.execute(statement)
            except pymysql.Error as error:
                return error.args[0]
        return list(cursor.fetchall())

    def begin(self, xid: str = XID) -> None:
        """Begin; the session of a test before this one may still be ending, and has the name until then (XAER_DUPID)."""
        until = time.monotonic() + PATIENCE_SECONDS
        while (answer := self.ask(f"XA START {xid}")) == TAKEN and time.monotonic() < until:
            time.sleep(0.01)
        assert answer == []

    def prepare(self, xid: str = XID) -> Any:
        return self.ask(f"XA END {xid}", f"XA PREPARE {xid}")

    def close(self) -> None:
        if self.connection.open:
            self.connection.close()


def ended(session: Session, *others: int) -> None:
    """Wait until the server has no session of these numbers. Whoever finishes a branch while its session is just ending is answered
    OK, and the branch is lost sight of until the next start (docs/decisions/0048): its name stays taken."""
    until = time.monotonic() + PATIENCE_SECONDS
    numbers = ", ".join(map(str, others))
    while session.ask(f"SELECT 1 FROM information_schema.processlist WHERE id IN ({numbers}) AND id <> CONNECTION_ID()"):
        assert time.monotonic() < until
        time.sleep(0.005)
    # It is out of that list a little before it has let go of what it has prepared. (What InnoDB tells of it is up to 0.1 s old.)
    time.sleep(0.12)
    while session.ask(f"SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id IN ({numbers})"):
        assert time.monotonic() < until
        time.sleep(0.12)


def finished(session: Session, verb: str = "COMMIT") -> None:
    """Finish a branch whose session has ended: the server notices that in its own time."""
    while session.ask(f"XA {verb} {XID}") == NOT_KNOWN:
        assert session.ask("XA RECOVER"), "it is not there at all"


@pytest.fixture
def sessions(breakable_mariadb: MariadbServer) -> Iterator[tuple[Session, Session]]:
    """Two sessions, and a table with a row."""
    first, second = Session(breakable_mariadb), Session(breakable_mariadb)
    first.ask("DROP TABLE IF EXISTS item", "CREATE TABLE item (name VARCHAR(20) PRIMARY KEY, value INT) ENGINE = InnoDB")
    first.ask("INSERT INTO item VALUES ('a', 1), ('m', 1)")
    numbers = first.connection.thread_id(), second.connection.thread_id()
    yield first, second
    for session in (first, second):
        session.close()
    with closing(Session(breakable_mariadb)) as last:
        ended(last, *numbers)
        if last.ask("XA RECOVER"):
            last.ask(f"XA ROLLBACK {XID}")


@pytest.mark.both
def test_a_branch_needs_autocommit_or_at_least_no_open_transaction(breakable_mariadb: MariadbServer) -> None:
    with closing(Session(breakable_mariadb, autocommit=False)) as session:
        session.ask("SELECT * FROM mysql.db FOR UPDATE")
        assert session.ask(f"XA START {XID}") == OUTSIDE


def test_a_prepared_branch_is_unknown_to_others_while_its_session_is_attached(sessions: tuple[Session, Session]) -> None:
    """XAER_NOTA does not mean that there is no such branch: XA RECOVER lists it."""
    first, second = sessions
    first.begin()
    first.ask("UPDATE item SET value = value + 1")
    assert first.prepare() == []
    assert second.ask(f"XA COMMIT {XID}") == NOT_KNOWN
    assert len(second.ask("XA RECOVER")) == 1
    number = first.connection.thread_id()
    first.close()
    ended(second, number)
    finished(second)
    assert second.ask("XA RECOVER") == []
    assert second.ask("SELECT value FROM item WHERE name = 'a'") == [(2,)]
    assert second.ask(f"XA COMMIT {XID}") == NOT_KNOWN


@pytest.mark.both
def test_a_killed_session_keeps_what_it_has_prepared(sessions: tuple[Session, Session]) -> None:
    first, second = sessions
    first.begin()
    first.ask("UPDATE item SET value = value + 1")
    first.prepare()
    number = first.connection.thread_id()
    second.ask(f"KILL {number}")
    ended(second, number)
    finished(second)
    assert second.ask("SELECT value FROM item WHERE name = 'a'") == [(2,)]


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "BEGIN", "TRUNCATE item", "CREATE TABLE t (a INT)"])
def test_what_would_end_the_branch_is_refused_by_the_server(sessions: tuple[Session, Session], statement: str) -> None:
    first, _ = sessions
    first.begin()
    first.ask("UPDATE item SET value = value + 1")
    assert first.ask(statement) == RMFAIL
    assert first.ask(f"XA END {XID}", f"XA ROLLBACK {XID}") == []


@pytest.mark.both
def test_a_statement_that_timed_out_is_undone_alone_and_the_branch_can_be_prepared(sessions: tuple[Session, Session]) -> None:
    first, second = sessions
    second.ask("BEGIN", "UPDATE item SET value = 9 WHERE name = 'm'")
    first.ask("SET innodb_lock_wait_timeout = 1")
    first.begin()
    first.ask("UPDATE item SET value = value + 1 WHERE name = 'a'")
    assert first.ask("UPDATE item SET value = value + 1 WHERE name = 'm'") == LOCK_TIMEOUT
    assert first.prepare() == [], "half of the work would be committed"


@pytest.mark.both
def test_a_deadlock_has_rolled_all_back(sessions: tuple[Session, Session]) -> None:
    first, second = sessions
    second.ask("BEGIN", "UPDATE item SET value = 9 WHERE name = 'm'")
    second.ask(*(f"INSERT INTO item VALUES ('n{number}', 1)" for number in range(5)))  # it has done more: the other is the victim
    first.begin()
    first.ask("UPDATE item SET value = 2 WHERE name = 'a'")
    second.connection._execute_command(3, "UPDATE item SET value = 9 WHERE name = 'a'")  # and waits
    assert first.ask("UPDATE item SET value = 2 WHERE name = 'm'") == DEADLOCK
    assert isinstance(first.ask(f"XA END {XID}"), int), "and the branch can only be rolled back"
    assert first.ask(f"XA ROLLBACK {XID}") == []


@pytest.mark.both
def test_a_crash_keeps_what_was_changed_and_loses_mere_locks(
    breakable_mariadb: MariadbServer, sessions: tuple[Session, Session]
) -> None:
    first, second = sessions
    first.begin()
    first.ask("UPDATE item SET value = value + 1 WHERE name = 'a'", "SELECT * FROM item WHERE name = 'm' FOR UPDATE")
    second.begin("X'63',X'62',7")
    second.ask("SELECT * FROM item WHERE name = 'zz' FOR UPDATE", "UPDATE item SET value = value WHERE name = 'zz'")
    assert (first.prepare(), second.prepare("X'63',X'62',7")) == ([], [])
    breakable_mariadb.stop(signal.SIGKILL)
    breakable_mariadb.start()
    with closing(Session(breakable_mariadb)) as session:
        session.ask("SET innodb_lock_wait_timeout = 1")
        assert len(session.ask("XA RECOVER")) == 1, "the branch that had only locks is gone"
        assert session.ask("UPDATE item SET value = 5 WHERE name = 'm'") == []
        assert session.ask("UPDATE item SET value = 5 WHERE name = 'a'") == LOCK_TIMEOUT
        assert session.ask(f"XA COMMIT {XID}") == []


def test_any_login_finishes_anybodys_branch_but_not_on_a_server_that_was_demoted(
    breakable_mariadb: MariadbServer, sessions: tuple[Session, Session]
) -> None:
    first, second = sessions
    second.ask("CREATE USER IF NOT EXISTS app", "GRANT SELECT ON troth.item TO app")
    first.begin()
    first.ask("UPDATE item SET value = value + 1")
    first.prepare()
    number = first.connection.thread_id()
    first.close()
    ended(second, number)
    with closing(Session(breakable_mariadb, user="app")) as app:
        second.ask("SET GLOBAL read_only = 1")
        try:
            while (answer := app.ask(f"XA COMMIT {XID}")) == NOT_KNOWN:
                assert app.ask("XA RECOVER")
            assert answer == READ_ONLY
        finally:
            second.ask("SET GLOBAL read_only = 0")
        finished(app)


@pytest.mark.both
def test_how_many_rows_were_written_is_told_by_the_session(sessions: tuple[Session, Session]) -> None:
    """`SET v = v` and locks are no change; a change is counted, whoever made it."""
    first, _ = sessions
    counted = (
        f"SELECT SUM(VARIABLE_VALUE) FROM {dialect_of(first.connection.get_server_info()).session_status}"
        " WHERE VARIABLE_NAME IN ('HANDLER_WRITE', 'HANDLER_UPDATE', 'HANDLER_DELETE')"
    )
    before = first.ask(counted)
    first.begin()
    first.ask("SELECT * FROM item FOR UPDATE", "UPDATE item SET value = value")
    assert first.ask(counted) == before
    first.ask("UPDATE item SET value = value + 1")
    assert first.ask(counted) != before
    first.ask(f"XA END {XID}", f"XA ROLLBACK {XID}")


@pytest.mark.both
def test_a_lock_of_a_name_tells_who_has_it_until_his_session_ends(sessions: tuple[Session, Session]) -> None:
    """So a session can be found and ended that still works for a branch."""
    first, second = sessions
    assert first.ask("SELECT GET_LOCK('troth:x', 0)") == [(1,)]
    assert second.ask("SELECT IS_USED_LOCK('troth:x')") == [(first.connection.thread_id(),)]
    second.ask(f"KILL {first.connection.thread_id()}")
    while second.ask("SELECT IS_USED_LOCK('troth:x')") != [(None,)]:
        pass
