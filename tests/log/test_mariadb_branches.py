"""How branches are called in MariaDB, whose XA ids belong to the whole server and have 64 bytes in each part; and their keys."""

from __future__ import annotations

from contextlib import suppress

import pymysql
from mariadb_samples import MariadbStore

from troth.log import mariadb_branches as branches
from troth.log import mariadb_outbox
from troth.log.mariadb_store import connect, grants, grants_to_finish, init
from troth.mariadb.dialect import MARIADB, MYSQL

TRANSACTION = "c1.7.9f2c4e1a.3.42"
LONG = f"{'c' * 63}.1.{'0' * 32}.1.1"


def test_an_id_has_the_transaction_the_participant_and_the_database() -> None:
    name = branches.branch_name("payments/2", TRANSACTION)
    xid = branches.xid_of(name, "bank")
    assert (xid.transaction, xid.branch, xid.participant) == (TRANSACTION.encode(), b"payments/2@bank", "payments/2")
    assert xid.sql == f"X'{TRANSACTION.encode().hex()}',X'{b'payments/2@bank'.hex()}',{branches.FORMAT_ID}"
    assert branches.names([xid], "payments/2", "bank") == [name]
    assert branches.branch_of(xid, "bank") == name


def test_those_of_others_are_not_listed() -> None:
    xid = branches.xid_of(branches.branch_name("pay", TRANSACTION), "bank")
    others = [branches.Xid(7, xid.transaction, xid.branch), branches.xid_of(branches.branch_name("pay/0", TRANSACTION), "bank"),
              branches.xid_of(branches.branch_name("pay", TRANSACTION), "bank2")]  # fmt: skip
    assert branches.names([*others, xid], "pay", "bank") == [branches.branch_name("pay", TRANSACTION)]
    assert others[0].participant == ""
    assert [branches.branch_of(one, "bank") for one in (others[0], others[2])] == ["", ""], "another's, of another database"


def test_what_is_too_long_is_there_as_its_digest() -> None:
    name = branches.branch_name("p" * 63, LONG)
    xid = branches.xid_of(name, "d" * 64)
    assert (len(xid.transaction), len(xid.branch)) == (52, 52)
    assert branches.names([xid], "p" * 63, "d" * 64) == [name]
    assert (xid.participant, branches.names([xid], "p" * 63, "d" * 63)) == ("", [])


def test_what_a_driver_gives_as_text_is_read_too() -> None:
    xid = branches.xid_of(branches.branch_name("pay", TRANSACTION), "bank")
    data = (xid.transaction + xid.branch).decode()
    rows = [(branches.FORMAT_ID, len(xid.transaction), len(xid.branch), body) for body in (data, data.encode())]
    assert branches.listed(rows) == [xid, xid]


def test_names_of_locks_fit_and_do_not_run_together() -> None:
    assert len(branches.lock_name("branch", "d" * 64, "g" * 199)) <= 64
    assert len({branches.branch_lock(name, database) for name in ("g", "h") for database in ("d", "e")}) == 4
    assert branches.lock_name("a", "bc") != branches.lock_name("ab", "c")


async def test_the_table_is_made_once_and_excludes(mariadb_store: MariadbStore) -> None:
    for _ in range(2):
        assert await init(mariadb_store.dsn, "participant", (), branches=True) == []
    connection = await connect(mariadb_store.dsn)
    try:
        for expected in (1, 0):
            assert (await connection.ask(branches.ENTOMB, ("g",))).changed == expected
            assert await connection.one(branches.FATE, ("g",)) == (0,)
        assert (await connection.ask(branches.MARK.format(status=connection.dialect.session_status), ("h", -1))).changed == 1
        for name in ("g", "h"):
            await connection.ask(branches.FORGET, (name,))
        assert await connection.one(branches.FATE, ("g",)) is None
    finally:
        await connection.close()


# ---- keys of messages


async def test_each_key_has_its_row_and_what_is_missing_is_made_again(mariadb_store: MariadbStore) -> None:
    """What a branch in doubt holds is not waited for."""
    await init(mariadb_store.dsn, "participant", (), branches=True)
    number = mariadb_outbox.key_number("a")
    held = f"UPDATE troth_outbox_key SET used = used + 1 WHERE number = {number}"
    mariadb_store.say("XA START 'x'", held, "XA END 'x'", "XA PREPARE 'x'")
    await init(mariadb_store.dsn, "participant", (), branches=True)
    while mariadb_store.say("XA RECOVER"):
        with suppress(pymysql.Error):  # its session is still ending
            mariadb_store.say("XA COMMIT 'x'")
    mariadb_store.say(f"DELETE FROM troth_outbox_key WHERE number < {number}")
    await init(mariadb_store.dsn, "participant", (), branches=True)
    (found,) = mariadb_store.say("SELECT COUNT(*), MAX(number), SUM(used) FROM troth_outbox_key")
    assert tuple(map(int, found)) == (mariadb_outbox.KEYS, mariadb_outbox.KEYS - 1, 1)


async def test_an_outbox_of_an_earlier_version_gets_its_index_once(mariadb_store: MariadbStore) -> None:
    await init(mariadb_store.dsn, "participant", (), branches=True)
    mariadb_store.say("ALTER TABLE troth_outbox DROP INDEX of_topic")
    for _ in range(2):
        await init(mariadb_store.dsn, "participant", (), branches=True)
        assert len(mariadb_store.say("SHOW INDEX FROM troth_outbox WHERE Key_name = 'of_topic'")) == 3, "a row for each column"


def test_keys_have_rows_evenly() -> None:
    numbers = [mariadb_outbox.key_number(f"account-{number}") for number in range(10_000)]
    assert all(0 <= number < mariadb_outbox.KEYS for number in numbers) and len(set(numbers)) > 9_200
    assert mariadb_outbox.key_number("a") == 33_042, "processes of every version mean the same row"


def test_who_only_finishes_needs_less_than_a_participant() -> None:
    assert grants_to_finish("ops", MARIADB) == ["GRANT SELECT ON troth_branch TO `ops`@`%`"]
    assert grants_to_finish("ops@here", MYSQL) == [
        "GRANT SELECT ON troth_branch TO `ops`@`here`", "GRANT XA_RECOVER_ADMIN ON *.* TO `ops`@`here`",
    ]  # fmt: skip
    assert set(grants("ops", MYSQL)) > {"GRANT XA_RECOVER_ADMIN ON *.* TO `ops`@`%`"}
