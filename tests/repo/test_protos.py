"""The contract: linted, compatible with its baseline, and generated code that is what the protos say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sources import ROOT, TOOLS, run

from troth.errors import Reason
from troth.v1 import reason_pb2


def test_protos_pass_buf_lint() -> None:
    done = run(TOOLS / "buf", "lint")
    assert done.returncode == 0, done.stdout


def test_protos_break_nothing_of_the_baseline() -> None:
    done = run(TOOLS / "buf", "breaking", "--against", "protos/baseline.binpb")
    assert done.returncode == 0, f"{done.stdout}\nPeers of the old version would break: add, never change."


def test_baseline_knows_every_message() -> None:
    """A baseline that is never renewed guards nothing: a new message must be in it before a release."""
    baseline = (ROOT / "protos" / "baseline.binpb").read_bytes()
    for path in sorted((ROOT / "protos").rglob("*.proto")):
        for message in re.findall(r"^(?:message|enum) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert message.encode() in baseline, (
                f"{message} of {path.name} is not in protos/baseline.binpb: buf build -o protos/baseline.binpb"
            )


def test_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    done = run(ROOT / "scripts" / "generate", tmp_path, PYTHON_WITH_TOOLS=sys.executable)
    assert done.returncode == 0, done.stdout
    fresh = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*_pb2*")}
    committed = {
        path.relative_to(ROOT)
        for directory in ("troth/v1", "examples/shop")
        for path in (ROOT / directory).glob("*_pb2*")
        if path.is_file()
    }
    assert set(fresh) == committed, "run scripts/generate and commit what it makes"
    for relative, path in sorted(fresh.items()):
        assert path.read_text() == (ROOT / relative).read_text(), f"{relative} is stale: run scripts/generate"


def test_the_reasons_are_those_of_the_code() -> None:
    written = {name.removeprefix("REASON_") for name in reason_pb2.Reason.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
    assert written == set(Reason.__members__), "run scripts/generate"
