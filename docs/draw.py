"""Draws the parts of the documentation that the code knows better: state tables, commands, settings, errors, records.

    python docs/draw.py            rewrite every drawn section
    python docs/draw.py --check    exit 1 when one is stale, and name it

A drawn section stands between `<!-- drawn: NAME -->` and `<!-- end of NAME -->`; `SECTIONS` says who draws which.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import click  # noqa: E402 - the root of the clone must be on the path first

from coordinator import attention  # noqa: E402 - as above
from coordinator.cli.main import troth  # noqa: E402 - as above
from coordinator.config import SETTING_NAMES  # noqa: E402 - as above
from coordinator.core import model, transitions  # noqa: E402 - as above
from coordinator.core.settings import CoreSettings  # noqa: E402 - as above
from coordinator.metrics import families, objective  # noqa: E402 - as above
from coordinator.reloading import RELOADABLE  # noqa: E402 - as above
from coordinator.shell_settings import RANGES, ShellSettings  # noqa: E402 - as above
from participant_sdk import limits as sdk_limits  # noqa: E402 - as above
from participant_sdk import metrics as sdk_metrics  # noqa: E402 - as above
from participant_sdk.core import branches  # noqa: E402 - as above
from participant_sdk.core import transitions as participant_transitions  # noqa: E402 - as above
from troth.errors import Reason  # noqa: E402 - as above

MARKED = re.compile(r"<!-- drawn: (?P<name>[a-z-]+) -->\n(?P<body>.*?)<!-- end of (?P=name) -->", re.DOTALL)


LISTED = re.compile(r"<!-- listed: events -->\n(?P<body>.*?)<!-- end of events -->", re.DOTALL)
"""Events are stable: those that are listed must be there, and new ones come into the list when it is drawn the next time."""


# ---- words and tables


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def said_of_members(owner: type) -> dict[str, str]:
    """What stands below each member of a class: the docstrings that Python itself drops."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(owner)).body if isinstance(node, ast.ClassDef))
    said: dict[str, str] = {}
    for statement, after in pairwise(body):
        name = _assigned(statement)
        if name and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            said[name] = inspect.cleandoc(str(after.value.value))
    return said


def _assigned(statement: ast.stmt) -> str:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def first_line(function: Callable[..., object]) -> str:
    """What a handler does."""
    said = inspect.getdoc(function)
    assert said, f"{function.__module__}.{function.__name__} does not say what it does"
    return said.splitlines()[0]


# ---- the state tables


def states(owner: type[Enum]) -> str:
    """Every state with its meaning."""
    said = said_of_members(owner)
    return table(("state", "meaning"), ((f"**{state.name}**", said[state.name]) for state in owner))


def transition_table(rows: Iterable[tuple[str, Sequence[tuple[str, Callable[..., object]]]]]) -> str:
    """One table a state: what comes, and what is done."""
    parts = []
    for state, entries in rows:
        body = table(("input", "what happens", "handler"), ((what, first_line(h), _handler(h)) for what, h in entries))
        parts.append(f"\n**{state}**\n\n{body}")
    return "".join(parts)


def _handler(function: Callable[..., object]) -> str:
    return f"`{function.__module__.rpartition('.')[2]}.{function.__name__}`"


def coordinator_table() -> str:
    """The coordinator's transitions; what ends a transaction has none."""
    table_ = transitions.TABLE
    return transition_table(
        (state.name, [(what.value, handler) for (at, what), handler in table_.items() if at is state])
        for state in model.State
        if any(at is state for at, _ in table_)
    )


def participant_table() -> str:
    """The participant's transitions."""
    return transition_table(
        (state.name, [(kind.name.lower().replace("_", " "), handler) for kind, handler in row.items()])
        for state, row in participant_transitions.ROWS.items()
    )


def theory() -> str:
    """The coordinator's moves in short, as its table's file has them."""
    text = inspect.getdoc(transitions) or ""
    block = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    return "```text\n" + "\n".join(line.rstrip() for line in block) + "\n```\n"


