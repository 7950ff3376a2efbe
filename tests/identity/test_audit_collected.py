"""Audit logs of several nodes, collected: what happened in one order, what is tied together, and what is missing or cut."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli.main import run
from coordinator.identity import audit_keys
from coordinator.identity.audit import Audit, files_of, lines_of
from coordinator.identity.chain import hash_of
from coordinator.identity.collected import Place, about, collect, entries_of, merged

TXN, REVIEW = "c1.7.9f2c4e1a.3.42", "c1-3-0badcafe"
Call = Callable[..., tuple[int, str]]


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 30, 3, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def after(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The key that signs, of both nodes."""
    audit_keys.make(tmp_path / "audit.key")
    return tmp_path / "audit.key"


@pytest.fixture
def cell(tmp_path: Path, key: Path) -> Path:
    """What was collected from two nodes. At a, Ada orders a commit, which waits for a second person, and a dies; its shard moves to
    b, where Grace approves it; b does it. Eve is refused at both, about something else."""
    clock, root = Clock(), tmp_path / "collected"
    logs = {node: Audit(root / node, node, 10**9, audit_keys.read_private(key), clock) for node in ("a", "b")}

    def write(node: str, kind: str, **fields: Any) -> None:
        clock.after(1)
        logs[node].write(kind, **fields)

    write("a", "refused", who="eve", action="drain", object="*")
    write("a", "asked", who="ada", action="Review", object=TXN, order="COMMIT", why="told by phone", request="r1", review=REVIEW)
    logs["a"].close()
    write("b", "refused", who="eve", action="drain", object="*")
    write("b", "asked", who="grace", action="Review", order="approved", asked_by="ada", request="r2", review=REVIEW)
    write("b", "asked", who="grace", action="Resolve", object=TXN, order="COMMIT", request="r3", review=REVIEW, asked_by="ada")
    write("b", "done", who="grace", action="Resolve", request="r3", before="ACTIVE", after="COMMITTED", result="done")
    logs["b"].close()
    return root


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command of `troth audit`; returns its exit code and what it printed."""

    def called(*arguments: object) -> tuple[int, str]:
        return run(("audit", *map(str, arguments))), capsys.readouterr().out

    return called


def both(cell: Path) -> tuple[str, ...]:
    return ("--directory", f"a={cell / 'a'}", "--directory", f"b={cell / 'b'}")


def kept(cell: Path, node: str) -> Path:
    """The last checkpoint of a node, as it was kept elsewhere."""
    last = list(lines_of(cell / node))[-1]
    path = cell.parent / f"{node}-{json.loads(last)['seq']}.json"
    path.write_bytes(last)
    return path


# ---- what happened


def test_the_way_of_an_order_over_two_nodes(cell: Path, call: Call) -> None:
    """What an auditor asks: who ordered it, who approved it, who did it, and where. Each thing leads to the whole story."""
    for what in (TXN, REVIEW, "r2", "r3"):
        code, out = call("show", *both(cell), "--about", what, "--json")
        told = [(one["node"], one["kind"], one["who"], one["action"]) for one in json.loads(out)["entries"]]
        assert (code, told) == (
            0,
            [
                ("a", "asked", "ada", "Review"), ("b", "asked", "grace", "Review"),
                ("b", "asked", "grace", "Resolve"), ("b", "done", "grace", "Resolve"),
            ],
        ), what  # fmt: skip
    assert "eve" not in call("show", *both(cell), "--about", TXN)[1]
    assert "ACTIVE -> COMMITTED" in call("show", *both(cell), "--about", TXN)[1]


def test_a_part_of_a_name_is_not_the_name(cell: Path) -> None:
    assert about(merged({"a": cell / "a"}), TXN[:-1]) == []


def test_entries_of_several_are_by_time_and_each_has_its_node(cell: Path, call: Call) -> None:
    entries = json.loads(call("show", *both(cell), "--json")[1])["entries"]
    assert [one["at"] for one in entries] == sorted(one["at"] for one in entries)
    assert {one["node"] for one in entries} == {"a", "b"}
    lines = call("show", *both(cell), "--who", "eve")[1].splitlines()
    assert [line.split("\t")[0] for line in lines] == ["NODE", "a", "b"]
    assert call("show", "--directory", cell / "a")[1].splitlines()[0].split("\t")[0] == "SEQ", "one log needs no node"


def test_a_clock_that_was_set_back_does_not_put_a_chain_in_another_order(tmp_path: Path) -> None:
    clock = Clock()
    log, other = Audit(tmp_path / "a", "a", 10**9, now=clock), Audit(tmp_path / "b", "b", 10**9, now=clock)
    for step in (10, -60, 5):
        clock.after(step)
        log.write("asked", who="ada", object=f"step {step}")
        other.write("asked", who="ada", object=f"step {step}")
    log.close()
    other.close()
    placed = list(merged({"a": tmp_path / "a", "b": tmp_path / "b"}))
    for node in ("a", "b"):
        order = [one.entry["seq"] for one in placed if one.node == node]
        assert order == sorted(order) and len(order) == 5


def test_what_is_exported_from_several_is_as_it_was_but_for_the_node(cell: Path, call: Call) -> None:
    lines = [json.loads(line) for line in call("export", *both(cell))[1].splitlines()]
    assert len(lines) == len(list(lines_of(cell / "a"))) + len(list(lines_of(cell / "b")))
    for line in lines:
        node = line.pop("node")
        assert line["hash"] == hash_of(line) and line in list(entries_of(cell / node))
    assert call("export", *both(cell), "--since", "2999")[1] == ""


# ---- what is missing, cut, or another's


def verified(call: Call, key: Path, *arguments: object) -> tuple[int, list[str]]:
    code, out = call("verify", *arguments, "--key", f"{key}.pub", "--json")
    return code, json.loads(out)["problems"]


def test_each_chain_is_verified_by_itself_with_its_checkpoint(cell: Path, key: Path, call: Call) -> None:
    proofs = ("--checkpoint", kept(cell, "a"), "--checkpoint", kept(cell, "b"))
    assert verified(call, key, *both(cell), *proofs) == (0, [])
    nodes = json.loads(call("verify", *both(cell), *proofs, "--key", f"{key}.pub", "--json")[1])["nodes"]
    assert {node: (told["first"], told["signed_through"]) for node, told in nodes.items()} == {"a": (1, 5), "b": (1, 7)}


@pytest.mark.parametrize("node", ["a", "b"])
def test_a_cut_end_is_told_with_its_node(cell: Path, key: Path, call: Call, node: str) -> None:
    proofs = ("--checkpoint", kept(cell, "a"), "--checkpoint", kept(cell, "b"))
    (path,) = files_of(cell / node)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    code, problems = verified(call, key, *both(cell), *proofs)
    assert code == 1 and len(problems) == 1 and problems[0].startswith(f"{node}: the checkpoint"), problems


@pytest.mark.parametrize("node", ["a", "b"])
def test_a_changed_entry_is_told_with_its_node(cell: Path, key: Path, call: Call, node: str) -> None:
    (path,) = files_of(cell / node)
    path.write_bytes(path.read_bytes().replace(b'"who":"eve"', b'"who":"bob"'))
    assert verified(call, key, *both(cell)) == (1, [f"{node}: entry 2 was changed"])
    assert f"{node}: entry 2 was changed" in call("verify", *both(cell))[1]


def test_a_log_that_is_missing_shows_by_its_name_or_by_its_checkpoint(cell: Path, key: Path, call: Call) -> None:
    proofs = ("--checkpoint", kept(cell, "a"), "--checkpoint", kept(cell, "b"))
    shutil.rmtree(cell / "a")
    code, problems = verified(call, key, *both(cell))
    assert code == 1 and len(problems) == 1 and problems[0].startswith("a: its audit log is missing"), problems
    code, problems = verified(call, key, "--directory", cell / "b", *proofs)
    assert code == 1 and len(problems) == 1 and problems[0].startswith("a: its audit log is missing"), problems
    for command in ("show", "export"):
        assert call(command, *both(cell)) == (2, ""), "half of what happened, shown as all of it, would mislead"


def test_a_log_in_the_place_of_another_shows(cell: Path, key: Path, call: Call) -> None:
    shutil.rmtree(cell / "a")
    shutil.copytree(cell / "b", cell / "a")
    code, problems = verified(call, key, *both(cell))
    assert (code, problems) == (1, [f"a: the audit log in {cell / 'a'} is of b"])
    assert call("show", *both(cell))[0] == 2
    code, problems = verified(call, key, "--directory", cell / "a", "--directory", cell / "b")
    assert (code, problems) == (1, [f"b: both {cell / 'a'} and {cell / 'b'} are its audit log"])


def test_an_older_checkpoint_beside_a_newer_one_does_no_harm(cell: Path, key: Path, call: Call) -> None:
    old = kept(cell, "a")
    log = Audit(cell / "a", "a", 10**9, audit_keys.read_private(key))
    log.close()
    new = kept(cell, "a")
    proofs = ("--checkpoint", new, "--checkpoint", old, "--checkpoint", kept(cell, "b"))
    assert verified(call, key, *both(cell), *proofs) == (0, [])


def test_a_key_and_a_first_entry_may_be_of_one_node(cell: Path, key: Path, call: Call) -> None:
    audit_keys.make(key.parent / "other.key")
    code, out = call("verify", *both(cell), "--key", f"{key}.pub", "--key", f"b={key.parent / 'other.key.pub'}", "--json")
    problems = json.loads(out)["problems"]
    assert code == 1 and problems and all(one.startswith("b: the signature of checkpoint") for one in problems), problems
    code, problems = verified(call, key, *both(cell), "--first", "a=3")
    assert (code, problems) == (1, ["a: the first entry is 1, and not 3: older ones were dropped"])
    assert call("verify", *both(cell), "--first", "a=three")[0] == 2


def test_a_log_that_does_not_say_whose_it_is_goes_by_its_directory(tmp_path: Path) -> None:
    """One of before the first entry said so, without a key."""
    (tmp_path / "audit-000000000001.jsonl").write_text('{"seq": 1}\nno entry\n[]\n')
    assert collect([Place("", tmp_path)]) == ({str(tmp_path): tmp_path}, [])
    assert collect([Place("a", tmp_path)]) == ({"a": tmp_path}, [])


def test_a_path_may_have_an_equals_sign(cell: Path, call: Call) -> None:
    (cell / "x=y").mkdir()
    shutil.copytree(cell / "a", cell / "x=y" / "audit")
    assert call("show", "--directory", cell / "x=y" / "audit")[0] == 0
