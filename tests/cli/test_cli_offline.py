"""Commands that need no coordinator: help, versions, logs, the demo."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from coordinator.cli import demo as demo_module
from coordinator.cli.main import troth as tree
from coordinator.cli.render import plain
from troth.log.sqlite import SqliteLog
from troth.ready import Append
from troth.v1 import common_pb2, participant_pb2, record_pb2

TRANSACTION = "c1.1.0badcafe.3.4"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, by its words."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("words", [words for words in commands(tree) if words not in (("demo",), ("dev",))], ids=" ".join)
async def test_help_begins_with_examples(troth: Any, words: tuple[str, ...]) -> None:
    told = await troth(*words, "--help")
    assert told.code == 0
    assert told.out.startswith("Examples:\n  troth ")
    assert "Usage: troth" in told.out


async def test_version(troth: Any) -> None:
    assert (await troth("version", "--json")).json()["troth"] == "0.1.0"
    assert "troth\t0.1.0" in (await troth("version")).out


async def test_a_wrong_command_is_exit_2(troth: Any) -> None:
    assert (await troth("txn", "lisst")).code == 2
    wrong = await troth("txn", "list", "--limit", "-1", "--json")
    assert wrong.code == 2
    assert wrong.json()["error"]["reason"] == "USAGE"


@pytest.mark.parametrize("word", ["demo", "dev"])
async def test_the_demo_without_a_checkout_says_what_to_do(word: str, troth: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(demo_module, "SHOP", tmp_path)
    told = await troth(word)
    assert told.code == 2
    assert f"Clone the repository and run `troth {word}` there." in told.err


async def test_the_demo_is_run_with_its_arguments(troth: Any, tmp_path: Path, monkeypatch: Any) -> None:
    script = tmp_path / "demo.py"
    script.write_text("import sys; sys.exit(len(sys.argv))")
    monkeypatch.setattr(demo_module, "SHOP", script.parent)
    assert (await troth("demo", "--orders", "x.csv")).code == 3


# ---- logs


async def make_log(path: Path, role: str, name: str, *records: Any) -> None:
    """A log with records, closed again."""
    log = SqliteLog(path, role=role, name=name)
    await log.open()
    await log.write([Append(record) for record in records], sync=True)
    await log.close()


def decided() -> record_pb2.CoordinatorRecord:
    return record_pb2.CoordinatorRecord(
        at_ms=5,
        decided=record_pb2.Decided(
            transaction_id=TRANSACTION, participants=["orders", "payments"], owing=[0, 1], orders=[1, 1]
        ),
    )


def prepared(**work: Any) -> record_pb2.ParticipantRecord:
    return record_pb2.ParticipantRecord(
        branch_prepared=record_pb2.BranchPrepared(
            transaction_id=TRANSACTION, order=9, work=record_pb2.BranchWork(**work)
        )
    )


async def test_a_sound_log_verifies(troth: Any, tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    await make_log(path, "coordinator", "c1", decided())
    verified = await troth("log", "verify", str(path), "--json")
    assert verified.code == 0
    document = verified.json()
    assert (document["sound"], document["role"], document["records"]) == (True, "coordinator", 1)
    assert "sound\tyes" in (await troth("log", "verify", str(path))).out


async def test_a_damaged_log_is_exit_3(troth: Any, tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    await make_log(path, "coordinator", "c1", decided(), decided())
    with sqlite3.connect(path) as connection:
        table = connection.execute("SELECT name FROM sqlite_master WHERE sql LIKE '%body%'").fetchone()[0]
        connection.execute(f"UPDATE {table} SET body = zeroblob(4) WHERE seq = 1")
    connection.close()
    verified = await troth("log", "verify", str(path), "--json")
    assert verified.code == 3
    assert "1" in verified.json()["problems"][0]["place"]
    forced = await troth("log", "resolve", str(path), TRANSACTION, "abandon", "--why", "test", "--yes")
    assert forced.code == 3


async def test_dump_prints_every_record(troth: Any, tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    await make_log(path, "coordinator", "c1", decided())
    dumped = await troth("log", "dump", str(path), "--json")
    assert dumped.json()["records"] == [
        {
            "seq": 1, "kind": "decided", "transaction_id": TRANSACTION, "participants": ["orders", "payments"],
            "owing": [0, 1], "orders": [1, 1], "first_attempt_ms": 0, "acknowledged": [], "acknowledged_orders": [],
                "owner": "", "traceparent": "", "at_ms": 5,
        }
    ]  # fmt: skip
    assert (await troth("log", "dump", str(path), "--transaction", "other", "--json")).json()["records"] == []
    assert (await troth("log", "dump", str(path))).out.splitlines()[1].startswith("1\tdecided\t{")


async def test_a_file_that_is_no_log_is_refused(troth: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a log")
    assert (await troth("log", "verify", str(path))).code == 3
    assert (await troth("log", "dump", str(path), "--json")).code == 3
    assert (await troth("log", "verify", str(tmp_path / "nowhere"))).code == 2


async def test_a_coordinator_stops_waiting_offline(troth: Any, tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    await make_log(path, "coordinator", "c1", decided())
    at = ("log", "resolve", str(path), TRANSACTION)
    assert (await troth(*at, "commit", "--why", "test", "--yes")).code == 1
    unasked = await troth(*at, "abandon", "--why", "test")
    assert unasked.code == 2
    assert "HAZARD" in unasked.err
    done = await troth(*at, "abandon", "--why", "scrapped", "--who", "ann", "--yes", "--json")
    assert done.json()["seqs"] == [2, 3]
    dumped = (await troth("log", "dump", str(path), "--json")).json()["records"]
    assert [(one["participant"], one["who"], one["branch_outcome"]) for one in dumped[1:]] == [
        ("orders", "ann", "HAZARD"),
        ("payments", "ann", "HAZARD"),
    ]
    assert (await troth(*at, "abandon", "--why", "test", "--yes")).code == 1


@pytest.mark.parametrize("work", [{}, {"undo": [b"x"]}, {"resource_branch": "gid"}])
@pytest.mark.parametrize("action, outcome", [("commit", "COMMITTED"), ("abort", "ABORTED")])
async def test_a_participant_is_ordered_offline(
    troth: Any, tmp_path: Path, action: str, outcome: str, work: dict[str, Any]
) -> None:
    path = tmp_path / "payments.db"
    await make_log(path, "participant", "payments", prepared(**work))
    at = ("log", "resolve", str(path), TRANSACTION)
    assert (await troth(*at, "abandon", "--why", "test", "--yes")).code == 1
    assert (await troth(*at, action, "--why", "told by phone", "--yes")).code == 0
    record = (await troth("log", "dump", str(path), "--json")).json()["records"][1]
    assert (record["kind"], record["outcome"], record["why"]) == ("force_ordered", outcome, "told by phone")
    again = await troth(*at, "abort", "--why", "test", "--yes", "--json")
    assert again.code == 1 and again.json()["error"]["reason"] == "NOT_ACTIVE"


async def test_a_log_stands_in_for_one_that_is_lost_and_replaces_none(troth: Any, tmp_path: Path) -> None:
    path, log_id = tmp_path / "c1" / "coordinator.db", "5f" * 16
    at = ("log", "stand-in", str(path), "--name", "c1", "--why", "the disk died", "--yes")
    assert (await troth(*at, "--log-id", "5f0c...")).code == 2
    assert (await troth(*at, "--log-id", log_id)).code == 0
    verified = (await troth("log", "verify", str(path), "--json")).json()
    assert (verified["sound"], verified["name"], verified["log_id"], verified["records"]) == (True, "c1", log_id, 1)
    assert (await troth(*at, "--log-id", log_id)).code == 3, "it is there"


# ---- messages as JSON


def test_messages_are_plain() -> None:
    assert plain(common_pb2.Cause(reason="X", retryable=True)) == {
        "reason": "X", "participant": "", "code": "", "message": "", "retryable": True,
    }  # fmt: skip
    assert plain(participant_pb2.Vote(kind=participant_pb2.VOTE_KIND_READ_ONLY, results=b"\x01"))["kind"] == "READ_ONLY"
    assert plain(participant_pb2.Vote(results=b"\x01"))["results"] == "01"
