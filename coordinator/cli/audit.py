"""`troth audit`: what was decided about people and identities, and whether anybody has touched it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from coordinator.cli import render
from coordinator.cli.command import Group, json_option
from coordinator.cli.failure import OK, REFUSED
from coordinator.identity import audit as audit_log
from coordinator.identity.chain import verify as verify_chain
from troth.errors import ConfigError
from troth.identity.tls import content_of

EXAMPLES = """
troth audit key /etc/troth/audit.key                            # once: the key that signs checkpoints
troth audit show --who spiffe://example.org/people/ada
troth audit checkpoint > /mnt/elsewhere/checkpoint.json         # now and then: it proves that nothing was cut
troth audit verify --key /etc/troth/audit.key.pub --checkpoint /mnt/elsewhere/checkpoint.json
troth audit export --since 2026-11-01T00:00:00Z > november.jsonl
"""


@click.group(cls=Group, examples=EXAMPLES)
def audit() -> None:
    """Show, verify or export the audit log of a coordinator, on its machine."""


def _directory(function: Any) -> Any:
    return click.option(
        "--directory", type=click.Path(file_okay=False, path_type=Path), default=Path("var/coordinator/audit"), show_default=True,
        envvar="TROTH_AUDIT_DIRECTORY", help="The audit log. Default: $TROTH_AUDIT_DIRECTORY, else",
    )(function)  # fmt: skip


def _entries(directory: Path) -> Iterator[dict[str, Any]]:
    for line in audit_log.lines_of(directory):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # `verify` says what is no entry
        if isinstance(entry, dict):
            yield entry


@audit.command(examples="troth audit show --who token:ada --json")
@_directory
@click.option("--who", "name", help="Only of this identity.")
@click.option("--kind", help="Only of this kind: refused, asked, done, participant, policy, ...")
@click.option("--since", default="", metavar="TIME", help="Only from this time on, such as 2026-11-01T00:00:00Z.")
@json_option
def show(directory: Path, name: str | None, kind: str | None, since: str, as_json: bool) -> None:
    """Show entries, oldest first."""
    wanted = (one for one in _entries(directory) if (name in (None, one.get("who"))) and (kind in (None, one.get("kind"))))
    found = [one for one in wanted if str(one.get("at", "")) >= since]
    if as_json:
        render.write_json({"entries": found})
        return
    rows = ((one.get("seq"), one.get("at"), one.get("kind"), one.get("who", ""), _what(one), one.get("why", "")) for one in found)
    render.write_table(("SEQ", "AT", "KIND", "WHO", "WHAT", "WHY"), rows)


def _what(entry: dict[str, Any]) -> str:
    told = (entry.get("action", ""), entry.get("object", ""), entry.get("result", ""))
    return " ".join(str(one) for one in told if one)


@audit.command(examples="troth audit verify --key audit.key.pub --checkpoint checkpoint.json")
@_directory
@click.option("--key", type=click.Path(dir_okay=False), help="The public key of its checkpoints.")
@click.option("--checkpoint", "kept", type=click.Path(dir_okay=False), help="The last checkpoint that was kept elsewhere.")
@click.option("--first", default=1, show_default=True, help="Its first entry, where older files were put away.")
@json_option
def verify(directory: Path, key: str | None, kept: str | None, first: int, as_json: bool) -> int:
    """Find every entry that was changed, dropped, put elsewhere, or cut off. Exit 1 when there is one."""
    verifier = None
    if key:
        from coordinator.identity.audit_keys import read_public

        verifier = read_public(key)
    verdict = verify_chain(audit_log.lines_of(directory), verifier, _kept(kept) if kept else None, first)
    if as_json:
        render.write_json({
            "entries": verdict.entries, "first": verdict.first, "last": verdict.last, "checkpoints": verdict.checkpoints,
            "signed_through": verdict.signed_through, "problems": verdict.problems,
        })  # fmt: skip
    else:
        for problem in verdict.problems:
            render.say(problem)
        signed = f"signed through {verdict.signed_through}" if verdict.signed_through else "no checkpoint was verified"
        render.tell(f"{verdict.entries} entries, {verdict.first} to {verdict.last}; {signed}")
    return REFUSED if verdict.problems else OK


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
    last = next((one for one in reversed(list(_entries(directory))) if audit_log.is_checkpoint(one)), None)
    if last is None:
        raise ConfigError(f"{directory} has no checkpoint", hint="Set audit_key: `troth audit key FILE` makes one.")
    render.write_part(json.dumps(last) + "\n")


@audit.command(examples="troth audit export --since 2026-11-01T00:00:00Z > november.jsonl")
@_directory
@click.option("--since", default="", metavar="TIME", help="From this time on, such as 2026-11-01T00:00:00Z.")
def export(directory: Path, since: str) -> None:
    """Write entries as they are, one JSON document a line."""
    for line in audit_log.lines_of(directory):
        if not since or str(json.loads(line).get("at", "")) >= since:
            render.write_part(line.decode())


@audit.command(examples="troth audit key /etc/troth/audit.key")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def key(file: Path) -> None:
    """Make the key that signs checkpoints, and FILE.pub that verifies them."""
    from coordinator.identity.audit_keys import make

    render.say(f"made {file} for the setting audit_key, and {make(file)} to verify with")
