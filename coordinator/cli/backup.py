"""`troth backup` and `troth restore`: logs that are files, copied while their processes run, and put back while they do not."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from coordinator.backup import manifest, restoring
from coordinator.backup.manifest import IDENTITY_FILE, Backup
from coordinator.backup.restoring import COORDINATOR, Step
from coordinator.cli import render
from coordinator.cli.asking import confirm
from coordinator.cli.command import Command, json_option
from coordinator.cli.failure import USAGE, Failure
from coordinator.drift import evidence
from coordinator.drift.evidence import Branch, Fate
from troth.moments import utc

BACKUP_EXAMPLES = """
troth backup var/coordinator --to /backup/c1-0412                 # of a coordinator, while it runs
troth backup var/payments --to /backup/payments-0412              # of a participant: its database and its identity.db
troth backup shop.db var/payments/identity.db --to /backup/p      # where they are not in one directory
"""
RESTORE_EXAMPLES = """
troth restore /backup/c1-0412                                     # to where it came from
troth restore /backup/c1-0412 --to var/coordinator --yes
troth restore /backup/c1-0412 --peer /mnt/payments/bank.db        # tell what this participant knows better
"""
LISTED_MAX = 20
"""Transactions that are named one by one."""
BRANCHES = ("participant", "resource")
"""The roles of logs that hold branches."""
SERVERS = (
    "a database's own backup is the way: it holds the service's data, the log and the branches together. It must be physical and"
    " have the prepared transactions (pg_basebackup with its WAL, or mariadb-backup without --rollback-xa); dumps leave them out"
)


@click.command(cls=Command, examples=BACKUP_EXAMPLES)
@click.argument("sources", nargs=-1, required=True, metavar="DIRECTORY|FILE...")
@click.option("--to", "directory", required=True, type=click.Path(path_type=Path), metavar="DIRECTORY", help="A new directory.")
@json_option
def backup(sources: Sequence[str], directory: Path, as_json: bool) -> None:
    """Copy the logs of a process while it runs: consistent, verified, and whole or not at all.

    Name the data directory of a coordinator or of a participant, or the files themselves.
    """
    paths = [_local(source) for source in sources]
    made, left_out = manifest.make(paths, directory)
    if as_json:
        return render.write_json({**_document(made), "left_out": [str(path) for path in left_out]})
    rows = ((one.file, one.role, one.name, one.log_id, one.last_seq, one.bytes) for one in made.entries)
    render.write_table(("FILE", "OF", "NAME", "LOG", "POSITION", "BYTES"), rows)
    for path in left_out:
        render.tell(f"{path} holds no log of Troth, and was left out")


def _local(source: str) -> Path:
    if "://" in source:
        raise Failure(USAGE, "CONFIG", f"{source.partition('://')[0]}://... is a database: {SERVERS}",
                      "docs/how-to/back-up-and-restore.md has the commands.")  # fmt: skip
    path = Path(source)
    if not path.exists():
        raise Failure(USAGE, "USAGE", f"{source} is not there", "Name a data directory, or the files themselves.")
    return path


def _document(made: Backup) -> dict[str, Any]:
    return {
        "directory": str(made.directory), "made_at_ms": made.made_at_ms, "software": made.software,
        "files": [asdict(one) for one in made.entries],
    }  # fmt: skip


@click.command(cls=Command, examples=RESTORE_EXAMPLES)
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--to", "target", type=click.Path(path_type=Path), metavar="DIRECTORY", help="Default: where each file came from.")
@click.option(
    "--peer", "peers", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="A participant's log: tell what it knows that the coordinator's backup does not. Several times.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def restore(directory: Path, target: Path | None, peers: Sequence[Path], yes: bool, as_json: bool) -> None:
    """Put a backup back, and say first what that means. What is in use, or has as much as the backup, is never replaced."""
    found = manifest.read(directory)
    steps = restoring.plan(found, target)
    told, better = list(_meaning(found, steps)), list(_known_better(found, [evidence.read_file(path) for path in peers]))
    confirm(f"restore {directory}:", (*told, *better), yes)
    aside = restoring.carry_out(found, steps)
    commands = list(_what_follows(steps))
    if as_json:
        return render.write_json({
            **_document(found), "meaning": [*told, *better], "moved_aside": [str(path) for path in aside], "next": commands,
            "restored": [str(step.target) for step in steps if step.there != "kept"],
        })  # fmt: skip
    for step in steps:
        kept = "kept the one that is there" if step.there == "kept" else "restored"
        render.say(f"{step.target}: {kept}")
    for path in aside:
        render.say(f"{path}: what was there")
    render.say("Now:")
    for line in commands:
        render.say(f"  {line}")


def _meaning(found: Backup, steps: Sequence[Step]) -> Iterator[str]:
    """What a restore means, in words."""
    yield f"it is from {utc(found.made_at_ms)}, {_ago(restoring.age_seconds(found))} ago"
    for step in steps:
        entry = step.entry
        if step.there == "kept":
            yield f"{step.target} stays as it is: it is newer, and an index only"
            continue
        if step.there in ("older", "damaged"):
            yield f"{step.target} is {step.there}: it is moved aside, and not deleted"
        if entry.role == COORDINATOR:
            yield from _of_coordinator(found, step)
        elif entry.role in BRANCHES:
            yield f"the {entry.role} log {entry.log_id} of {entry.name} will be at position {entry.last_seq}"
    if any(step.entry.role == "resource" for step in steps):
        yield "what the service has committed since is not in it: it is asked when it is let in, and what it lacks is listed"


def _of_coordinator(found: Backup, step: Step) -> Iterator[str]:
    decided: dict[str, bool] = {}
    epoch = 0
    for record in restoring.read(found.directory / step.entry.file).records:
        body: Any = record.message
        if body.HasField("epoch_started"):
            epoch = max(epoch, body.epoch_started.epoch)
        elif body.HasField("decided"):
            decided[body.decided.transaction_id] = bool(body.decided.owing)
        elif body.HasField("ended"):
            decided[body.ended.transaction_id] = False
    owing = sum(decided.values())
    entry = step.entry
    yield f"the log {entry.log_id} of the coordinator {entry.name} will be at position {entry.last_seq}, epoch {epoch}"
    yield f"{owing} of its commits wait for acknowledgements, and go on by themselves"
    yield "what it has decided since is not in it: whoever has heard of that is found out at its start, and keeps it from serving"
    if step.lost:
        yield f"{len(step.lost)} commits are in what is moved aside and not in the backup: {_named(step.lost)}"


def _known_better(found: Backup, peers: Sequence[evidence.Evidence]) -> Iterator[str]:
    """What participants hold of transactions that the coordinator's backup does not know."""
    for entry in found.entries if peers else ():
        if entry.role != COORDINATOR:
            continue
        records = restoring.read(found.directory / entry.file).records
        known = {one.transaction_id for one in map(_body, records) if hasattr(one, "transaction_id")}
        unknown = evidence.unknown_to(known, entry.name, peers)
        newest = list(unknown.items())[::-1]
        newest.sort(key=lambda one: all(branch.fate is not Fate.PREPARED for branch in one[1]))  # what is in doubt first
        for transaction, branches in newest[:LISTED_MAX]:
            yield f"the backup does not know {transaction}: {_held(branches)}"
        if len(unknown) > LISTED_MAX:
            yield f"... and {len(unknown) - LISTED_MAX} more"
        if not unknown:
            yield f"these participants hold nothing of {entry.name} that the backup does not know"


