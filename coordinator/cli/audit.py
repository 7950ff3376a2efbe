"""`troth audit`: what was decided about people and identities, and whether anybody has touched it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli import render
from coordinator.cli.command import Group, json_option
from coordinator.cli.failure import OK, REFUSED
from coordinator.identity import audit as audit_log
from coordinator.identity.chain import Verdict, Verifier
from coordinator.identity.chain import verify as verify_chain
from coordinator.identity.collected import Place, Placed, about, collect, entries_of, merged
from troth.errors import ConfigError
from troth.identity.tls import content_of

if TYPE_CHECKING:
    _Text = click.ParamType[tuple[str, str]]
else:
    _Text = click.ParamType

EXAMPLES = """
troth audit key /etc/troth/audit.key                            # once: the key that signs checkpoints
troth audit show --who spiffe://example.org/people/ada
troth audit checkpoint > /mnt/elsewhere/checkpoint.json         # now and then: it proves that nothing was cut
troth audit verify --key /etc/troth/audit.key.pub --checkpoint /mnt/elsewhere/checkpoint.json
troth audit export --since 2026-11-01T00:00:00Z > november.jsonl
troth audit show --directory a=collected/a --directory b=collected/b --about c1.7.9f2c4e1a.3.42   # of all nodes of a cell
"""


@click.group(cls=Group, examples=EXAMPLES)
def audit() -> None:
    """Show, verify or export the audit log of a coordinator, on its machine."""


class OfNode(_Text):
    """`VALUE`, or `NODE=VALUE` where it is one node's; what has a slash before the `=` is a path."""

    envvar_list_splitter = os.pathsep

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The node, empty for none, and the value."""
        if isinstance(value, tuple):
            return value
        node, told, rest = str(value).partition("=")
        return (node, rest) if told and node and "/" not in node else ("", str(value))


DIRECTORY = Path("var/coordinator/audit")


def _directory(function: Any) -> Any:
    return click.option(
        "--directory", type=click.Path(file_okay=False, path_type=Path), default=DIRECTORY, show_default=True,
        envvar="TROTH_AUDIT_DIRECTORY", help="The audit log. Default: $TROTH_AUDIT_DIRECTORY, else",
    )(function)  # fmt: skip


def _directories(function: Any) -> Any:
    return click.option(
        "--directory", "directories", type=OfNode("directory"), multiple=True, metavar="[NODE=]DIRECTORY",
        default=(str(DIRECTORY),), show_default=True, envvar="TROTH_AUDIT_DIRECTORY",
        help="The audit log; several times for those of a cell's nodes. Default: $TROTH_AUDIT_DIRECTORY, else",
    )(function)  # fmt: skip


def _places(directories: Sequence[tuple[str, str]]) -> list[Place]:
    return [Place(node, Path(directory)) for node, directory in directories]


def _collected(directories: Sequence[tuple[str, str]]) -> dict[str, Path]:
    """The logs by node. Raises `ConfigError` where the collection is not what it is said to be: half of it would mislead."""
    logs, problems = collect(_places(directories))
    if problems:
        hint = "Name the directory: `audit` in the data directory by default. `troth audit verify` tells all that is wrong."
        raise ConfigError("; ".join(problems), hint=hint)
    return logs


@audit.command(
    examples="troth audit show --who token:ada --json\n"
    "troth audit show --directory a=collected/a --directory b=collected/b --about c1.7.9f2c4e1a.3.42"
)
@_directories
@click.option("--who", "name", help="Only of this identity.")
@click.option("--kind", help="Only of this kind: refused, asked, done, participant, policy, ...")
@click.option("--about", "what", help="Only about this transaction, participant, request or review, with what is tied to it.")
@click.option("--since", default="", metavar="TIME", help="Only from this time on, such as 2026-11-01T00:00:00Z.")
@json_option
def show(
    directories: tuple[tuple[str, str], ...], name: str | None, kind: str | None, what: str | None, since: str, as_json: bool
) -> None:  # fmt: skip
    """Show entries, oldest first; of several logs by time, each with its node."""
    logs = _collected(directories)
    told = about(merged(logs), what) if what else merged(logs)
    wanted = (one for one in told if name in (None, one.entry.get("who")) and kind in (None, one.entry.get("kind")))
    found = [one for one in wanted if str(one.entry.get("at", "")) >= since]
    several = len(logs) > 1
    if as_json:
        render.write_json({"entries": [_document(one, several) for one in found]})
        return
    columns = ("SEQ", "AT", "KIND", "WHO", "WHAT", "WHY", "REQUEST", "REVIEW")
    render.write_table(("NODE", *columns) if several else columns, (_row(one, several) for one in found))


def _row(one: Placed, several: bool) -> tuple[Any, ...]:
    entry = one.entry
    cells = (entry.get("seq"), entry.get("at"), entry.get("kind"), entry.get("who", ""), _what(entry), entry.get("why", ""))
    row = (*cells, entry.get("request", ""), entry.get("review", ""))
    return (one.node, *row) if several else row


def _document(one: Placed, several: bool) -> dict[str, Any]:
    return {"node": one.node, **one.entry} if several else dict(one.entry)


def _what(entry: Mapping[str, Any]) -> str:
    change = f"{entry['before']} -> {entry['after']}" if entry.get("before") and entry.get("after") else ""
    told = (entry.get("action", ""), entry.get("order", ""), entry.get("object", ""), change, entry.get("result", ""))
    return " ".join(str(one) for one in told if one)


@audit.command(
    examples="troth audit verify --key audit.key.pub --checkpoint checkpoint.json\n"
    "troth audit verify --directory a=collected/a --directory b=collected/b --key audit.key.pub"
    " --checkpoint kept/a.json --checkpoint kept/b.json"
)
@_directories
@click.option("--key", "keys", type=OfNode("file"), multiple=True, metavar="[NODE=]FILE", help="The public key of its checkpoints.")
@click.option(
    "--checkpoint", "kept", type=click.Path(dir_okay=False), multiple=True,
    help="The last checkpoint that was kept elsewhere; several times, one of each node.",
)  # fmt: skip
@click.option(
    "--first", "firsts", type=OfNode("integer"), multiple=True, metavar="[NODE=]INTEGER", default=("1",), show_default=True,
    help="Its first entry, where older files were put away.",
)  # fmt: skip
@json_option
def verify(
    directories: tuple[tuple[str, str], ...], keys: tuple[tuple[str, str], ...], kept: tuple[str, ...],
    firsts: tuple[tuple[str, str], ...], as_json: bool,
) -> int:  # fmt: skip
    """Find every entry that was changed, dropped, put elsewhere, or cut off. Exit 1 when there is one.

    Of several logs each is a chain by itself. One that is missing, or another node's, is told too: name the nodes, or give a
    checkpoint of each.
    """
    logs, problems = collect(_places(directories))
    several = len(directories) > 1 or len(kept) > 1
    if problems and not several:
        _collected(directories)
    checkpoints = _checkpoints(kept, logs, several, problems)
    verdicts = {}
    for node, directory in logs.items():
        known = checkpoints.get(node)
        verdicts[node] = verify_chain(audit_log.lines_of(directory), _verifier(_of(keys, node)), known, _first(_of(firsts, node)))
        problems += [f"{node}: {one}" if several else one for one in verdicts[node].problems]
    if as_json:
        told = {node: _told(verdict) for node, verdict in verdicts.items()}
        render.write_json({"nodes": told, "problems": problems} if several else next(iter(told.values())))
    else:
        _tell(verdicts, problems, several)
    return REFUSED if problems else OK


def _told(verdict: Verdict) -> dict[str, Any]:
    return {
        "entries": verdict.entries, "first": verdict.first, "last": verdict.last, "checkpoints": verdict.checkpoints,
        "signed_through": verdict.signed_through, "problems": verdict.problems,
    }  # fmt: skip


def _tell(verdicts: Mapping[str, Verdict], problems: Sequence[str], several: bool) -> None:
    for problem in problems:
        render.say(problem)
    for node, verdict in verdicts.items():
        signed = f"signed through {verdict.signed_through}" if verdict.signed_through else "no checkpoint was verified"
        words = f"{verdict.entries} entries, {verdict.first} to {verdict.last}; {signed}"
        render.tell(f"{node}: {words}" if several else words)


def _of(told: Sequence[tuple[str, str]], node: str) -> str:
    """What is said for a node, else for all."""
    return dict(told).get(node, dict(told).get("", ""))


def _verifier(path: str) -> Verifier | None:
    if not path:
        return None
    from coordinator.identity.audit_keys import read_public

    return read_public(path)


def _first(text: str) -> int:
    try:
        return int(text or "1")
    except ValueError:
        raise click.UsageError(f"--first wants a number, and not {text!r}") from None


def _checkpoints(
    kept: Sequence[str], logs: Mapping[str, Path], several: bool, problems: list[str]
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The checkpoints that were kept, by node; each says itself whose it is. What is missing for one is added to the problems."""
    checkpoints: dict[str, dict[str, Any]] = {}
    for path in kept:
        entry = _kept(path)
        node = str(entry.get("chain")) if several else next(iter(logs))
        if node not in logs:
            problems.append(f"{node}: its audit log is missing: {path} is a checkpoint of it, at entry {entry.get('seq')}")
        elif entry.get("seq", 0) >= checkpoints.get(node, entry).get("seq", 0):
            checkpoints[node] = entry
    return checkpoints


