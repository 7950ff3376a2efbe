"""Invariants: what is wrong in committed data is found, told, and told to be mended; what a check does wrong harms nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paper_coordinator import PaperCoordinator, Stream, operation, transaction

from participant_sdk import LogResource, Participant, Read, SqliteResource, watch
from participant_sdk.client import call
from participant_sdk.invariants import DETAIL_CHARACTERS_MAX, INVARIANTS_MAX, Standing
from participant_sdk.testing.cluster import Cluster
from tests.checked import Sums, found, found_that
from troth import forks
from troth.errors import ConfigError
from troth.logs import heard_by
from troth.v1 import participant_pb2 as pb

SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID"
SOON = 0.02
"""Between two checks."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", SOON)


def make_bank(directory: Path, declare: Callable[[Participant], None], address: str = "127.0.0.1:1") -> Participant:
    resource = SqliteResource(directory / "bank.db", schema=SCHEMA)
    bank = Participant("bank", resource=resource, data_directory=directory, coordinator=address)

    @bank.operation(locks=lambda account: [f"account/{account}"])
    def pay(db: Any, *, account: str, amount: int) -> None:
        db.execute("INSERT INTO account VALUES (?1, ?2) ON CONFLICT DO UPDATE SET balance = balance + ?2", (account, amount))

    declare(bank)
    return bank


def never_negative(bank: Participant) -> None:
    """What most of these tests look at."""

    @bank.invariant(every_seconds=SOON)
    def never_negative(db: Any) -> str | None:
        row = db.one("SELECT name, balance FROM account WHERE balance < 0")
        return f"{row[0]} has {row[1]}" if row else None


async def told(stream: Stream, state: int) -> pb.InvariantReport:
    """Wait until the coordinator is told that an invariant is so."""
    while True:
        report: pb.InvariantReport = await stream.heard("invariants")
        if report.state == state:
            return report


