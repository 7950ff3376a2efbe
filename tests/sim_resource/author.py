"""The author of the service: the tables, and operations of every kind, well-behaved and not.

An operation is a list of steps, written into its arguments, so that the shadow can take the same steps. Rows belong to owners, and
an operation that says so in its lock keys touches only rows of its owners. *Sloppy* operations change rows that their keys do not
name: the row locks must protect those. *Narrow* ones pass the row locks and meet a UNIQUE of another branch: they lead to HAZARD.
"""

from __future__ import annotations

import ast
import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import apsw

from participant_sdk import registry
from participant_sdk.lock_keys import NO_LOCKS
from troth.errors import Refuse
from troth.v1 import common_pb2
from troth.values import decode_arguments, encode_arguments

OWNERS = 4
LEDGER_ROWS = 3
BADGES = 3

TABLES = """
CREATE TABLE plain (id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, u TEXT UNIQUE{clause}, n);
CREATE TABLE pair (owner INTEGER NOT NULL, key INTEGER NOT NULL, value BLOB, PRIMARY KEY (owner, key)) WITHOUT ROWID;
CREATE TABLE word (word TEXT PRIMARY KEY NOT NULL, owner INTEGER NOT NULL,
    parent TEXT REFERENCES word (word) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE doc (id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, title TEXT);
CREATE TABLE note (id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, text TEXT,
    doc INTEGER REFERENCES doc (id) ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE tag (id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, doc INTEGER REFERENCES doc (id) ON DELETE SET NULL);
CREATE TABLE ticket (id INTEGER PRIMARY KEY AUTOINCREMENT, owner INTEGER NOT NULL, text TEXT);
CREATE TABLE history (owner INTEGER NOT NULL, at INTEGER NOT NULL, what TEXT NOT NULL, PRIMARY KEY (owner, at));
CREATE TABLE count (owner INTEGER PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE made (id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, a INTEGER, b INTEGER AS (a * 2) STORED, c AS (a + 1),
    UNIQUE (owner, b){clause});
CREATE TABLE "odd ""näme" ("the key" TEXT NOT NULL, owner INTEGER NOT NULL, "a b" REAL DEFAULT 1.5 CHECK ("a b" > -9),
    PRIMARY KEY (owner, "the key")) STRICT;
CREATE TABLE blobs (k BLOB PRIMARY KEY NOT NULL, owner INTEGER NOT NULL, v ANY) STRICT, WITHOUT ROWID;
CREATE VIEW seen AS SELECT id, owner, n FROM plain;
CREATE TRIGGER seen_changed INSTEAD OF UPDATE ON seen BEGIN UPDATE plain SET n = new.n WHERE id = new.id; END;
CREATE VIEW leaky_view AS SELECT x FROM loose;
CREATE TRIGGER leaky_view_added INSTEAD OF INSERT ON leaky_view BEGIN INSERT INTO loose VALUES (new.x, 'leaked'); END;
CREATE TABLE ledger (id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE shelf (id INTEGER PRIMARY KEY, n INTEGER);
CREATE TABLE scratch (id INTEGER PRIMARY KEY, n INTEGER);
CREATE TABLE loose (x, y);
CREATE TABLE nullable (id TEXT PRIMARY KEY, y);
CREATE TABLE folded (id TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, y);
CREATE TABLE hub (id INTEGER PRIMARY KEY);
CREATE TABLE spoke (hub INTEGER REFERENCES hub (id) ON DELETE CASCADE);
CREATE TABLE trap (id INTEGER PRIMARY KEY);
CREATE TABLE leaky (id INTEGER PRIMARY KEY);
CREATE VIRTUAL TABLE search USING fts5(t);
CREATE TRIGGER plain_changed AFTER UPDATE ON plain BEGIN
    INSERT INTO history SELECT new.owner, 1 + coalesce(max(at), 0), 'update ' || new.id FROM history WHERE owner = new.owner; END;
CREATE TRIGGER plain_removed AFTER DELETE ON plain BEGIN
    INSERT INTO history SELECT old.owner, 1 + coalesce(max(at), 0), 'delete ' || old.id FROM history WHERE owner = old.owner; END;
CREATE TRIGGER plain_added AFTER INSERT ON plain BEGIN UPDATE count SET n = n + 1 WHERE owner = new.owner; END;
CREATE TRIGGER pair_added AFTER INSERT ON pair BEGIN UPDATE count SET n = n + 1 WHERE owner = new.owner; END;
CREATE TRIGGER sprung BEFORE INSERT ON trap BEGIN SELECT RAISE(ROLLBACK, 'sprung'); END;
CREATE TRIGGER leaked AFTER INSERT ON leaky BEGIN INSERT INTO loose VALUES (new.id, 'leaked'); END;
"""
BADGE = "CREATE TABLE badge (id INTEGER PRIMARY KEY, handle TEXT UNIQUE);"
SHADOW_BADGE = "CREATE TABLE badge (id INTEGER PRIMARY KEY, handle TEXT);"
"""Narrow operations are not serialisable: the shadow, which replays branches apart from each other, must not mind."""


