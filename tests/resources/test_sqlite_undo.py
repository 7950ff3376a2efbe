"""Undo restores exactly what was there, or does nothing and says so."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_harness import Bank, add, empty_record, finished, plain

from participant_sdk.core.work import NO_KEYS, Execute, Executed, ExecuteRefused, Mode, Release, Undo, UndoFailed, Undone
from participant_sdk.resources.sqlite_log import SqliteLog
from participant_sdk.resources.sqlite_work import Limits
from troth.errors import Reason
from troth.ready import Append
from troth.v1 import common_pb2, record_pb2


async def undone(bank: Bank, transaction_id: str, *works: record_pb2.BranchWork) -> Any:
    written = await bank.write(bank.undo(transaction_id, *works))
    return written.events[0]


async def test_abort_restores_the_rows_and_frees_them(bank: Bank) -> None:
    work = (await bank.did("t1", add("a", 5), "DELETE FROM accounts WHERE id = 'b'", "INSERT INTO accounts VALUES ('d', 1)")).work
    assert len(work.rows) == 3
    assert isinstance(await undone(bank, "t1", work), Undone)
    assert await bank.balances() == {"a": 100, "b": 100, "c": 100}
    assert (await bank.did("t2", add("a", 1), add("b", 1))).changed


async def test_the_work_of_several_calls_is_undone_newest_first(bank: Bank) -> None:
    works = [
        (await bank.did("t1", sql, mode=Mode.ACTIVE)).work
        for sql in (add("a", 1), add("a", 2), "DELETE FROM accounts WHERE id = 'a'")
    ]
    assert isinstance(await undone(bank, "t1", *works), Undone)
    assert (await bank.balances())["a"] == 100


async def test_an_undo_of_nothing_succeeds(bank: Bank) -> None:
    assert isinstance(await undone(bank, "never-seen"), Undone)


TRIGGERS = """
CREATE TABLE item (id INTEGER PRIMARY KEY, price INTEGER NOT NULL);
CREATE TABLE history (id INTEGER PRIMARY KEY, what TEXT NOT NULL);
CREATE TRIGGER changed AFTER UPDATE ON item BEGIN INSERT INTO history (what) VALUES ('update'); END;
CREATE TRIGGER removed AFTER DELETE ON item BEGIN INSERT INTO history (what) VALUES ('delete'); END;
INSERT INTO item VALUES (1, 10), (2, 20);
"""


async def test_what_triggers_changed_is_undone_and_they_do_not_fire_again(tmp_path: Path) -> None:
    async with Bank(tmp_path / "bank.db", TRIGGERS) as bank:
        work = (await bank.did("t1", "UPDATE item SET price = 11 WHERE id = 1", "DELETE FROM item WHERE id = 2")).work
        assert await bank.rows("SELECT what FROM history") == [("update",), ("delete",)]
        assert isinstance(await undone(bank, "t1", work), Undone)
        assert await bank.rows("SELECT * FROM history") == []
        assert await bank.rows("SELECT * FROM item") == [(1, 10), (2, 20)]
        await bank.did("t2", "UPDATE item SET price = 12 WHERE id = 1")
        assert await bank.rows("SELECT what FROM history") == [("update",)], "triggers are on again"


FAMILY = """
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE friend (id INTEGER PRIMARY KEY, parent REFERENCES parent ON DELETE SET NULL);
INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (10, 1), (11, 2); INSERT INTO friend VALUES (20, 1);
"""


@pytest.mark.parametrize("sql", ["DELETE FROM parent WHERE id = 1", "UPDATE parent SET id = 3 WHERE id = 2", "DELETE FROM parent"])
async def test_what_foreign_keys_changed_is_undone(tmp_path: Path, sql: str) -> None:
    everything = "SELECT 'p', id, NULL FROM parent UNION ALL SELECT 'c', * FROM child UNION ALL SELECT 'f', * FROM friend"
    async with Bank(tmp_path / "bank.db", FAMILY) as bank:
        before = await bank.rows(everything)
        work = (await bank.did("t1", sql)).work
        assert isinstance(await undone(bank, "t1", work), Undone)
        assert await bank.rows(everything) == before
        cause = await bank.refused("t2", "INSERT INTO child VALUES (12, 9)")
        assert cause.reason == "CONSTRAINT", "foreign keys are enforced again"


async def test_an_undo_that_does_not_apply_parks_its_branch_alone(bank: Bank) -> None:
    first = (await bank.did("t1", add("a", 5))).work
    second = (await bank.did("t2", add("b", 5))).work
    connection = bank.resource._log._file.connection  # type: ignore[union-attr]  # it is open
    connection.execute("UPDATE accounts SET balance = 77 WHERE id = 'a'")
    written = await bank.write(bank.undo("t1", first), bank.undo("t2", second), plain())
    assert isinstance(written.events[0], UndoFailed)
    assert "accounts" in written.events[0].why
    assert "77" not in written.events[0].why
    assert isinstance(written.events[1], Undone)
    assert [bool(seq) for seq in written.seqs] == [False, True, True]
    assert await bank.balances() == {"a": 77, "b": 100, "c": 100}
    assert (await bank.refused("t3", add("a", 1))).reason == "CONFLICT", "a parked branch keeps its locks"


async def test_half_an_undo_is_taken_back(bank: Bank) -> None:
    works = [(await bank.did("t1", sql, mode=Mode.ACTIVE)).work for sql in (add("a", 5), add("b", 5))]
    connection = bank.resource._log._file.connection  # type: ignore[union-attr]  # it is open
    connection.execute("UPDATE accounts SET balance = 77 WHERE id = 'a'")
    assert isinstance(await undone(bank, "t1", *works), UndoFailed)
    assert await bank.balances() == {"a": 77, "b": 105, "c": 100}


async def test_a_deleted_unique_value_that_another_branch_took_parks_the_branch(tmp_path: Path) -> None:
    schema = "CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT UNIQUE); INSERT INTO u VALUES (1, 'x');"
    async with Bank(tmp_path / "bank.db", schema) as bank:
        work = (await bank.did("t1", "DELETE FROM u WHERE id = 1")).work
        await bank.did("t2", "INSERT INTO u VALUES (2, 'x')")
        event = await undone(bank, "t1", work)
        assert isinstance(event, UndoFailed)
        assert "UNIQUE" in event.why
        assert await bank.rows("SELECT * FROM u") == [(2, "x")]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE accounts RENAME TO konten",
        "ALTER TABLE accounts RENAME COLUMN id TO name",
        "ALTER TABLE accounts ADD COLUMN more",
        "DROP TABLE accounts",
    ],
)
async def test_an_undo_is_not_applied_to_another_schema(tmp_path: Path, change: str) -> None:
    path = tmp_path / "bank.db"
    async with Bank(path) as bank:
        work = (await bank.did("t1", add("a", 5))).work
    with sqlite3.connect(path) as behind:
        behind.execute(change)
    behind.close()
    async with Bank(path) as bank:
        event = await undone(bank, "t1", work)
        assert isinstance(event, UndoFailed)
        assert "schema" in event.why


async def test_another_table_may_change_before_an_undo(bank: Bank) -> None:
    work = (await bank.did("t1", add("a", 5))).work
    await bank.write(bank.local("CREATE TABLE more (id INTEGER PRIMARY KEY)", schema=True))
    assert isinstance(await undone(bank, "t1", work), Undone)


async def test_after_a_change_of_the_schema_its_fingerprints_are_new_ones(tmp_path: Path) -> None:
    """One that was kept would make the next life refuse the undo, or apply it to a schema of before."""
    path = tmp_path / "bank.db"
    async with Bank(path) as bank:
        await bank.did("t0", add("a", 5), mode=Mode.ONE_PHASE)
        await bank.write(bank.local("ALTER TABLE accounts ADD COLUMN note", schema=True))
        work = (await bank.did("t1", add("a", 1))).work
    async with Bank(path) as bank:
        assert isinstance(await undone(bank, "t1", work), Undone)


async def test_an_undo_of_a_newer_format_is_refused(bank: Bank) -> None:
    work = record_pb2.BranchWork(undo=[b"\x03" + bytes(40)])
    assert isinstance(await undone(bank, "t1", work), UndoFailed)


async def test_a_long_key_is_locked_by_its_hash(bank: Bank) -> None:
    long = "x" * 10_000
    work = (await bank.did("t1", f"INSERT INTO accounts VALUES ('{long}', 1)")).work
    assert len(work.rows[0]) < 100
    assert (await bank.refused("t2", f"UPDATE accounts SET balance = 2 WHERE id = '{long}'")).reason == "CONFLICT"


# ---- properties

RICH = """
CREATE TABLE plain (id INTEGER PRIMARY KEY, owner INTEGER, u TEXT UNIQUE, n, c AS (length(n)), s AS (typeof(n)) STORED);
CREATE TABLE pair (owner INTEGER, key, value NUMERIC, PRIMARY KEY (key, owner)) WITHOUT ROWID;
CREATE TABLE word (word TEXT PRIMARY KEY NOT NULL, owner INTEGER, parent TEXT REFERENCES word ON DELETE CASCADE
                   ON UPDATE SET NULL, loud TEXT COLLATE NOCASE);