async def test_a_violation_is_told_and_logged_and_so_is_that_it_is_mended(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    said: list[str] = []
    with heard_by(lambda level, event, fields: said.append(event)):
        async with make_bank(tmp_path, never_negative, coordinator.address) as bank:
            stream = await coordinator.welcomed()
            assert (await told(stream, pb.INVARIANT_STATE_HOLDS)).name == "never_negative"
            await bank.local(lambda db: db.execute("INSERT INTO account VALUES ('alice', -5)"))
            report = await told(stream, pb.INVARIANT_STATE_VIOLATED)
            assert report.detail == "alice has -5" and report.since_ms == bank.findings["never_negative"].since_ms
            stream.end()
            again = await told(await coordinator.welcomed(), pb.INVARIANT_STATE_VIOLATED)
            assert again == report, "whoever comes later is told of it, and since when"
            await bank.local(lambda db: db.execute("UPDATE account SET balance = 0"))
            await found(bank, "never_negative", Standing.HOLDS)
    assert [event for event in said if event.startswith("invariant")] == ["invariant violated", "invariant holds again"]


async def test_what_is_not_decided_is_not_seen(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    async with make_bank(tmp_path, never_negative, coordinator.address) as bank:
        stream = await coordinator.welcomed()
        await found(bank, "never_negative", Standing.HOLDS)
        prepare = pb.Prepare(
            transaction_id=transaction(1), operations=[operation("pay", account="alice", amount=-5)], order=1, timeout_ms=5000,
            incarnation=stream.hello.incarnation,
        )  # fmt: skip
        stream.say(prepares=[prepare])
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES
        checked = bank.ages["never_negative"]
        await asyncio.sleep(10 * SOON)
        assert bank.findings["never_negative"].standing is Standing.HOLDS
        assert bank.ages["never_negative"] > checked, "it waits for the outcome"
        stream.say(decisions=[pb.Decision(transaction_id=transaction(1), order=1, kind=pb.DECISION_KIND_COMMIT, acknowledge=True)])
        assert await found(bank, "never_negative", Standing.VIOLATED) == "alice has -5"


# ---- what a check does wrong


def badly(bank: Participant) -> None:
    """Functions that no participant should be given; and a sound one."""
    never_negative(bank)
    release = threading.Event()
    RELEASED.append(release)

    @bank.invariant(every_seconds=SOON)
    def raises(db: Any) -> str:
        return str(1 / 0)

    @bank.invariant(every_seconds=SOON)
    def exits(db: Any) -> None:
        raise SystemExit(3)

    @bank.invariant(every_seconds=SOON)
    def writes(db: Any) -> None:
        db.execute("UPDATE account SET balance = -100")

    @bank.invariant(every_seconds=SOON)
    def counts(db: Any) -> Any:
        return 0

    @bank.invariant(every_seconds=SOON, seconds_max=SOON)
    def hangs(db: Any) -> None:
        BEGUN.append("hangs")
        release.wait()
        db.one("SELECT 1")  # too late: nobody serves it any more

    @bank.invariant(every_seconds=SOON, seconds_max=SOON)
    def hangs_alone() -> None:
        BEGUN.append("hangs_alone")
        release.wait()

    @bank.invariant(every_seconds=SOON, seconds_max=SOON)
    async def waits() -> None:
        await asyncio.Event().wait()

    @bank.invariant(every_seconds=SOON)
    async def is_cancelled() -> None:
        raise asyncio.CancelledError


RELEASED: list[threading.Event] = []
BEGUN: list[str] = []
EXPECTED = {
    "raises": "it raised ZeroDivisionError", "exits": "it raised RuntimeError", "writes": "it may only read",
    "counts": "it returned a int", "hangs": "has not returned", "hangs_alone": "has not returned",
    "waits": "it did not return within 0.02 seconds", "is_cancelled": "it raised RuntimeError",
}  # fmt: skip


async def test_a_function_that_raises_or_hangs_harms_nothing(tmp_path: Path) -> None:
    BEGUN.clear()
    async with Cluster(lambda: make_bank(tmp_path, badly)) as cluster:
        bank = cluster["bank"]
        for name, words in EXPECTED.items():
            await found_that(bank, name, words)
        assert sorted(BEGUN) == ["hangs", "hangs_alone"], "what has not returned is not begun again"
        await cluster.run(call("bank", "pay", account="alice", amount=-5))
        assert await found(bank, "never_negative", Standing.VIOLATED) == "alice has -5"
        await cluster.run(call("bank", "pay", account="alice", amount=5))
        await found(bank, "never_negative", Standing.HOLDS)
        RELEASED[-1].set()
        await found(bank, "hangs_alone", Standing.HOLDS)


async def test_a_statement_that_takes_too_long_is_broken_off(tmp_path: Path) -> None:
    def declare(bank: Participant) -> None:
        @bank.invariant(every_seconds=SOON)
        def endless(db: Any) -> None:
            db.one("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")

    def make() -> Participant:
        resource = SqliteResource(tmp_path / "bank.db", schema=SCHEMA, operation_seconds_max=0.05)
        bank = Participant("bank", resource=resource, data_directory=tmp_path, coordinator="127.0.0.1:1")
        declare(bank)
        return bank

    async with Cluster(make) as cluster:
        assert "longer than 0.05 seconds" in await found(cluster["bank"], "endless", Standing.UNCHECKED)
        await cluster["bank"].local(lambda db: db.execute("INSERT INTO account VALUES ('alice', 1)"))


async def test_what_was_violated_and_cannot_be_checked_any_more_says_both(tmp_path: Path) -> None:
    fails: list[int] = []

    def declare(bank: Participant) -> None:
        @bank.invariant(every_seconds=SOON)
        def sound() -> bool:
            """Nothing fails."""
            if fails:
                raise OSError
            return False

    async with Cluster(lambda: make_bank(tmp_path, declare)) as cluster:
        assert await found(cluster["bank"], "sound", Standing.VIOLATED) == "Nothing fails.", "its own first line, for want of words"
        fails.append(1)
        detail = await found(cluster["bank"], "sound", Standing.UNCHECKED)
        assert detail == "it raised OSError; when it was checked last it was violated: Nothing fails."


async def test_words_are_bounded(tmp_path: Path) -> None:
    def declare(bank: Participant) -> None:
        bank.invariant(every_seconds=SOON, name="long")(lambda: "\ud800" + "x" * 10_000)

    async with Cluster(lambda: make_bank(tmp_path, declare)) as cluster:
        detail = await found(cluster["bank"], "long", Standing.VIOLATED)
        assert len(detail) == DETAIL_CHARACTERS_MAX and detail.startswith("\\ud800x")


def test_what_cannot_be_an_invariant_is_refused_when_it_is_declared(tmp_path: Path) -> None:
    bank = make_bank(tmp_path, never_negative)
    logged = Participant("log", resource=LogResource(), data_directory=tmp_path, coordinator="127.0.0.1:1")

    def db_and_more(db: Any, more: Any) -> None: ...
    def keyword(*, db: Any) -> None: ...
    async def waits(db: Any) -> None: ...
    def plain(db: Any) -> None: ...

    wrong: list[tuple[str, Callable[[], object]]] = [
        ("takes more than", lambda: bank.invariant()(db_and_more)),
        ("takes more than", lambda: bank.invariant()(keyword)),
        ("cannot be async def", lambda: bank.invariant()(waits)),
        ("is no function", lambda: bank.invariant()(print)),
        ("is declared twice", lambda: bank.invariant(name="never_negative")(plain)),
        ("is not a invariant name", lambda: bank.invariant(name="No")(plain)),
        ("every_seconds is 0", lambda: bank.invariant(every_seconds=0)(plain)),
        ("seconds_max is True", lambda: bank.invariant(seconds_max=True)(plain)),
        ("locks is a str", lambda: bank.invariant(locks="stock")(plain)),
        ("LogResource has nothing to give", lambda: logged.invariant()(plain)),
    ]
    for expected, declare in wrong:
        with pytest.raises(ConfigError, match=expected):
            declare()
    for number in range(INVARIANTS_MAX - 1):
        bank.invariant(name=f"i{number}")(plain)
    with pytest.raises(ConfigError, match="more than 50 invariants"):
        bank.invariant()(plain)


async def test_none_is_declared_once_it_has_started(tmp_path: Path) -> None:
    async with Cluster(lambda: make_bank(tmp_path, never_negative)) as cluster:
        with pytest.raises(ConfigError, match="has started"):
            cluster["bank"].invariant(name="late")(lambda: None)


async def test_a_forked_child_leaves_its_parents_checks_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(lambda: make_bank(tmp_path, never_negative)) as cluster:
        await found(cluster["bank"], "never_negative", Standing.HOLDS)
        with monkeypatch.context() as patch:
            patch.setattr(forks, "_generation", forks.generation() + 1)
            await cluster["bank"].close()
        await cluster["bank"].local(lambda db: db.execute("INSERT INTO account VALUES ('alice', -5)"))
        await found(cluster["bank"], "never_negative", Standing.VIOLATED)


# ---- across services


def pays_and_sums(directory: Path, name: str) -> Participant:
    """A bank that tells how much it has in all, and keeps what it has read until the outcome."""
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    bank = Participant(name, resource=resource, data_directory=directory / name, coordinator="127.0.0.1:1")

    @bank.operation(locks=lambda account: [f"account/{account}"])
    def pay(db: Any, *, account: str, amount: int) -> None:
        db.execute("INSERT INTO account VALUES (?1, ?2) ON CONFLICT DO UPDATE SET balance = balance + ?2", (account, amount))

    @bank.operation(locks=[Read("*")])
    def total(db: Any) -> int:
        return int(db.one("SELECT coalesce(sum(balance), 0) FROM account")[0])

    return bank


async def test_two_services_are_read_at_one_point(tmp_path: Path) -> None:
    """Money moves between two banks all the time; a transaction that reads both, and keeps its locks, always sees the same sum."""
    sums = Sums()

    def south() -> Participant:
        bank = pays_and_sums(tmp_path, "south")
        sums.declare(bank, SOON)
        return bank

    async with Cluster(lambda: pays_and_sums(tmp_path, "north"), south) as cluster, cluster.client() as client:
        await sums.move_money(client, 25)
        assert set(sums.seen) == {0} and cluster["south"].findings["sums_agree"].standing is Standing.HOLDS
        await cluster["north"].local(lambda db: db.execute("UPDATE account SET balance = balance + 7 WHERE name = 'a'"))
        assert "north has" in await found(cluster["south"], "sums_agree", Standing.VIOLATED)
        await cluster["north"].local(lambda db: db.execute("UPDATE account SET balance = balance - 7 WHERE name = 'a'"))
        await found(cluster["south"], "sums_agree", Standing.HOLDS)