def rows() -> str:
    """The first rows of every table."""
    lines = []
    for owner in range(OWNERS):
        base = owner * 1000
        lines.append(f"INSERT INTO count VALUES ({owner}, 0);")
        for k in range(3):
            lines.append(f"INSERT INTO plain (id, owner, u, n) VALUES ({base + k}, {owner}, 'u{base + k}', {k});")
            lines.append(f"INSERT INTO pair VALUES ({owner}, {k}, x'0{k}');")
            parent = f"'{owner}w{k - 1}'" if k else "NULL"
            lines.append(f"INSERT INTO word VALUES ('{owner}w{k}', {owner}, {parent});")
            lines.append(f"INSERT INTO doc (id, owner, title) VALUES ({base + k}, {owner}, 'd');")
            lines.append(f"INSERT INTO note VALUES ({base + k}, {owner}, 'n', {base + k});")
            lines.append(f"INSERT INTO tag VALUES ({base + k}, {owner}, {base + k});")
    lines += [f"INSERT INTO ledger VALUES ({k}, {k});" for k in range(LEDGER_ROWS)]
    lines += [f"INSERT INTO badge VALUES ({k}, 'b{k}');" for k in range(BADGES)]
    lines += ["INSERT INTO scratch VALUES (1, 1), (2, 2), (3, 3);", "INSERT INTO hub VALUES (1); INSERT INTO spoke VALUES (1);"]
    lines += ["INSERT INTO loose VALUES (1, 1);", "INSERT INTO nullable VALUES ('a', 1);", "INSERT INTO folded VALUES ('a', 1);"]
    return "\n".join([*lines, "INSERT INTO search VALUES ('here');"])


CLAUSES = ("", " ON CONFLICT REPLACE", " ON CONFLICT IGNORE", " ON CONFLICT FAIL")
INDEXES = (
    "", "CREATE UNIQUE INDEX lower_u ON plain (lower(u)) WHERE n IS NOT NULL;",
    "CREATE INDEX made_c ON made (c); CREATE UNIQUE INDEX title_of ON doc (owner, id, title COLLATE NOCASE);",
)  # fmt: skip
VARIANTS = len(CLAUSES) * len(INDEXES)
"""Of the schema: what its constraints say of a conflict, and what is indexed."""