CREATE TABLE log (id INTEGER PRIMARY KEY, owner INTEGER, what TEXT);
CREATE TRIGGER plain_in AFTER INSERT ON plain BEGIN
  INSERT INTO log (id, owner, what) VALUES (new.id * 7919 % 99991 + new.owner * 100000, new.owner, new.u); END;
CREATE TRIGGER pair_up BEFORE UPDATE ON pair BEGIN UPDATE log SET what = what || '!' WHERE owner = old.owner; END;
CREATE TRIGGER word_out AFTER DELETE ON word BEGIN DELETE FROM log WHERE owner = old.owner AND id % 3 = 0; END;
"""
UPSERT = "INSERT INTO plain (id, owner, u) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = coalesce(n, 0) + 1"
COLUMNS = {"plain": "id owner u n c s", "pair": "owner key value", "word": "word owner parent loud", "log": "id owner what"}
DUMP = {
    table: f"SELECT {', '.join(f'typeof({name}), {name}' for name in names.split())} FROM {table}"
    for table, names in COLUMNS.items()
}
OWNERS = 4


def statement(owner: int, roll: random.Random) -> tuple[str, tuple[Any, ...]]:
    """A random change of the rows of one owner, through every way of changing rows that SQLite has."""
    number = owner * 1000 + roll.randrange(6)
    other = owner * 1000 + roll.randrange(6)
    value = roll.choice([None, 0, 1.5, -(2**62), "text", "é\0x", b"\x00\xff", "", 1e300])
    word, parent = f"w{number}", roll.choice([None, f"w{other}"])
    return roll.choice(
        [
            ("INSERT INTO plain (id, owner, u, n) VALUES (?, ?, ?, ?)", (number, owner, f"u{other}", value)),
            ("INSERT OR REPLACE INTO plain (id, owner, u, n) VALUES (?, ?, ?, ?)", (number, owner, f"u{other}", value)),
            ("INSERT OR IGNORE INTO plain (id, owner, u, n) VALUES (?, ?, ?, ?)", (number, owner, f"u{other}", value)),
            (UPSERT, (number, owner, f"u{other}")),
            ("UPDATE OR REPLACE plain SET u = ? WHERE owner = ? AND id <> ?", (f"u{other}", owner, number)),
            ("UPDATE plain SET n = ? WHERE id = ?", (value, number)),
            ("UPDATE OR IGNORE plain SET id = ? WHERE id = ?", (other, number)),
            ("UPDATE plain SET id = id + 3 WHERE owner = ? AND id % 1000 < 3", (owner,)),
            ("DELETE FROM plain WHERE id = ?", (number,)),
            ("DELETE FROM plain WHERE owner = ?", (owner,)),
            ("INSERT OR REPLACE INTO pair VALUES (?, ?, ?)", (owner, number, value)),
            ("UPDATE pair SET value = ? WHERE owner = ? RETURNING *", (value, owner)),
            ("UPDATE OR REPLACE pair SET key = ? WHERE owner = ? AND key = ?", (other, owner, number)),
            ("DELETE FROM pair WHERE owner = ?", (owner,)),
            ("INSERT INTO word VALUES (?, ?, ?, ?)", (word, owner, parent, "Loud")),
            ("REPLACE INTO word VALUES (?, ?, ?, ?)", (word, owner, parent, "LOUD")),
            ("UPDATE word SET loud = lower(loud), parent = ? WHERE word = ?", (parent, word)),
            ("UPDATE OR IGNORE word SET word = ? WHERE word = ?", (f"w{other}", word)),
            ("DELETE FROM word WHERE word = ?", (word,)),
        ]
    )


class Scripts:
    """Operations whose name is the owner and the seed of a random script."""

    def bind(self, operation: common_pb2.Operation) -> Any:
        owner, seed, length = map(int, operation.name.split(":"))

        def run(db: Any) -> None:
            roll = random.Random(seed)
            for _ in range(length):
                db.execute(*statement(owner, roll))

        return run


class World:
    """A log with some rows of every owner, and branches of owners that are in flight."""

    def __init__(self, path: Path) -> None:
        self.log = SqliteLog(path, "p", Scripts(), Limits())
        self.log.read(RICH)
        self.works: dict[int, list[record_pb2.BranchWork]] = {}

    def write(self, append: Append) -> Any:
        return self.log.write([append], sync=False, drop_below=0).events[0]

    def call(self, owner: int, seed: int, length: int, mode: Mode = Mode.ACTIVE) -> Any:
        name = f"t{owner}"
        operation = common_pb2.Operation(name=f"{owner}:{seed}:{length}")
        return self.write(Append(empty_record(name, mode), name, apply=Execute(name, "", (operation,), NO_KEYS, 0, mode)))

    def fill(self, seed: int) -> None:
        for owner in range(OWNERS):
            for attempt in range(12):
                self.call(owner, seed + attempt, 1, Mode.ONE_PHASE)

    def dump(self, owner: int) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of one owner, with their types, in the order of their keys."""
        execute = self.log._file.connection.execute
        return {table: execute(f"{DUMP[table]} WHERE owner = ? ORDER BY 2, 4, 6", (owner,)).fetchall() for table in DUMP}

    def undo(self, owner: int) -> Any:
        works = tuple(self.works.pop(owner))
        return self.write(Append(finished(f"t{owner}", common_pb2.OUTCOME_ABORTED), apply=Undo(f"t{owner}", works)))

    def commit(self, owner: int) -> None:
        del self.works[owner]
        self.write(Append(finished(f"t{owner}", common_pb2.OUTCOME_COMMITTED), apply=Release(f"t{owner}")))


