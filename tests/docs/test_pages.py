"""The documentation is true of the code: links lead somewhere, drawn sections are fresh, nothing that must be told is missing."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
import session

from coordinator.cli.main import troth
from coordinator.config import SETTING_NAMES
from coordinator.core.model import Counters
from coordinator.core.model import State as CoordinatorState
from coordinator.services.context import ShellCounters
from participant_sdk.core.branches import State as ParticipantState
from troth.errors import Reason

ROOT = session.ROOT
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_OTHERS = {"docs/explanation/testing.md", "docs/explanation/performance.md", "docs/explanation/model.md"}
"""Pages that are written elsewhere; a link to one is checked as soon as it is there."""
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
DRAWN = re.compile(r"<!-- drawn: (?P<name>[a-z-]+) -->.*?<!-- end of (?P=name) -->", re.DOTALL)


def name(path: Path) -> str:
    """The path as people write it."""
    return path.relative_to(ROOT).as_posix()


def read(path: str) -> str:
    """A page."""
    return (ROOT / path).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """What a link to a section of this page may end with, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def drawer() -> ModuleType:
    """`docs/draw.py`."""
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "draw.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(FENCED.sub("", page.read_text(encoding="utf-8"))):
        target, _, anchor = match["target"].partition("#")
        if target.startswith(("http:", "https:")):
            continue
        path = (page.parent / target).resolve() if target else page
        if name(path) not in OF_OTHERS:
            assert path.exists(), f"{name(page)} links to {target}, which is not there"
        if anchor and path.exists():
            assert anchor in anchors(path), f"{name(page)} links to {match['target']}; {name(path)} has no such section"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_drawn_sections_are_fresh(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert drawer().drawn(text) == text, f"{name(page)} is stale: run scripts/docs"


def test_every_section_is_drawn_somewhere() -> None:
    marked = {match["name"] for page in PAGES for match in DRAWN.finditer(page.read_text(encoding="utf-8"))}
    assert marked == set(drawer().SECTIONS)


def test_a_stale_section_is_noticed() -> None:
    page = read("docs/reference/errors.md")
    assert drawer().drawn(page.replace("| `CONFLICT` |", "| `CONFLICTS` |")) == page


def test_every_reason_is_told() -> None:
    page = read("docs/reference/errors.md")
    assert [reason.name for reason in Reason if f"| `{reason.name}` |" not in page] == []


def test_every_setting_is_told() -> None:
    page = read("docs/reference/configuration.md")
    assert [setting for setting in SETTING_NAMES if f"| `{setting}` |" not in page] == []


def test_events_that_are_listed_are_still_said() -> None:
    told = drawer().LISTED.search(read("docs/reference/log-events.md"))["body"]
    assert set(told.splitlines()) <= set(drawer().events().splitlines()), "an event was renamed: people search for its name"


def test_every_counter_is_told() -> None:
    told = re.findall(r"^\| `(\w+)` \| `troth_", read("docs/reference/metrics.md"), re.MULTILINE)
    daemon = re.findall(r'^            "(\w+)": (?:engine|self)\.', read("coordinator/shard.py"), re.MULTILINE)
    assert sorted(told) == sorted([*Counters().as_dict(), *ShellCounters().as_dict(), *daemon])


def test_every_state_is_told() -> None:
    page = read("docs/explanation/protocol.md")
    for states in (CoordinatorState, ParticipantState):
        assert [state.name for state in states if f"| **{state.name}** |" not in page] == []


# ---- the command line


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below this one, with how it is called."""
    yield path, command
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from commands(child, f"{path} {child.name}")


COMMANDS = dict(commands(troth, "troth"))


def test_every_command_is_told() -> None:
    page = read("docs/reference/cli.md")
    assert [path for path in COMMANDS if f"## `{path}`\n" not in page] == []


def shown() -> Iterator[tuple[str, str]]:
    """Every call of `troth` that a page shows: the page, and the call."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        calls = re.findall(r"^(?:\$ )?(troth .+?)(?:\s+#.*)?$", "\n".join(FENCED.findall(text)), re.MULTILINE)
        calls += re.findall(r"`(troth [^`]+)`", FENCED.sub("", text))
        yield from ((name(page), call) for call in calls)


@pytest.mark.parametrize("page, call", sorted(set(shown())))
def test_commands_that_pages_show_exist(page: str, call: str) -> None:
    words = shlex.split(call.split("|")[0].split("&")[0].split(";")[0])
    if "..." in words or ">" in call:
        words = words[: words.index("...")] if "..." in words else words
    command: click.Command = troth
    for word in words[1:]:
        if isinstance(command, click.Group) and word in command.commands:
            command = command.commands[word]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert command is not troth or words in (["troth"], ["troth", "--version"]), f"{page}: there is no command {call!r}"
    if command.context_settings.get("ignore_unknown_options"):
        return
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, f"{page}: {call!r} has an option that is not there"


INSTALLED = [
    (name(page), what) for page in PAGES for what in re.findall(r"pip install '([^']+)'", page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page, what", INSTALLED)
def test_what_pages_install_is_this_clone_with_extras_that_there_are(page: str, what: str) -> None:
    """No registry has it: a name alone would bring nothing, or a stranger's package."""
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    match = re.fullmatch(r"\.\[([\w,-]+)\]", what)
    assert match and set(match[1].split(",")) <= extras.keys(), f"{page}: pip install {what!r}"


CODE = re.compile(r"^( *)```python[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
BLOCKS = [(name(page), textwrap.dedent(match[2])) for page in PAGES for match in CODE.finditer(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page, code", BLOCKS, ids=[page for page, _ in BLOCKS])
def test_code_that_pages_show_is_python_and_imports_what_there_is(page: str, code: str) -> None:
    for node in ast.walk(compile(code, page, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] not in ("participant_sdk", "troth"):
            continue
        module = importlib.import_module(node.module or "")
        missing = [one.name for one in node.names if not hasattr(module, one.name)]
        assert not missing, f"{page}: {node.module} has no {missing}"


# ---- the README


def test_readme_is_short() -> None:
    words = len(FENCED.sub("", read("README.md")).split())
    assert words >= 300 and len(read("README.md").split()) <= 800


def test_readme_has_the_two_commands() -> None:
    for script in ("./scripts/demo", "./scripts/test"):
        assert script in read("README.md")
        assert (ROOT / script).is_file()


def test_a_participant_is_15_lines() -> None:
    """Without imports and blank lines."""
    lines = [line for line in session.files(read("README.md"))["bank.py"].splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("import ", "from "))]) <= 16


def test_decisions_are_numbered_and_shaped() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert len(numbers) == len(set(numbers)), "two decisions with one number"
    for number, page in zip(numbers, pages, strict=True):
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {number}. "), page.name
        for part in ("## Context", "## Choice", "## Consequences"):
            assert part in text, f"{page.name} lacks {part}"


# ---- what strangers found


STRANGERS = sorted((ROOT / "docs" / "explanation").glob("found-by-strangers*.md"))
DEFINED = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
ADDED = re.compile(r'^_?\w+\(\s*"([^"]+)"|^    (?:SourceMutant|Mutant|Found)\(\s*"([^"]+)"|^    \("([^"]+)", "', re.MULTILINE)


def test_tests_and_mutants_that_strangers_are_answered_with_are_there() -> None:
    tests = {test for path in (ROOT / "tests").rglob("test_*.py") for test in DEFINED.findall(path.read_text(encoding="utf-8"))}
    files = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    texts = [text for path, text in files.items() if "mutants" in path.name or "Mutant(" in text]
    mutants = {name for text in texts for found in ADDED.findall(text) for name in found}
    assert STRANGERS and len(mutants) > 100
    for page in STRANGERS:
        text = " ".join(page.read_text(encoding="utf-8").split())
        named = set(re.findall(r"`(test_\w+)`", text))
        assert named - tests == set(), f"{page.name} names tests that are not there"
        told = set(re.findall(r'mutants? "([^"]+)"', text))
        assert told - mutants == set(), f"{page.name} names mutants that are not there"
        for path in re.findall(r"`((?:tests|tla|scripts)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
