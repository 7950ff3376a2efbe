"""Undo under schemas that chance has written: whole files are compared, row by row and value by value."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
import structlog
from sqlite_harness import empty_record, finished

from participant_sdk.core.work import NO_KEYS, Execute, Executed, ExecuteRefused, Mode, Release, Undo, UndoFailed, Undone
from participant_sdk.resources.sqlite_log import SqliteLog
from participant_sdk.resources.sqlite_work import Limits
from tests.generated_schemas import Schema, dump, orphans, run_statement
from troth.ready import Append
from troth.v1 import common_pb2, record_pb2

SEEDS = int(os.environ.get("GENERATED_SCHEMAS", "400"))
CHUNKS = 4
_DIRECTORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Operations:
    """The next operation is a list of statements."""

    def __init__(self) -> None:
        self.script: list[tuple[str, list[Any]]] = []

    def bind(self, operation: common_pb2.Operation) -> Any:
        def run(db: Any) -> None:
            for sql, values in self.script:
                try:
                    run_statement(db, sql, values)
                except apsw.ConstraintError:
                    if sql.startswith("UPDATE OR FAIL"):
                        continue  # the author goes on with what was done until then
                    raise

        return run


class World:
    """One file with a generated schema, and two branches that know nothing of each other."""

    def __init__(self, seed: int, path: Path) -> None:
        self.schema = Schema(seed)
        self.schema.create(path)
        self.operations = Operations()
        self.log = SqliteLog(path, "p", self.operations, Limits())
        self.log.read("")
        self.connection = self.log._file.connection
        self.met: Counter[str] = Counter()
        self.orphaned: Counter[str] = Counter()
        """What operations have broken: SQLite lets OR REPLACE, and who removes one orphan and adds another, do so."""

    def write(self, append: Append) -> Any:
        return self.log.write([append], sync=False, drop_below=0).events[0]

    def call(self, name: str) -> record_pb2.BranchWork | None:
        """One call of a branch; what is refused leaves nothing behind."""
        roll = self.schema.roll
        many = [self.schema.statement() for _ in range(roll.randint(1, 3))]
        self.operations.script = self.schema.swap() if roll.random() < 0.15 else many
        before, broken = dump(self.connection), orphans(self.connection)
        work = Execute(name, "", (common_pb2.Operation(name="x"),), NO_KEYS, 0, Mode.ACTIVE)
        event = self.write(Append(empty_record(name, Mode.ACTIVE), name, apply=work))
        if isinstance(event, Executed):
            assert event.changed == (dump(self.connection) != before)
            self.orphaned += orphans(self.connection) - broken
            self.met["changed" if event.changed else "nothing"] += 1
            return event.work if event.changed else None
        assert isinstance(event, ExecuteRefused)
        self.met[event.cause.reason] += 1
        assert dump(self.connection) == before, f"{event.cause.reason} left something behind"
        return None

    def branch(self, name: str) -> tuple[record_pb2.BranchWork, ...]:
        """A branch of some calls."""
        works = [self.call(name) for _ in range(self.schema.roll.randint(1, 3))]
        return tuple(work for work in works if work is not None)

    def undo(self, name: str, works: tuple[record_pb2.BranchWork, ...]) -> Any:
        return self.write(Append(finished(name, common_pb2.OUTCOME_ABORTED), apply=Undo(name, works)))

    def commit(self, name: str) -> None:
        self.write(Append(finished(name, common_pb2.OUTCOME_COMMITTED), apply=Release(name)))

    def told(self) -> str:
        """The schema and the last operation, for whoever reads the failure."""
        return "\n".join([*self.schema.statements, *map(str, self.operations.script)])


@contextmanager
def world(seed: int) -> Iterator[World | None]:
    with tempfile.TemporaryDirectory(dir=_DIRECTORY) as directory:
        made = World(seed, Path(directory) / "w.db")
        try:
            with structlog.testing.capture_logs():
                yield made if made.schema.tables else None
        finally:
            made.log.close()


def check_alone(made: World) -> None:
    """A branch that is alone is undone, and every row is the old one."""
    before = dump(made.connection)
    works = made.branch("t1")
    event = made.undo("t1", works)
    assert isinstance(event, Undone), f"{event}\n{made.told()}"
    assert dump(made.connection) == before, made.told()
    assert len(made.log.locks) == 0


def check_two(made: World) -> None:
    """Of two branches that have not declared what they do, each is undone, or parked for a UNIQUE value that the other took."""
    roll = made.schema.roll
    before, broken = dump(made.connection), orphans(made.connection)
    made.orphaned.clear()
    works = {name: made.branch(name) for name in ("t1", "t2")}
    if roll.random() < 0.3:
        works["t1"] += made.branch("t1")
    committed = roll.choice(["", "t1", "t2"])
    if committed:
        made.commit(committed)
    parked = False
    for name in [name for name in roll.sample(sorted(works), 2) if name != committed]:
        here = dump(made.connection)
        event = made.undo(name, works[name])
        if isinstance(event, UndoFailed):
            parked = True
            made.met["parked"] += 1
            assert "UNIQUE" in event.why, f"{event}\n{made.told()}"
            assert dump(made.connection) == here, made.told()
    if not parked and not committed:
        assert dump(made.connection) == before, made.told()
    if not parked:
        torn = orphans(made.connection) - broken - made.orphaned
        assert not torn, f"the undo has broken {torn}\n{made.told()}"


def run(seed: int) -> Counter[str]:
    with world(seed) as made:
        if made is None:
            return Counter()
        for _ in range(3):
            check_alone(made)
        check_two(made)
        return made.met


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_row_is_the_old_one_after_an_undo(chunk: int) -> None:
    met: Counter[str] = Counter()
    for seed in range(chunk, SEEDS, CHUNKS):
        try:
            met += run(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    assert met["changed"] > sum(met.values()) / 5, met