STEP = st.tuples(
    st.integers(0, OWNERS - 1),
    st.sampled_from(["call", "call", "call", "undo", "commit"]),
    st.integers(0, 10**6),
    st.integers(1, 5),
)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.lists(STEP, min_size=1, max_size=24))
def test_undo_restores_exactly_in_any_interleaving_of_disjoint_branches(seed: int, steps: list[tuple[int, str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory) / "w.db")
        try:
            world.fill(seed)
            expected = {owner: world.dump(owner) for owner in range(OWNERS)}
            for owner, what, number, length in [*steps, *((owner, "undo", 0, 0) for owner in range(OWNERS))]:
                take_step(world, expected, owner, what, number, length)
            assert len(world.log.locks) == 0
        finally:
            world.log.close()


def take_step(world: World, expected: dict[int, Any], owner: int, what: str, number: int, length: int) -> None:
    if what == "call":
        before = world.dump(owner)
        event = world.call(owner, number, length)
        if isinstance(event, ExecuteRefused):
            assert event.cause.reason == Reason.CONSTRAINT.name, event.cause
            assert world.dump(owner) == before
        else:
            assert isinstance(event, Executed)
            assert event.changed == (world.dump(owner) != before)
            world.works.setdefault(owner, []).append(event.work)
    elif owner in world.works and what == "undo":
        assert isinstance(world.undo(owner), Undone)
        assert world.dump(owner) == expected[owner]
    elif owner in world.works:
        world.commit(owner)
        expected[owner] = world.dump(owner)
    for stranger in set(range(OWNERS)) - set(world.works):
        assert world.dump(stranger) == expected[stranger]


def test_the_property_does_change_things() -> None:
    """The random scripts would prove nothing if most of them were refused or changed nothing."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory) / "w.db")
        try:
            world.fill(1)
            events = [world.call(0, seed, 3, Mode.ONE_PHASE) for seed in range(200)]
            assert sum(isinstance(event, Executed) and event.changed for event in events) > 60
        finally:
            world.log.close()
