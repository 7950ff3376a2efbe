"""The in-memory cluster, used as a service author would: two participants, one with a database and one without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from participant_sdk import NO_LOCKS, Limits, LogBranch, LogResource, Participant, Refuse, SqliteResource
from participant_sdk.client import call
from participant_sdk.testing.cluster import COORDINATOR, Cluster
from troth.errors import Aborted, ConfigError, OutcomeUnknown, Reason, RequestError

SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID"


def make_bank(directory: Path, name: str = "bank") -> Participant:
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    bank = Participant(name, resource=resource, data_directory=directory / name, coordinator="127.0.0.1:7420")

    @bank.operation(locks=lambda account: [f"account/{account}"])
    def pay_in(db: Any, *, account: str, amount: int) -> int:
        db.execute(
            "INSERT INTO account VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET balance = balance + excluded.balance",
            (account, amount),
        )
        return int(db.one("SELECT balance FROM account WHERE name = ?", (account,))[0])

    return bank


def make_limits(directory: Path) -> Participant:
    limits = Participant("limits", resource=LogResource(), data_directory=directory, coordinator="127.0.0.1:7420")

    @limits.operation(locks=[])
    async def check(branch: LogBranch, *, amount: int) -> str:
        await asyncio.sleep(0)
        if amount > 100:
            raise Refuse("TOO_MUCH", f"{amount} is more than 100")
        return "ok"

    return limits


def balances(db: Any) -> dict[str, int]:
    return dict(db.execute("SELECT name, balance FROM account"))


@pytest.fixture
def makers(tmp_path: Path) -> tuple[Callable[[], Participant], Callable[[], Participant]]:
    return (lambda: make_bank(tmp_path)), (lambda: make_limits(tmp_path))


Makers = tuple[Callable[[], Participant], Callable[[], Participant]]


def order(amount: int) -> list[Any]:
    return [call("bank", "pay_in", account="a", amount=amount), call("limits", "check", amount=amount)]


async def test_everywhere_or_nowhere(makers: Makers) -> None:
    async with Cluster(*makers) as cluster:
        done = await cluster.run(*order(5))
        assert done.results == {"bank": [5], "limits": ["ok"]}
        with pytest.raises(Aborted) as caught:
            await cluster.run(*order(500))
        assert (caught.value.code, caught.value.participant, caught.value.retryable) == ("TOO_MUCH", "limits", False)
        assert await cluster["bank"].read(balances) == {"a": 5}


async def test_one_participant_alone(makers: Makers) -> None:
    async with Cluster(*makers) as cluster:
        assert (await cluster.run(order(5)[0])).results == {"bank": [5]}


async def test_a_key_commits_once(makers: Makers) -> None:
    async with Cluster(*makers) as cluster:
        first = await cluster.run(*order(5), key="k")
        again = await cluster.run(*order(5), key="k")
        assert (again.transaction_id, again.replayed) == (first.transaction_id, True)
        assert await cluster["bank"].read(balances) == {"a": 5}


async def test_an_interactive_transaction(makers: Makers) -> None:
    async with Cluster(*makers) as cluster:
        async with cluster.transaction() as tx:
            with tx.call():
                assert await cluster["bank"].branch().run("pay_in", account="a", amount=1) == 1
                assert await cluster["bank"].branch().run("pay_in", account="a", amount=2) == 3
            with tx.call():
                await cluster["limits"].branch().run("check", amount=3)
        assert tx.outcome is not None and tx.outcome.transaction_id == tx.transaction_id
        assert await cluster["bank"].read(balances) == {"a": 3}


async def test_an_exception_rolls_an_interactive_transaction_back(makers: Makers) -> None:
    async with Cluster(*makers) as cluster:
        with pytest.raises(Aborted, match="more than 100"):
            async with cluster.transaction() as tx:
                with tx.call():
                    await cluster["bank"].branch().run("pay_in", account="a", amount=1)
                    await cluster["limits"].branch().run("check", amount=101)
        assert await cluster["bank"].read(balances) == {}


async def test_a_participant_that_crashed_finishes_after_its_restart(makers: Makers) -> None:
    async with Cluster(*makers) as cluster:
        await cluster.run(*order(1))
        running = asyncio.create_task(cluster.run(*order(5), wait="logged"))
        done = await running
        await cluster.crash("bank")
        await cluster.restart("bank")
        assert (await cluster.get(done.transaction_id)).transaction_id == done.transaction_id
        await cluster.run(*order(1))
        assert await cluster["bank"].read(balances) == {"a": 7}


async def test_a_coordinator_that_crashed_keeps_its_decisions(makers: Makers) -> None:
    async with Cluster(*makers) as cluster:
        done = await cluster.run(*order(5), wait="logged")
        await cluster.crash(COORDINATOR)
        with pytest.raises(RequestError) as caught:
            await cluster.run(*order(5))
        assert caught.value.reason is Reason.COORDINATOR_AWAY
        with pytest.raises(OutcomeUnknown):
            await cluster.get(done.transaction_id)
        await cluster.restart(COORDINATOR)
        for participant in ("bank", "limits"):
            await cluster[participant].wait_connected()
        assert (await cluster.get(done.transaction_id)).transaction_id == done.transaction_id
        await cluster.run(*order(1))
        assert await cluster["bank"].read(balances) == {"a": 6}


async def test_what_was_undecided_when_the_coordinator_crashed_is_undone(makers: Makers) -> None:
    async with Cluster(*makers) as cluster:
        with pytest.raises(RequestError, match="down"):
            async with cluster.transaction() as tx:
                with tx.call():
                    await cluster["bank"].branch().run("pay_in", account="a", amount=1)
                await cluster.crash(COORDINATOR)
                await cluster.run(*order(1))
        await cluster.restart(COORDINATOR)
        assert await cluster["bank"].read(balances) == {}


async def test_two_participants_of_one_name_are_refused(makers: Makers) -> None:
    with pytest.raises(ConfigError, match="two participants limits"):
        async with Cluster(makers[0], makers[1], makers[1]):
            pass


async def test_a_participant_given_itself_cannot_be_restarted(tmp_path: Path) -> None:
    async with Cluster(make_limits(tmp_path)) as cluster:
        with pytest.raises(ConfigError, match="cannot be made again"):
            await cluster.restart("limits")


async def test_another_log_under_a_name_is_refused(tmp_path: Path) -> None:
    async with Cluster(lambda: make_bank(tmp_path)) as cluster:
        await cluster.run(call("bank", "pay_in", account="a", amount=5))
        await cluster.crash("bank")
        (tmp_path / "bank.db").unlink()
        with pytest.raises(RequestError) as caught:
            await cluster.restart("bank")
        assert caught.value.reason is Reason.FOREIGN_LOG


def make_shelf(directory: Path) -> Participant:
    table = "CREATE TABLE IF NOT EXISTS t (k TEXT NOT NULL PRIMARY KEY, v INTEGER NOT NULL)"
    schema = f"{table}; INSERT OR IGNORE INTO t VALUES ('a', 0);"
    resource = SqliteResource(directory / "shelf.db", schema=schema)
    limits = Limits(local_wait_seconds=0.05, lock_wait_seconds=0.05)
    shelf = Participant("shelf", resource=resource, data_directory=directory, coordinator="127.0.0.1:7420", limits=limits)

    def give(db: Any, *, n: int) -> None:
        db.execute("UPDATE t SET v = v + ? WHERE k = 'a'", (n,))

    shelf.operation(locks=[], name="give")(give)
    shelf.operation(locks=NO_LOCKS, name="give_openly")(give)

    @shelf.operation(locks=["t/a"])
    def look(db: Any) -> int:
        return int(db.one("SELECT v FROM t WHERE k = 'a'")[0])

    return shelf


def look_there(db: Any) -> int:
    return int(db.one("SELECT v FROM t WHERE k = 'a'")[0])


async def test_rows_changed_under_no_key_are_seen_by_nobody(tmp_path: Path) -> None:
    async with Cluster(lambda: make_shelf(tmp_path)) as cluster:
        with pytest.raises(ZeroDivisionError):
            async with cluster.transaction() as tx:
                with tx.call():
                    await cluster["shelf"].branch().run("give", n=1000)
                for locks in (["t/a"], ["*"], []):
                    with pytest.raises(Aborted) as caught:
                        await cluster["shelf"].read(look_there, locks=locks)
                    assert caught.value.reason is Reason.TIMEOUT
                with pytest.raises(Aborted) as died:
                    await cluster.run(call("shelf", "look"))
                assert died.value.reason is Reason.CONFLICT
                raise ZeroDivisionError
        assert await cluster["shelf"].read(look_there, locks=["t/a"], wait_seconds=10.0) == 0


async def test_an_author_may_let_undecided_rows_be_seen(tmp_path: Path) -> None:
    async with Cluster(lambda: make_shelf(tmp_path)) as cluster, cluster.transaction() as tx:
        with tx.call():
            await cluster["shelf"].branch().run("give_openly", n=1)
        assert await cluster["shelf"].read(look_there, locks=["t/a"]) == 1
        assert await cluster["shelf"].read(look_there, locks=NO_LOCKS) == 1


async def test_who_would_wait_for_his_own_transaction_is_told_at_once(tmp_path: Path) -> None:
    async with Cluster(lambda: make_shelf(tmp_path)) as cluster:
        async with cluster.transaction() as tx:
            with tx.call():
                shelf = cluster["shelf"]
                await shelf.branch().run("give", n=1)
                for waits in (shelf.read(look_there), shelf.local(look_there, locks=["t/a"]), shelf.change_schema("DROP TABLE t")):
                    with pytest.raises(RequestError, match="in which it is called") as caught:
                        await waits
                    assert caught.value.reason is Reason.INVALID_ARGUMENT
                assert await shelf.branch().run("look") == 1
        assert await cluster["shelf"].read(look_there) == 1