def schema(variant: int, badge: str = BADGE) -> str:
    """One variant of the schema, with its first rows."""
    clause, indexes = CLAUSES[variant % len(CLAUSES)], INDEXES[variant // len(CLAUSES)]
    return TABLES.replace("{clause}", clause) + badge + indexes + rows()

Step = tuple[str, str, tuple[Any, ...]]
"""What to do, the statement, its parameters. `try` hides the error; `if` is a write that locks nothing when it changes nothing."""


@dataclass(frozen=True)
class Work:
    """One operation, or one piece of local work."""

    steps: tuple[Step, ...]
    keys: tuple[str, ...]
    """What it must lock."""
    expected: str = ""
    """The reason of the refusal that must follow; empty when the shadow knows what must follow."""
    tables: frozenset[str] = frozenset()
    """Tables that it touches beyond what its keys say."""
    scratch: bool = False
    blind: bool = False
    """Whether its author names no keys at all."""
    found: tuple[str, ...] = ()
    """Those of its keys that it finds while it runs."""

    @property
    def named(self) -> Sequence[str]:
        """What its author names as keys; nothing is not the same as to say that there is none to name."""
        return [] if self.blind else tuple(key for key in self.keys if key not in self.found) or NO_LOCKS

    def operation(self) -> common_pb2.Operation:
        """As it goes over the wire."""
        text = repr((self.steps, self.expected, sorted(self.tables), self.blind, self.keys, self.found))
        return common_pb2.Operation(name="work", arguments=encode_arguments({"text": text}))


def parsed(operation: common_pb2.Operation) -> Work:
    """The work of an operation."""
    return _parsed(str(decode_arguments(operation.arguments)["text"]))


@lru_cache(512)
def _parsed(text: str) -> Work:
    steps, expected, tables, blind, keys, found = ast.literal_eval(text)
    return Work(steps, keys, expected, frozenset(tables), blind=blind, found=found)


def default_keys() -> tuple[str, ...]:
    """The keys of an operation that declares none."""
    return tuple(registry._lock_function("work", None, {})({}))


class Operations:
    """The registry of the service, with one operation, which takes its steps, and is counted."""

    def __init__(self) -> None:
        self.registry = registry.Registry(undecided_seen=True)
        self.registry.add(self._work(), name="work", locks=lambda text: _parsed(text).named)
        self.runs: Counter[bytes] = Counter()
        self.kept: Any = None

    def bind(self, operation: common_pb2.Operation) -> Callable[[Any], Any]:
        """See `OperationRegistry`."""
        bound = self.registry.bind(operation)

        def run(db: Any) -> Any:
            self.runs[operation.arguments] += 1
            return bound(db)

        return run

    def _work(self) -> Callable[..., Any]:
        def work(db: Any, *, text: str) -> Any:
            return self.take_steps(_parsed(text).steps, db)

        return work

    def take_steps(self, steps: tuple[Step, ...], db: Any) -> list[Any]:
        """What the author's function does; returns the rows that each step read."""
        found: list[Any] = []
        for kind, sql, parameters in steps:
            if kind in ("refuse", "raise"):
                raise SLIPS[sql]()
            if kind == "keep":
                self.kept = db
            elif kind == "lock":
                db.lock(sql)
            elif kind == "try":
                try:
                    db.execute(sql, parameters)
                except Exception:
                    found.append("failed")
            else:
                found.append([list(row) for row in db.execute(sql, parameters)])
        return found


class _NeverMade(Refuse):
    def __init__(self) -> None:
        pass


_CUT = "cut in two: \ud83d"
SLIPS: dict[str, Callable[[], BaseException]] = {
    "sold out": lambda: Refuse("sold_out", "nothing is left"),
    "refusal by number": lambda: Refuse(404, "not there"),  # type: ignore[arg-type]  # the author's slip
    "refusal that cannot be encoded": lambda: Refuse(_CUT, _CUT),
    "bug": lambda: ValueError("a bug of the author's"),
    "text that cannot be encoded": lambda: ValueError(_CUT),
    "refusal never made": _NeverMade,
    "StopIteration": StopIteration,
    "SystemExit": SystemExit,
    "CancelledError": asyncio.CancelledError,
}
"""What an author's function raises, meant or not."""
REFUSALS, FAILURES = tuple(SLIPS)[:3], tuple(SLIPS)[3:]
RAISED = {type(SLIPS[name]()) for name in FAILURES}
CODES = ("sold_out", "404", "cut in two: \\ud83d")
"""How the codes of refusals are told."""

READS = (
    "SELECT * FROM plain WHERE owner = ? ORDER BY id", "SELECT * FROM pair WHERE owner = ? ORDER BY key",
    "SELECT * FROM word WHERE owner = ? ORDER BY word", "SELECT count(*), max(at) FROM history WHERE owner = ?",
    "SELECT n FROM count WHERE owner = ?", "SELECT * FROM doc WHERE owner = ? ORDER BY id",
    "SELECT * FROM note WHERE owner = ? ORDER BY id", "SELECT * FROM made WHERE owner = ? ORDER BY id",
    "SELECT * FROM blobs WHERE owner = ? ORDER BY k",
)  # fmt: skip
UPSERT = "INSERT INTO plain (id, owner, u, n) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET n = excluded.n, u = excluded.u"
NAME = "INSERT INTO doc (id, owner, title) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET title = excluded.title"
ODD = """INSERT INTO "odd ""näme" VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "a b" = excluded."a b" """
CLEAR = "DELETE FROM scratch"

FORBIDDEN = (
    "COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT mine", "RELEASE troth_work", "ROLLBACK TO troth_work", "PRAGMA foreign_keys = OFF",
    "PRAGMA user_version = 7", "PRAGMA defer_foreign_keys = ON", "ATTACH ':memory:' AS other", "CREATE TABLE mine (id)",
    "DROP TABLE plain", "ALTER TABLE doc ADD COLUMN mine", "CREATE INDEX mine ON plain (n)", "CREATE TEMP TABLE mine (x)",
    "DROP TRIGGER plain_changed", "DELETE FROM troth_records", "UPDATE troth_meta SET value = '9'", "SELECT * FROM troth_records",
    "DETACH main", "REINDEX", "ANALYZE", "CREATE TRIGGER mine AFTER INSERT ON doc BEGIN SELECT 1; END",
)  # fmt: skip
UNCAPTURED = (
    "INSERT INTO loose VALUES (2, 2)", "DELETE FROM loose", "INSERT INTO nullable VALUES (NULL, 2)", "UPDATE nullable SET y = 3",
    "INSERT INTO search VALUES ('more')", "UPDATE folded SET y = 5", "INSERT INTO leaky_view VALUES (7)", "DELETE FROM hub",
    "INSERT INTO leaky VALUES (1)",
)  # fmt: skip
LOSING = (
    "INSERT OR ROLLBACK INTO count VALUES (0, 0)",
    "INSERT INTO trap VALUES (1)",
    "UPDATE OR ROLLBACK count SET n = NULL",
)


_MISBEHAVIOUR = (*["forbidden"] * 3, *["uncaptured"] * 2, "losing", "losing", "refuse", "raise", "keep", "deferred")
_KINDS = ("partition", "reading", "whole", "sloppy", "badge", "misbehaving", "blind", "looking", "finding", "drawn")
_MOODS = (
    (50, 10, 8, 12, 8, 12), (50, 10, 8, 12, 8, 12), (70, 10, 10, 5, 0, 5), (20, 0, 3, 60, 10, 7), (25, 5, 2, 10, 55, 3),
    (30, 5, 5, 15, 5, 40),
)  # fmt: skip
"""How likely each kind is, in runs of different moods."""


class Author:
    """Writes work, from the run's own chance."""

    def __init__(self, roll: random.Random, statement: Callable[[random.Random], tuple[str, tuple[Any, ...]]]) -> None:
        self.roll = roll
        self._statement = statement
        """A statement on the tables of a drawn schema."""
        self._drawn_weight = roll.choice([2, 5, 40])
        self._fresh = 100
        self._mood = roll.choice(_MOODS)

    def fresh(self) -> int:
        """A number that was not used before."""
        self._fresh += 1
        return self._fresh

    def operation(self) -> Work:
        """An operation of any kind; the run's mood says which are likely."""
        (kind,) = self.roll.choices(_KINDS, (*self._mood, 3, 3, 10, self._drawn_weight))
        work: Work = getattr(self, kind)()
        return work

    def partition(self, owner: int | None = None) -> Work:
        """Reads and writes of one or two owners' rows, or of this one's."""
        owners = self.roll.sample(range(OWNERS), self.roll.choice([1, 1, 1, 2])) if owner is None else [owner]
        steps: list[Step] = []
        for owner in owners:
            steps += [self.statement(owner) for _ in range(self.roll.randint(1, 3))]
            if self.roll.random() < 0.2:
                steps += self.swap(owner)
            if self.roll.random() < 0.4:
                steps.append(("run", self.roll.choice(READS), (owner,)))
        return Work(tuple(steps), tuple(sorted(f"part/{owner}" for owner in owners)))

    def finding(self) -> Work:
        """Work on two owners' rows, or on one's, that finds out the last one on its way: a key that depends on data."""
        *owners, last = self.roll.sample(range(OWNERS), self.roll.choice([1, 2]))
        works = [self.partition(owner) for owner in (*owners, last)]
        lock: Step = ("lock", f"part/{last}", ())
        steps = [step for work in works[:-1] for step in work.steps] + [lock, *works[-1].steps]
        return Work(tuple(steps), tuple(sorted(f"part/{owner}" for owner in (*owners, last))), found=(f"part/{last}",))

    def drawn(self) -> Work:
        """Statements of chance on tables of chance, under one key for all of them; the author may go on after an error."""
        steps = [(self.roll.choice(["run", "try"]), *self._statement(self.roll)) for _ in range(self.roll.randint(1, 3))]
        return Work(tuple(steps), ("drawn",))

    def swap(self, owner: int) -> list[Step]:
        """Two rows take, or exchange, two UNIQUE values."""
        sql, base = "UPDATE OR IGNORE plain SET u = ? WHERE id = ?", owner * 1000
        one, other = self.roll.sample([f"p{owner}", f"q{owner}"], 2)
        return [("run", sql, parameters) for parameters in ((f"t{owner}", base + 1), (one, base), (other, base + 1))]

    def blind(self) -> Work:
        """A change of rows that its author names no keys for."""
        step: Step = ("run", "INSERT OR REPLACE INTO shelf VALUES (?, ?)", (self.roll.randrange(3), self.fresh()))
        return Work((step,), default_keys(), blind=True)

    def looking(self) -> Work:
        """A reader of such rows, who names what it reads."""
        return Work((("run", "SELECT * FROM shelf ORDER BY id", ()),), ("shelf",))

    def reading(self) -> Work:
        """Reads of one owner's rows."""
        owner = self.roll.randrange(OWNERS)
        steps = [("run", sql, (owner,)) for sql in self.roll.sample(READS, 3)]
        return Work(tuple(steps), (f"part/{owner}",))

    def whole(self) -> Work:
        """Work that declares no keys: the whole resource is its."""
        roll = self.roll
        steps: list[Step] = [("run", "SELECT * FROM plain ORDER BY id", ()), ("run", "SELECT * FROM ledger ORDER BY id", ())]
        steps.append(("run", "SELECT * FROM scratch ORDER BY id", ()))
        if roll.random() < 0.5:
            steps.append(self.statement(roll.randrange(OWNERS)))
        if roll.random() < 0.5:
            steps.append(("run", CLEAR, ()))
        elif roll.random() < 0.5:
            steps.append(("run", "INSERT OR REPLACE INTO scratch VALUES (?, ?)", (roll.randrange(4), self.fresh())))
        return Work(tuple(steps), default_keys())

    def sloppy(self) -> Work:
        """Blind writes of rows that the keys do not name."""
        numbers = self.roll.sample(range(LEDGER_ROWS), self.roll.choice([1, 1, 2]))
        steps = [("run", "INSERT OR REPLACE INTO ledger VALUES (?, ?)", (number, self.fresh())) for number in numbers]
        keys = self.roll.choice([(), (f"sloppy/{self.fresh()}",)])
        return Work(tuple(steps), keys, tables=frozenset({"ledger"}))

    def badge(self) -> Work:
        """Changes of a table with a UNIQUE that the keys do not name."""
        number = self.roll.randrange(BADGES)
        keys: tuple[str, ...] = (f"badge/{number}",)
        sql = "INSERT INTO badge VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET handle = excluded.handle"
        changed = f"{sql} WHERE handle IS NOT excluded.handle RETURNING id"
        if self.roll.random() < 0.25:
            step: Step = ("run", sql, (number, f"f{self.fresh()}"))
            keys = (f"sloppy/{self.fresh()}",)
        elif self.roll.random() < 0.5:
            step = ("if", "DELETE FROM badge WHERE id = ? RETURNING id", (number,))
        else:
            step = ("if", changed, (number, f"b{self.roll.randrange(BADGES)}"))
        return Work((step,), keys, tables=frozenset({"badge"}))

    def narrow(self) -> tuple[Work, Work, Work]:
        """Who gives up a unique name, who takes it, and who wants the row of the first."""
        number, other = self.roll.sample(range(BADGES), 2)
        upsert = "INSERT INTO badge VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET handle = excluded.handle"
        tables = frozenset({"badge"})
        gives: Step = ("if", "DELETE FROM badge WHERE id = ? RETURNING id", (number,))
        takes: Step = ("if", f"{upsert} WHERE handle IS NOT excluded.handle RETURNING id", (other, f"b{number}"))
        wants: Step = ("run", upsert, (number, f"f{self.fresh()}"))
        return (
            Work((gives,), (f"badge/{number}",), tables=tables),
            Work((takes,), (f"badge/{other}",), tables=tables),
            Work((wants,), (f"sloppy/{self.fresh()}",), tables=tables),
        )

    def losing(self) -> Work:
        """Work that ends the transaction it runs in."""
        return Work(((self.roll.choice(["run", "try"]), self.roll.choice(LOSING), ()),), (), "FORBIDDEN_SQL")

    def misbehaving(self) -> Work:
        """Something that must be refused, maybe after something harmless; the author may hide the error."""
        roll = self.roll
        owner = roll.randrange(OWNERS)
        before: list[Step] = []
        if roll.random() < 0.6:
            before.append(("run", "UPDATE plain SET n = ? WHERE id = ?", (self.fresh(), owner * 1000)))
        kind = roll.choice(_MISBEHAVIOUR)
        how = roll.choice(["run", "try"])
        texts = {"forbidden": FORBIDDEN, "uncaptured": UNCAPTURED, "losing": LOSING}
        if kind in texts:
            sql = roll.choice(texts[kind])
            reason = "UNCAPTURED_TABLE" if kind == "uncaptured" else "FORBIDDEN_SQL"
            after: list[Step] = [("try", "UPDATE plain SET n = ? WHERE id = ?", (self.fresh(), owner * 1000 + 1))]
            return Work((*before, (how, sql, ()), *after), ("*",), reason)
        if kind == "deferred":
            sql = "INSERT OR REPLACE INTO note VALUES (?, ?, 'dangling', ?)"
            step: Step = ("run", sql, (owner * 1000 + 5, owner, owner * 1000 + 900))
            return Work((*before, step), (f"part/{owner}",), "CONSTRAINT")
        reason = {"refuse": "REFUSED", "raise": "OPERATION_FAILED", "keep": ""}[kind]
        slips = {"refuse": REFUSALS, "raise": FAILURES, "keep": ("",)}[kind]
        return Work((*before, (kind, roll.choice(slips), ())), (f"part/{owner}",), reason)

    def statement(self, owner: int) -> Step:
        """A change of one owner's rows."""
        roll = self.roll
        base = owner * 1000
        number, other = base + roll.randrange(4), base + roll.randrange(4)
        value = roll.choice([None, 1, 2.5, "text", "n\0l", "ÄÖ", b"\x00\xff", 2**63 - 1, self.fresh()])
        word, parent = f"{owner}w{roll.randrange(4)}", roll.choice([None, f"{owner}w{roll.randrange(3)}"])
        key, title = roll.randrange(4), roll.choice([None, "title", f"t{self.fresh()}"])
        how = roll.choice(["run", "run", "try"])
        choices: list[tuple[str, tuple[Any, ...]]] = [
            ("INSERT INTO plain (id, owner, u, n) VALUES (?, ?, ?, ?)", (number, owner, f"u{other}", value)),
            ("INSERT OR REPLACE INTO plain (id, owner, u, n) VALUES (?, ?, ?, ?)", (number, owner, f"u{other}", value)),
            ("INSERT OR IGNORE INTO plain (id, owner, u, n) VALUES (?, ?, ?, ?)", (number, owner, f"u{other}", value)),
            (UPSERT, (number, owner, f"u{number}", value)),
            ("UPDATE plain SET n = ? WHERE id = ?", (value, number)),
            ("UPDATE OR REPLACE plain SET u = ? WHERE id = ?", (f"u{other}", number)),
            ("UPDATE OR IGNORE plain SET id = ? WHERE id = ?", (other, number)),
            ("DELETE FROM plain WHERE id = ?", (number,)),
            ("DELETE FROM plain WHERE owner = ? AND id % 2", (owner,)),
            ("INSERT OR REPLACE INTO pair VALUES (?, ?, ?)", (owner, key, value)),
            ("UPDATE pair SET value = ? WHERE owner = ? RETURNING key, value", (value, owner)),
            ("DELETE FROM pair WHERE owner = ? AND key = ?", (owner, key)),
            ("INSERT OR REPLACE INTO word VALUES (?, ?, ?)", (word, owner, parent)),
            ("UPDATE OR IGNORE word SET word = ? WHERE word = ?", (f"{owner}w{roll.randrange(4)}", word)),
            ("DELETE FROM word WHERE word = ?", (word,)),
            ("DELETE FROM doc WHERE id = ?", (number,)),
            ("UPDATE OR IGNORE doc SET id = ? WHERE id = ?", (other, number)),
            (NAME, (number, owner, title)),
            ("INSERT OR REPLACE INTO made (id, owner, a) VALUES (?, ?, ?)", (number, owner, key)),
            ("UPDATE made SET a = a + 1 WHERE owner = ?", (owner,)),
            ("UPDATE OR IGNORE made SET id = ? WHERE id = ?", (other, number)),
            ("DELETE FROM made WHERE owner = ? AND b > 3", (owner,)),
            (ODD, (f"k{key}", owner, roll.choice([1, 2.5, 1e300, -10]))),
            ('INSERT OR IGNORE INTO "odd ""näme" ("the key", owner) VALUES (?, ?)', (f"k{key}", owner)),
            ('DELETE FROM "odd ""näme" WHERE owner = ? AND "the key" < ?', (owner, f"k{key}")),
            ("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?)", (f"{owner}/\0{key}".encode(), owner, value)),
            ("UPDATE blobs SET v = ? WHERE owner = ?", (value, owner)),
            ("UPDATE OR REPLACE blobs SET k = k || x'00' WHERE k = ?", (f"{owner}/\0{key}".encode(),)),
            ("UPDATE seen SET n = ? WHERE owner = ?", (value, owner)),
            ("INSERT OR REPLACE INTO note VALUES (?, ?, ?, ?)", (number, owner, title, roll.choice([None, other]))),
            ("INSERT OR REPLACE INTO tag VALUES (?, ?, ?)", (number, owner, roll.choice([None, other]))),
            ("DELETE FROM tag WHERE owner = ?", (owner,)),
            ("UPDATE note SET doc = ? WHERE owner = ?", (other, owner)),
        ]
        if roll.random() < 0.08:
            return ("ticket", "INSERT INTO ticket (owner, text) VALUES (?, ?) RETURNING id", (owner, title))
        return (how, *roll.choice(choices))


def replay_steps(steps: tuple[Step, ...], connection: apsw.Connection, told: list[Any] | None) -> list[Any]:
    """The same steps on the shadow. A ticket takes the number that it was `told` to have got."""
    found: list[Any] = []
    for kind, sql, parameters in steps:
        if kind in ("refuse", "raise"):
            raise ValueError(kind)
        if kind in ("keep", "lock"):
            continue
        if kind == "ticket" and told is not None:
            number = told[len(found)][0][0]
            connection.execute("INSERT INTO ticket (id, owner, text) VALUES (?, ?, ?)", (number, *parameters)).fetchall()
            found.append([[number]])
        elif kind == "if" and told is not None and not told[len(found)]:
            found.append([])
        elif kind == "try":
            try:
                connection.execute(sql, parameters).fetchall()
            except apsw.Error:
                found.append("failed")
        else:
            found.append([list(row) for row in connection.execute(sql, parameters)])
    return found