# ---- the command line


def cli() -> str:
    """Every command, with its options."""
    return "".join(_command(command, ("troth",)) for command in [troth])


def _command(command: click.Command, path: tuple[str, ...]) -> str:
    words = f"\n## `{' '.join(path)}`\n\n{inspect.cleandoc(command.help or '')}\n"
    examples = getattr(command, "examples", "").strip()
    if examples:
        words += "\n```sh\n" + "\n".join(line.strip() for line in examples.splitlines()) + "\n```\n"
    words += _parameters(command, path)
    if isinstance(command, click.Group):
        words += "".join(_command(command.commands[name], (*path, name)) for name in sorted(command.commands))
    return words


def _parameters(command: click.Command, path: tuple[str, ...]) -> str:
    with click.Context(command, info_name=path[-1]) as context:
        options = [one.get_help_record(context) for one in command.params if isinstance(one, click.Option)]
        arguments = [one.make_metavar(context) for one in command.params if isinstance(one, click.Argument)]
    words = f"\nArguments: {' '.join(f'`{one}`' for one in arguments)}\n" if arguments else ""
    if any(options):
        words += "\n" + table(("option", "meaning"), ((f"`{one[0]}`", one[1]) for one in options if one))
    return words


# ---- settings, limits, errors, records


def configuration() -> str:
    """Every setting of the daemon."""
    said = said_of_members(ShellSettings) | said_of_members(CoreSettings)
    defaults = {one.name: one.default for owner in (ShellSettings, CoreSettings) for one in fields(owner)}
    return table(
        ("setting", "default", "unit", "range", "change", "meaning"),
        ((f"`{name}`", _default(name, defaults[name]), *_range(name), _change(name), said[name]) for name in SETTING_NAMES),
    )


def _change(name: str) -> str:
    return "reload" if name in RELOADABLE else "restart"


def _default(name: str, value: Any) -> str:
    return f"by memory, at least `{_plain(value)}`" if name == "keys_max" else f"`{_plain(value)}`"


def _range(name: str) -> tuple[str, str]:
    known = RANGES.get(name)
    return (known.unit, f"{known.lowest:.15g} to {known.highest:.15g}") if known else ("", "")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def participant_limits() -> str:
    """The limits of `Participant(limits=Limits(...))`."""
    said = said_of_members(sdk_limits.Limits)
    rows = ((f"`{one.name}`", f"`{_plain(one.default)}`", said[one.name]) for one in fields(sdk_limits.Limits))
    return table(("limit", "default", "meaning"), rows)


def errors() -> str:
    """Every reason."""
    return table(
        ("reason", "gRPC code", "retryable", "what to do"),
        ((f"`{one.name}`", one.grpc_code, "yes" if one.retryable else "no", one.hint) for one in Reason),
    )


def records(message: str) -> str:
    """The kinds of record of one side, as record.proto describes them."""
    text = (ROOT / "protos" / "troth" / "v1" / "record.proto").read_text(encoding="utf-8")
    block = text[text.index(f"message {message} {{") :]
    block = block[block.index("oneof kind {") : block.index("\n  }\n")]
    found = re.findall(r"// (?P<said>.+)\n\s+(?P<type>\w+) (?P<name>\w+) = \d+;", block)
    return table(("record", "meaning"), ((f"`{name}`", said) for said, _, name in found))


# ---- what the log says


LEVELS = ("debug", "info", "warning", "error", "critical")