def _held(branches: Sequence[Branch]) -> str:
    said = ", ".join(f"{one.fate.value} in {one.participant}" for one in branches)
    if any(one.fate is Fate.COMMITTED and not one.forced for one in branches):
        return f"{said}; that proves COMMIT to whoever is in doubt, after accept-loss"
    return f"{said}; only its other participants, if anybody, can prove how it ended"


def _body(record: Any) -> Any:
    return getattr(record.message, record.message.WhichOneof("kind") or "", None)


def _named(transactions: Sequence[str]) -> str:
    more = f" and {len(transactions) - LISTED_MAX} more" if len(transactions) > LISTED_MAX else ""
    return ", ".join(transactions[:LISTED_MAX]) + more


def _ago(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def _what_follows(steps: Sequence[Step]) -> Iterator[str]:
    """The commands that follow, in order, each with what it is for."""
    why = '--why "restored from a backup"'
    coordinators = [step for step in steps if step.entry.role == COORDINATOR]
    for step in coordinators:
        where = shlex.quote(str(step.target.parent))
        yield f"troth serve --data-directory {where} --name {step.entry.name}    # while all participants run: each is heard first"
        yield "troth participants    # who has heard what this log does not say; if nobody has, nothing was lost"
        yield f"troth participants accept-loss {why}    # only then, and only if the right log is nowhere"
        yield "troth txn list --state PROVING    # what peers are asked about; `troth txn explain ID` for each that stays"
    if coordinators:
        return
    logs = {step.entry.name: step.entry for step in steps if step.entry.role in BRANCHES and step.entry.file != IDENTITY_FILE}
    for name, entry in sorted(logs.items()):
        yield f"start {name}    # it is refused as LOG_WENT_BACK, if it had done anything since"
        yield f"troth participants replace {name} --log-id {entry.log_id} {why}    # only then; and start it again"
        yield f"troth txn list --state HEURISTIC --participant {name}    # what it lacks: do it again by hand, then forget each"
