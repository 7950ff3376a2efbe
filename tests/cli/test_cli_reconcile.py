"""`troth reconcile`: a coordinator's log beside what participants hold, in files and in a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from coordinator.drift.comparing import STRANDED, Kind, Known, compare
from coordinator.drift.evidence import Branch, Evidence, Fate, read_file
from coordinator.server import Daemon
from participant_sdk.testing.postgres import PostgresServer
from tests.cli.owing import *  # noqa: F403 - a fixture
from tests.cli.owing import ABORTED, UNKNOWN
from tests.cli.test_cli_offline import TRANSACTION, make_log, prepared
from troth.v1 import common_pb2, participant_pb2, record_pb2

DONE = Known("COMMITTED", "COMMITTED", ("pay",))
OWED = Known("COMMITTING", "COMMITTED", ("pay",), ("pay",))
GONE = Known("ABORTED", "ABORTED", ("pay",))
NOTHING = Known(words="Nothing is known of it.")
PREPARED = Branch("pay", TRANSACTION, Fate.PREPARED, gid="g")


def look(branch: Branch, known: Known, *peers: Branch, connected: bool = False) -> Any:
    """The drift of one branch; `None` for none."""
    found = [Evidence("x", "", (branch,)), *(Evidence("y", one.participant, (one,)) for one in peers)]
    drifts = compare(found, lambda _: known, {"pay"} if connected else set())
    return next((one for one in drifts if one.participant == "pay"), None)


@pytest.mark.parametrize(
    ("known", "connected", "kind", "safe"),
    [
        (OWED, False, Kind.NOT_APPLIED, True),
        (OWED, True, None, None),
        (DONE, False, Kind.NOT_APPLIED, True),
        (DONE, True, Kind.NOT_APPLIED, None),
        (GONE, False, Kind.ORPHANED, False),
        (NOTHING, False, Kind.ORPHANED, None),
        (NOTHING, True, None, None),
        (Known("PREPARING", "IN_DOUBT", ("pay",)), False, None, None),
        (Known("HEURISTIC", "MIXED", ("pay",)), False, Kind.CONTRADICTED, None),
        (Known(STRANDED), False, Kind.UNDECIDABLE, None),
    ],
)
def test_a_branch_that_is_prepared(known: Known, connected: bool, kind: Kind | None, safe: bool | None) -> None:
    drift = look(PREPARED, known, connected=connected)
    assert (drift and drift.kind, drift and drift.safe) == (kind, safe)


def test_nothing_is_safe_where_the_branch_has_no_name_in_a_database() -> None:
    drift = look(Branch("pay", TRANSACTION, Fate.PREPARED), OWED)
    assert (drift.kind, drift.safe) == (Kind.NOT_APPLIED, None)


@pytest.mark.parametrize(
    ("peers", "order"),
    [
        ([Branch("a", TRANSACTION, Fate.COMMITTED)], True),
        ([Branch("a", TRANSACTION, Fate.ABORTED, proves_abort=True)], False),
        ([Branch("a", TRANSACTION, Fate.ABORTED)], None),
        ([Branch("a", TRANSACTION, Fate.COMMITTED, forced="ann: because")], None),
        ([Branch("a", TRANSACTION, Fate.COMMITTED, marker=True)], None),
        ([Branch("a", UNKNOWN, Fate.COMMITTED)], None),
        ([Branch("a", TRANSACTION, Fate.COMMITTED), Branch("b", TRANSACTION, Fate.ABORTED, proves_abort=True)], None),
        ([], None),
    ],
)
def test_only_what_a_peers_own_log_proves_becomes_an_order(peers: list[Branch], order: bool | None) -> None:
    drift = look(PREPARED, Known("PROVING", "IN_DOUBT", ("pay",)), *peers)
    assert (drift.kind, drift.order, drift.safe) == (Kind.UNDECIDABLE, order, None)


@pytest.mark.parametrize(
    ("branch", "known", "kind"),
    [
        (Branch("pay", TRANSACTION, Fate.COMMITTED), DONE, None),
        (Branch("pay", TRANSACTION, Fate.COMMITTED), GONE, Kind.CONTRADICTED),
        (Branch("pay", TRANSACTION, Fate.ABORTED, forced="ann: because"), DONE, Kind.CONTRADICTED),
        (Branch("other", TRANSACTION, Fate.ABORTED), DONE, None),
        (Branch("pay", TRANSACTION, Fate.ABORTED), NOTHING, None),
        (Branch("pay", TRANSACTION, Fate.COMMITTED), NOTHING, Kind.UNKNOWN),
        (Branch("pay", TRANSACTION, Fate.COMMITTED, one_phase=True), NOTHING, None),
        (Branch("pay", TRANSACTION, Fate.COMMITTED, marker=True), NOTHING, Kind.MARKER),
        (Branch("pay", TRANSACTION, Fate.COMMITTED), Known("HEURISTIC", "MIXED", ("pay",)), None),
        (Branch("pay", TRANSACTION, Fate.PARKED, forced="a conflict"), DONE, Kind.PARKED),
    ],
)
def test_a_branch_that_is_over(branch: Branch, known: Known, kind: Kind | None) -> None:
    drifts = list(compare([Evidence("x", "", (branch,))], lambda _: known, ()))
    assert [one.kind for one in drifts] == ([kind] if kind else [])


# ---- with a daemon


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


async def test_what_is_decided_is_finished_in_the_database_and_nothing_else(
    server: PostgresServer, owing: Daemon, troth: Any
) -> None:
    dsn, ask = server.dsn(), ("--coordinator", owing.address)
    await troth("store", "init", "--store", dsn, "--participant", "payments")
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    await connection.execute("CREATE TABLE stock (id text PRIMARY KEY)")
    for transaction in (TRANSACTION, ABORTED, UNKNOWN):
        gid = f"troth:payments::{transaction}"
        await connection.execute("BEGIN")
        await connection.execute("INSERT INTO stock VALUES (%s)", (transaction,))
        await connection.execute("INSERT INTO troth.branch (gid) VALUES (%s)", (gid,))
        await connection.execute(f"PREPARE TRANSACTION '{gid}'".encode())
    await connection.execute("INSERT INTO troth.branch VALUES (%s, false)", (f"troth:orders::{TRANSACTION}",))
    rows = [(f"troth:orders::{UNKNOWN}",), ("other software",)]
    await connection.cursor().executemany("INSERT INTO troth.branch VALUES (%s)", rows)

    dry = await troth("reconcile", "--dsn", dsn, *ask, "--json")
    assert dry.code == 1, dry.err
    found = {(one["kind"], one["participant"], one["transaction_id"]): one for one in dry.json()["drifts"]}
    assert set(found) == {
        ("decided, not applied", "payments", TRANSACTION), ("orphaned branch", "payments", ABORTED),
        ("orphaned branch", "payments", UNKNOWN), ("contradicts the decision", "orders", TRANSACTION),
        ("marker without a decision", "orders", UNKNOWN),
        *((kind, who, "") for kind, who, at in found if kind == "owed by somebody who is away" and not at),
    }  # fmt: skip
    assert [key[2] for key, one in found.items() if one["safe"]] == [TRANSACTION, ABORTED]
    words = (await troth("participants", "reconcile", "payments", "--dsn", dsn, *ask)).out
    assert f"with --apply: COMMIT PREPARED 'troth:payments::{TRANSACTION}'" in words and "orders" not in words
    assert len(await prepared_there(connection)) == 3, "nothing was done yet"

    applied = await troth("reconcile", "--dsn", dsn, *ask, "--apply", "--json")
    done = [one["done"] for one in applied.json()["drifts"] if one["done"]]
    assert done == [f"corrected: {word} PREPARED 'troth:payments::{one}'"
                    for word, one in (("COMMIT", TRANSACTION), ("ROLLBACK", ABORTED))]  # fmt: skip
    assert await prepared_there(connection) == [f"troth:payments::{UNKNOWN}"]
    assert await (await connection.execute("SELECT id FROM stock")).fetchall() == [(TRANSACTION,)]
    again = await troth("reconcile", "--dsn", dsn, *ask, "--apply", "--json")
    assert not any(one["done"] for one in again.json()["drifts"]), "it is idempotent"
    await connection.execute(f"ROLLBACK PREPARED 'troth:payments::{UNKNOWN}'".encode())
    await connection.close()


async def prepared_there(connection: Any) -> list[str]:
    return [gid for (gid,) in await (await connection.execute("SELECT gid FROM pg_prepared_xacts")).fetchall()]


async def test_what_nobody_here_holds_wrong_is_a_sentence(daemon: Daemon, troth: Any) -> None:
    told = await troth("reconcile", "--coordinator", daemon.address)
    assert told.code == 0 and told.out.startswith("Nothing is wrong")


async def test_a_file_that_knows_more_than_the_coordinator(owing: Daemon, troth: Any, tmp_path: Path) -> None:
    finished = record_pb2.BranchFinished(transaction_id=UNKNOWN, outcome=common_pb2.OUTCOME_COMMITTED)
    await make_log(tmp_path / "p.db", "participant", "payments", record_pb2.ParticipantRecord(branch_finished=finished))
    told = await troth("reconcile", "--file", str(tmp_path / "p.db"), "--coordinator", owing.address)
    assert told.code == 1
    assert f"applied, unknown to the coordinator: payments {UNKNOWN}" in told.out
    wrong = await troth("reconcile", "--file", str(tmp_path / "c1" / "coordinator.db"), "--coordinator", owing.address)
    assert wrong.code == 3 and "a participant's is asked for" in wrong.err


async def test_what_is_in_doubt_in_a_file_and_what_peers_know_of_it(troth: Any, tmp_path: Path) -> None:
    branch = prepared(keys=["account/a"], shared_keys=["rates"])
    branch.branch_prepared.peers = participant_pb2.Peers(participants=["orders", "payments"]).SerializeToString()
    branch.branch_prepared.first_attempt_ms = 1_000
    await make_log(tmp_path / "p.db", "participant", "payments", branch)
    over = record_pb2.BranchFinished(transaction_id=TRANSACTION, outcome=common_pb2.OUTCOME_COMMITTED)
    await make_log(tmp_path / "o.db", "participant", "orders", record_pb2.ParticipantRecord(branch_finished=over))
    at = ("log", "in-doubt", str(tmp_path / "p.db"), "--peer", str(tmp_path / "o.db"))
    (row,) = (await troth(*at, "--json")).json()["in_doubt"]
    assert row == {
        "transaction_id": TRANSACTION, "since_ms": 1_000, "keys": ["account/a", "rates"], "participants": ["orders", "payments"],
        "peers": [{"participant": "orders", "branch": "committed", "forced": ""}],
    }  # fmt: skip
    table = await troth(*at)
    assert "1970-01-01 00:00:01" in table.out and "orders: committed" in table.out
    assert (await troth("log", "in-doubt", str(tmp_path / "o.db"), "--json")).json()["in_doubt"] == []


async def test_a_peers_commit_by_hand_is_told_as_that_when_people_have_forgotten_it(troth: Any, tmp_path: Path) -> None:
    await make_log(tmp_path / "p.db", "participant", "payments", prepared())
    over = record_pb2.BranchFinished(
        transaction_id=TRANSACTION, outcome=common_pb2.OUTCOME_COMMITTED, by_hand=True, why="forced by ann"
    )
    await make_log(tmp_path / "o.db", "participant", "orders", record_pb2.ParticipantRecord(branch_finished=over))
    (row,) = (await troth("log", "in-doubt", str(tmp_path / "p.db"), "--peer", str(tmp_path / "o.db"), "--json")).json()["in_doubt"]
    assert row["peers"] == [{"participant": "orders", "branch": "committed", "forced": "forgotten since: forced by ann"}]
    (theirs,) = read_file(tmp_path / "o.db").branches
    drift = look(PREPARED, Known("PROVING", "IN_DOUBT", ("pay",)), theirs)
    assert (drift.kind, drift.order) == (Kind.UNDECIDABLE, None), "it proves nothing to whoever is in doubt"