def events() -> str:
    """Every event that is written somewhere in the packages, by its level; one that is put together at run time is not."""
    found: set[tuple[int, str, str]] = set()
    for package in ("coordinator", "participant_sdk", "troth"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                found.update(_events_of(node, package))
    names = {"coordinator": "coordinator", "participant_sdk": "service", "troth": "both"}
    rows = ((LEVELS[level], event, names[package]) for level, event, package in sorted(found, reverse=True))
    return table(("level", "event", "said by"), rows)


def _events_of(node: ast.AST, package: str) -> Iterable[tuple[int, str, str]]:
    if not isinstance(node, ast.Call) or not node.args:
        return
    says, event = node.func, node.args[0]
    if isinstance(says, ast.Attribute) and says.attr == "tell" and len(node.args) > 1:  # through `troth.quiet`
        says, event = node.args[0], node.args[1]
    of_log = isinstance(says, ast.Attribute) and isinstance(says.value, ast.Name) and says.value.id in ("log", "_log")
    if isinstance(says, ast.Attribute) and of_log and says.attr in LEVELS and isinstance(event, ast.Constant):
        yield LEVELS.index(says.attr), str(event.value), package
    if isinstance(says, ast.Attribute) and says.attr in ("_force", "_do") and isinstance(event, ast.Constant):
        yield LEVELS.index("warning"), str(event.value), package  # what an operator orders: `coordinator/services/admin.py`


# ---- metrics


def counters() -> str:
    """What is counted, by both names."""
    rows = [(f"`{name}`", f"`troth_{name}_total`", says) for name, says in families.COUNTERS.items()]
    rows += [(f"`{name}`", f"`troth_{name}` (now)", says) for name, says in families.GAUGES.items()]
    return table(("status", "Prometheus", "counts"), rows)


def metric_families(known: Iterable[Any], *, labels: bool) -> str:
    """Metrics with what they say."""
    head = ("metric", "kind", "labels", "says") if labels else ("metric", "kind", "says")
    rows = ((f"`{one.name}`", one.kind, *([", ".join(one.labels)] if labels else []), one.says) for one in known)
    return table(head, rows)


def reasons(known: frozenset[Reason]) -> str:
    """Some of the reasons, in their order."""
    return ", ".join(f"`{one.name}`" for one in Reason if one in known) + "\n"


def named(meanings: dict[str, str]) -> str:
    """Values of a label with what they mean."""
    return table(("value", "means"), ((f"`{name}`", says) for name, says in meanings.items()))


SECTIONS: dict[str, Callable[[], str]] = {
    "coordinator-states": lambda: states(model.State),
    "coordinator-moves": theory,
    "coordinator-table": coordinator_table,
    "participant-states": lambda: states(branches.State),
    "participant-table": participant_table,
    "cli": cli,
    "configuration": configuration,
    "counters": counters,
    "families": lambda: metric_families(families.FAMILIES, labels=True),
    "phases": lambda: named(families.PHASES),
    "objective": lambda: reasons(objective.CALLERS),
    "attention": lambda: named(attention.KINDS),
    "sdk-families": lambda: metric_families(sdk_metrics.FAMILIES, labels=False),
    "participant-limits": participant_limits,
    "errors": errors,
    "coordinator-records": lambda: records("CoordinatorRecord"),
    "participant-records": lambda: records("ParticipantRecord"),
}


# ---- pages


def pages() -> list[Path]:
    """Every page of the documentation."""
    return sorted((ROOT / "docs").rglob("*.md"))


def drawn(text: str, *, rewrites: bool = False) -> str:
    """The text of a page with every drawn section as it should be. Raises `KeyError` for a section that nobody draws."""
    text = LISTED.sub(lambda m: f"<!-- listed: events -->\n{events()}<!-- end of events -->", text) if rewrites else text
    return MARKED.sub(lambda m: f"<!-- drawn: {m['name']} -->\n{SECTIONS[m['name']]()}<!-- end of {m['name']} -->", text)


def main(arguments: Sequence[str]) -> int:
    """Rewrite, or check; returns the exit status."""
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        fresh = drawn(text, rewrites="--check" not in arguments)
        if fresh != text:
            stale.append(page.relative_to(ROOT).as_posix())
            if "--check" not in arguments:
                page.write_text(fresh, encoding="utf-8")
    for name in stale:
        sys.stderr.write(f"{'stale' if '--check' in arguments else 'rewritten'}: {name}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