def _kept(path: str) -> dict[str, Any]:
    try:
        entry = json.loads(content_of(path))
    except ValueError:
        entry = None
    if not audit_log.is_checkpoint(entry):
        raise ConfigError(f"{path} is no checkpoint", hint="`troth audit checkpoint` writes one.")
    return dict(entry)


@audit.command(examples="troth audit checkpoint > checkpoint.json")
@_directory
def checkpoint(directory: Path) -> None:
    """Write the last checkpoint, to be kept where whoever can write the log cannot write."""
    last = next((one for one in reversed(list(entries_of(directory))) if audit_log.is_checkpoint(one)), None)
    if last is None:
        raise ConfigError(f"{directory} has no checkpoint", hint="Set audit_key: `troth audit key FILE` makes one.")
    render.write_part(json.dumps(last) + "\n")


@audit.command(
    examples="troth audit export --since 2026-11-01T00:00:00Z > november.jsonl\n"
    "troth audit export --directory a=collected/a --directory b=collected/b > cell.jsonl"
)
@_directories
@click.option("--since", default="", metavar="TIME", help="From this time on, such as 2026-11-01T00:00:00Z.")
def export(directories: tuple[tuple[str, str], ...], since: str) -> None:
    """Write entries as they are, one JSON document a line; of several logs by time, each with its `node` before the rest."""
    logs = _collected(directories)
    if len(logs) == 1:
        _export_one(next(iter(logs.values())), since)
        return
    for one in merged(logs):
        if str(one.entry.get("at", "")) >= since:
            render.write_part(json.dumps(_document(one, several=True), separators=(",", ":")) + "\n")


def _export_one(directory: Path, since: str) -> None:
    """Byte by byte, so that what is exported can be verified as the log can."""
    for line in audit_log.lines_of(directory):
        if not since or str(json.loads(line).get("at", "")) >= since:
            render.write_part(line.decode())


@audit.command(examples="troth audit key /etc/troth/audit.key")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def key(file: Path) -> None:
    """Make the key that signs checkpoints, and FILE.pub that verifies them."""
    from coordinator.identity.audit_keys import make

    render.say(f"made {file} for the setting audit_key, and {make(file)} to verify with")
