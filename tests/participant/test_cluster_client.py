"""A production client in a cluster in memory: what a test of a caller needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from participant_sdk import Participant, Refuse, SqliteResource, entered
from participant_sdk.client import (
    Aborted,
    AlreadyCommitted,
    Client,
    OutcomeUnknown,
    RequestError,
    call,
    current_transaction,
    transactional,
)
from participant_sdk.testing.cluster import COORDINATOR, Cluster
from troth.errors import Reason

SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID"


def make_bank(directory: Path, name: str) -> Participant:
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    bank = Participant(name, resource=resource, data_directory=directory / name, coordinator="127.0.0.1:7420")

    @bank.operation(locks=lambda account: [f"account/{account}"])
    def pay_in(db: Any, *, account: str, amount: int) -> int:
        if amount > 100:
            raise Refuse("TOO_MUCH", f"{amount} is more than 100")
        db.execute(
            "INSERT INTO account VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET balance = balance + excluded.balance",
            (account, amount),
        )
        return int(db.one("SELECT balance FROM account WHERE name = ?", (account,))[0])

    return bank


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(lambda: make_bank(tmp_path, "north"), lambda: make_bank(tmp_path, "south")) as cluster:
        yield cluster


async def transfer(client: Client, amount: int, **options: Any) -> Any:
    """A caller's own code, which knows nothing of clusters."""
    north = call("north", "pay_in", account="a", amount=amount)
    south = call("south", "pay_in", account="b", amount=amount)
    return (await client.run(north, south, **options)).results


def balances(db: Any) -> dict[str, int]:
    return dict(db.execute("SELECT name, balance FROM account"))


async def test_a_callers_code_runs_as_it_is(cluster: Cluster) -> None:
    async with cluster.client() as client:
        assert await transfer(client, 5) == {"north": [5], "south": [5]}
        assert await transfer(client, 5, key="k1") == {"north": [10], "south": [10]}
        assert await transfer(client, 5, key="k1") == {"north": [10], "south": [10]}
        with pytest.raises(Aborted) as caught:
            await transfer(client, 101)
        assert caught.value.code == "TOO_MUCH" and caught.value.participant in ("north", "south")
    assert await cluster["south"].read(balances) == {"b": 10}


async def test_two_clients_and_the_cluster_itself_do_not_mix_their_answers(cluster: Cluster) -> None:
    async with cluster.client() as one, cluster.client() as two:
        runs = [one.run(call("north", "pay_in", account=f"a{n}", amount=n)) for n in range(5)]
        runs += [two.run(call("south", "pay_in", account=f"b{n}", amount=10 + n)) for n in range(5)]
        runs += [cluster.run(call("south", "pay_in", account=f"c{n}", amount=20 + n)) for n in range(5)]
        answers = [next(iter(done.results.values()))[0] for done in await asyncio.gather(*runs)]
    assert answers == [*range(5), *range(10, 15), *range(20, 25)]


async def test_interactive_transactions(cluster: Cluster) -> None:
    async with cluster.client() as client:

        @transactional(client, key=lambda amount: "once")
        async def pay(amount: int) -> int:
            tx = current_transaction()
            assert tx is not None
            with entered(tx.context()) as scope:
                paid = int(await cluster["north"].branch().run("pay_in", account="a", amount=amount))
                for participant, count in scope.counts.items():
                    tx.acknowledge(participant, count)
            return paid

        assert await pay(7) == 7
        assert await pay(7) == 7, "what it returned then"
        with pytest.raises(AlreadyCommitted, match="other arguments"):
            await pay(8)
        with pytest.raises(ZeroDivisionError):
            async with client.transaction() as tx:
                with entered(tx.context()):
                    await cluster["north"].branch().run("pay_in", account="a", amount=1)
                _ = 1 // 0
    assert await cluster["north"].read(balances) == {"a": 7}


async def test_a_coordinator_that_crashes_is_found_again(cluster: Cluster) -> None:
    async with cluster.client(grace_seconds=0.2) as client:
        paid = [call(name, "pay_in", account="a", amount=1) for name in ("north", "south")]
        done = await client.run(*paid)  # over two participants: the decision is durable before anybody hears of it
        await cluster.crash(COORDINATOR)
        with pytest.raises((Aborted, OutcomeUnknown)) as caught:
            await transfer(client, 1, timeout=0.05)
        assert caught.value.reason is Reason.COORDINATOR_AWAY
        await cluster.restart(COORDINATOR)
        assert (await client.get(done.transaction_id)).transaction_id == done.transaction_id
        assert await transfer(client, 1, attempts=20) == {"north": [2], "south": [1]}


async def test_an_unknown_transaction_and_a_closed_client(cluster: Cluster) -> None:
    async with cluster.client(grace_seconds=0.2) as client:
        with pytest.raises(OutcomeUnknown):
            await client.get(f"{COORDINATOR}.1.00000000.1.1", timeout=0.05)
    with pytest.raises(RequestError):
        await transfer(client, 1)
