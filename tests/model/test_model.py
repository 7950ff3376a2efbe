"""The TLA+ model and what is written about it agree; where Java is present, TLC agrees as well."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from coordinator.core.model import State
from troth.v1 import participant_pb2

ROOT = Path(__file__).resolve().parents[2]
TLA = ROOT / "tla"
PAGE = (ROOT / "docs/explanation/model.md").read_text("utf-8")
MODULES = ("Troth", "Keyed", "SharedStore", "OwnedLog", "GoingBack", "Proving")
CONFIGURATIONS = sorted(TLA.glob("*.cfg"))
BROKEN = sorted(TLA.glob("broken/*.cfg"))
DISJUNCTIONS = ("Faults", "Requests", "CoordinatorSteps", "ParticipantSteps", "Progress", "Next")

by_module = pytest.mark.parametrize("module", MODULES)
by_configuration = pytest.mark.parametrize("path", CONFIGURATIONS + BROKEN, ids=lambda path: path.stem)


def source(module: str) -> str:
    """A module without its comments."""
    text = (TLA / f"{module}.tla").read_text("utf-8")
    return re.sub(r"\(\*.*?\*\)|\\\*[^\n]*", "", text, flags=re.DOTALL)


def definitions(module: str) -> dict[str, str]:
    """Each definition's body by name."""
    parts = re.split(r"^(\w+)(?:\([^)]*\)|\[[^\]]*\])? *==", source(module), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def constants(module: str) -> set[str]:
    block = re.search(r"^CONSTANTS\n(.*?)^VARIABLES", source(module), flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    return set(re.findall(r"\w+", block[1]))


def actions(module: str) -> set[str]:
    """What the next-state relation is made of."""
    defined = definitions(module)
    found: set[str] = set()
    for name in DISJUNCTIONS:
        found |= set(re.findall(r"\w+", defined.get(name, "")))
    return {name for name in found & set(defined) - set(DISJUNCTIONS) if "'" in defined[name] or "UNCHANGED" in defined[name]}


def documented_actions(module: str) -> list[str]:
    section = PAGE.split(f"\n### {module}.tla\n")[1].split("\n#")[0]
    return re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)


def switches(module: str) -> set[str]:
    return set(re.findall(r'Off\("(\w+)"\)', source(module)))


def header(path: Path, key: str) -> str:
    found = re.search(rf"^\\\* {key}: (.*)$", path.read_text("utf-8"), flags=re.MULTILINE)
    return found[1] if found else ""


def broken_rules(path: Path) -> list[str]:
    found = re.search(r"Broken = \{(.*)\}", path.read_text("utf-8"))
    assert found is not None
    return re.findall(r'"(\w+)"', found[1])


def checked(path: Path) -> set[str]:
    """The invariants and properties that a configuration checks."""
    return {
        name for line in re.findall(r"^(?:INVARIANTS|PROPERTIES) (.*)$", path.read_text("utf-8"), re.M) for name in line.split()
    }


@by_module
def test_a_module_is_named_after_its_file_and_its_brackets_match(module: str) -> None:
    text = (TLA / f"{module}.tla").read_text("utf-8")
    assert re.match(rf"-+ MODULE {module} -+\n", text)
    assert text.endswith("=" * 77 + "\n")
    bare = source(module).replace("<<", "").replace(">>", "")
    for left, right in ("()", "[]", "{}"):
        # `[]` is also "always" and the separator of CASE; both are balanced by themselves.
        assert bare.count(left) == bare.count(right), (left, right)


@by_module
def test_every_action_of_a_module_is_on_the_page_and_no_other(module: str) -> None:
    documented = documented_actions(module)
    assert sorted(documented) == sorted(set(documented))
    assert set(documented) == actions(module)


@by_module
def test_every_rule_that_can_be_switched_off_is_switched_off_by_a_broken_variant(module: str) -> None:
    variants = [path for path in BROKEN if header(path, "module") == module]
    assert {rule for path in variants for rule in broken_rules(path)} == switches(module)


@by_configuration
def test_a_configuration_fits_its_module(path: Path) -> None:
    text = path.read_text("utf-8")
    module = header(path, "module")
    assert module in MODULES
    assert set(re.findall(r"^  (\w+) = ", text, flags=re.MULTILINE)) == constants(module)
    assert checked(path) <= set(definitions(module))
    assert set(broken_rules(path)) <= switches(module)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_configuration_breaks_nothing_and_its_figures_are_told(path: Path) -> None:
    assert broken_rules(path) == []
    assert header(path, "breaks") == ""
    assert re.search(rf"^\| `{path.stem}` \| [^|]+ \| [\d,]+ \| \d+ \| \d+ \|$", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_variant_says_what_fails_and_its_trace_is_told(path: Path) -> None:
    expected = set(header(path, "breaks").split())
    assert expected
    assert expected <= checked(path)
    told = re.search(rf"^- `{path.stem}` \((.*?)\)\. ", PAGE, flags=re.MULTILINE)
    assert told is not None
    assert any(name in told[1] for name in expected)
    for rule in broken_rules(path):
        assert f"`{rule}`" in told[1]


def test_what_is_checked_is_explained_and_what_is_explained_is_checked() -> None:
    table = PAGE.split("## What must hold")[1].split("\n## ")[0]
    explained = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))
    assert explained == {name for path in CONFIGURATIONS for name in checked(path)} - {"TypeOK"}


def test_the_states_of_the_model_are_the_states_of_the_core() -> None:
    modelled = {name for module in ("Troth", "Keyed") for name in re.findall(r'"(\w+)"', definitions(module)["States"])}
    # No coordinator's log goes back in these: `Proving` is what follows then, of one transaction that is in this state.
    assert modelled - {"NONE"} == {state.name for state in State} - {"PROVING"}


@pytest.mark.parametrize("module", ["Troth", "Keyed"])
def test_the_messages_of_the_model_are_messages_of_the_protocol(module: str) -> None:
    text = source(module)
    kinds = set(re.findall(r'kind \|-> "(\w+)"', text)) | set(re.findall(r'FromParticipant\("(\w+)"', text))
    assert kinds
    assert kinds <= set(participant_pb2.DESCRIPTOR.message_types_by_name)


def test_the_counts_on_the_page_are_right() -> None:
    assert f"model: ok configurations={len(CONFIGURATIONS)} broken_shown={len(BROKEN)} violations=0" in PAGE


if shutil.which("java"):

    def test_tlc_agrees_on_the_smallest_configurations() -> None:
        names = ["fence", "tombstone", "proving", "answer_from_absence", "another_incarnation_proves"]
        run = subprocess.run([ROOT / "scripts/model", *names], capture_output=True, text=True, timeout=300, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        assert run.stdout.splitlines()[-1] == "model: ok configurations=3 broken_shown=2 violations=0"
