"""`troth log`: look into the log of a process that does not run, and force what it holds.

Works on the files of either side: a coordinator's log, a participant's, or the author's database that holds its own branches.
"""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from google.protobuf.message import Message

from coordinator.cli import offline_resolve, render
from coordinator.cli.asking import confirm
from coordinator.cli.command import Group, json_option, why_options
from coordinator.cli.failure import LOG, USAGE, Failure
from coordinator.cli.remote import who_am_i
from coordinator.drift import evidence
from troth.ids import NAME_PATTERN
from troth.log import offline, sealing
from troth.payload_keys import keyring
from troth.v1 import record_pb2

LOG_ID = re.compile(r"[0-9a-f]{32}\Z")

EXAMPLES = """
troth log verify var/c1/coordinator.db               # sound? exit 3 with what is wrong
troth log dump var/payments/payments.db --json       # every record
troth log in-doubt var/payments/payments.db          # what is in doubt, which keys it holds, and since when
troth log resolve var/payments/payments.db c1.7.9f2c4e1a.3.42 commit --why "told by phone, ticket 4711"
troth log stand-in var/c1/coordinator.db --name c1 --log-id 5f0c... --why "the disk died"
"""

PATH = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=Group, examples=EXAMPLES)
def log() -> None:
    """Verify, read or mend the log of a process that does not run."""


@log.command(examples="troth log verify var/c1/coordinator.db")
@click.argument("path", type=PATH)
@json_option
def verify(path: Path, as_json: bool) -> int:
    """Check a log: its pages, its identity, every checksum, every record. Exit 3 when it is damaged.

    A log that is sound may still be an older copy: a file cannot tell that. Whoever has heard more of it does, at the start.
    """
    found = offline.verify(path)
    problems = [{"place": problem.place, "what": problem.what} for problem in found.problems]
    facts: dict[str, Any] = {
        "path": str(found.path), "sound": not problems, **_identity(found.identity), "records": found.records,
        "first_seq": found.first_seq, "last_seq": found.last_seq, "torn_frames": found.torn_frames,
        "payload_keys": ", ".join(found.keys) if not as_json else list(found.keys),
    }  # fmt: skip
    if as_json:
        render.write_json({**facts, "problems": problems})
    else:
        render.write_facts(facts.items())
        _write_problems(found.problems)
    return LOG if problems else 0


@log.command(examples="troth log dump var/c1/coordinator.db\ntroth log dump var/c1/coordinator.db --transaction ID --json")
@click.argument("path", type=PATH)
@click.option("--transaction", "transaction_id", help="Only the records of this transaction.")
@json_option
def dump(path: Path, transaction_id: str | None, as_json: bool) -> int:
    """Print every record that can be read, oldest first. Exit 3 when some cannot."""
    found = offline.dump(path)
    rows = [(record.seq, *_split(record.message)) for record in found.records]
    if transaction_id is not None:
        rows = [row for row in rows if row[2].get("transaction_id") == transaction_id]
    if as_json:
        records = [{"seq": seq, "kind": kind, **fields} for seq, kind, fields in rows]
        problems = [{"place": problem.place, "what": problem.what} for problem in found.problems]
        render.write_json({**_identity(found.identity), "records": records, "problems": problems})
    else:
        texts = ((seq, kind, json.dumps(fields, ensure_ascii=False)) for seq, kind, fields in rows)
        render.write_table(("SEQ", "KIND", "FIELDS"), texts)
        _write_problems(found.problems)
    return LOG if found.problems else 0


@log.command(
    "in-doubt",
    examples="troth log in-doubt var/payments/bank.db\ntroth log in-doubt var/payments/bank.db --peer var/orders/orders.db --json",
)
@click.argument("path", type=PATH)
@click.option("--peer", "peers", multiple=True, type=PATH, metavar="FILE", help="A log of another participant; several times.")
@json_option
def in_doubt(path: Path, peers: tuple[Path, ...], as_json: bool) -> None:
    """List what is in doubt in a participant's log, running or not: which keys it holds, since when, and what peers know."""
    found, others = evidence.read_file(path), [evidence.read_file(peer) for peer in peers]
    rows = []
    for branch in found.branches:
        if branch.fate is not evidence.Fate.PREPARED:
            continue
        known = [one for other in others for one in other.branches if one.transaction == branch.transaction]
        rows.append({
            "transaction_id": branch.transaction, "since_ms": branch.first_attempt_ms, "keys": list(branch.keys),
            "participants": list(branch.peers),
            "peers": [{"participant": one.participant, "branch": one.fate.value, "forced": one.forced} for one in known],
        })  # fmt: skip
    if as_json:
        return render.write_json({"participant": found.participant, "in_doubt": rows})
    texts = ((one["transaction_id"], _when(one["since_ms"]), one["keys"], one["participants"], _told(one["peers"])) for one in rows)
    render.write_table(("TRANSACTION", "SINCE", "LOCKED", "PARTICIPANTS", "PEERS KNOW"), texts)
    if rows:
        render.tell("`troth txn explain ID` tells the rest: for which client, and who owes what")


def _when(since_ms: Any) -> str:
    return datetime.fromtimestamp(since_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds") if since_ms else ""


def _told(peers: Any) -> list[str]:
    return [f"{one['participant']}: {one['branch']}{', by force' if one['forced'] else ''}" for one in peers]


def _split(message: Message) -> tuple[str, dict[str, Any]]:
    """The kind of a record, and its fields."""
    kind = message.WhichOneof("kind") or "none"
    fields = render.plain(getattr(message, kind)) if kind != "none" else {}
    if "at_ms" in message.DESCRIPTOR.fields_by_name:
        fields["at_ms"] = render.plain(message)["at_ms"]
    return kind, fields


def _identity(identity: Any) -> dict[str, Any]:
    names = ("role", "name", "log_id", "format_version")
    return {name: getattr(identity, name) for name in names} if identity is not None else {}


def _write_problems(problems: tuple[offline.Problem, ...]) -> None:
    for problem in problems:
        render.tell(f"damaged: {problem.place}: {problem.what}")


_sealed_with = click.option(
    "--payload-keys", default="", envvar="TROTH_PAYLOAD_KEYS", metavar="SOURCE",
    help="What seals the reason in the log, as in the process's own settings. Default: $TROTH_PAYLOAD_KEYS.",
)  # fmt: skip


def _body(role: str, record: Any, source: str) -> bytes:
    """A record as the log's own process would write it."""
    seal = sealing.RecordCodec(role, keyring(source)).seal
    return bytes(record.SerializeToString()) if seal is None else seal(record)


@log.command(
    examples='troth log resolve var/payments/payments.db ID commit --why "told by phone"\n'
    'troth log resolve var/c1/coordinator.db ID abandon --why "payments was scrapped"'
)
@click.argument("path", type=PATH)
@click.argument("transaction_id")
@click.argument("action", type=click.Choice(("commit", "abort", "abandon")))
@why_options
@_sealed_with
@json_option
def resolve(
    path: Path, transaction_id: str, action: str, why: str, who: str | None, yes: bool, payload_keys: str, as_json: bool
) -> None:
    """Force an outcome in a log, without its process. It takes effect at the next start, and is recorded."""
    dumped = offline.dump(path)
    plan = offline_resolve.make_plan(dumped, transaction_id, action, who or who_am_i(), why)
    bodies = [_body(dumped.identity.role, record, payload_keys) for record in plan.records]
    confirm(f"{action} {transaction_id} in {path}:", plan.consequences, yes)
    seqs = [offline.append_offline(path, body) for body in bodies]
    if as_json:
        render.write_json({"transaction_id": transaction_id, "action": action, "seqs": seqs})
    else:
        render.say(f"Recorded as {', '.join(f'record {seq}' for seq in seqs)}; it takes effect at the next start.")


@log.command("stand-in", examples='troth log stand-in var/c1/coordinator.db --name c1 --log-id 5f0c... --why "the disk died"')
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="The coordinator's name.")
@click.option("--log-id", required=True, metavar="ID", help="The lost log's: `epoch_seen` in a participant's log has it.")
@why_options
@_sealed_with
@json_option
def stand_in(
    path: Path, name: str, log_id: str, why: str, who: str | None, yes: bool, payload_keys: str, as_json: bool
) -> None:
    """Make a log that stands in for a coordinator's log that is lost, under its old name."""
    if not (LOG_ID.match(log_id) and NAME_PATTERN.match(name)):
        raise Failure(USAGE, "INVALID_ARGUMENT", "a log's id is 32 hexadecimal digits, and a name is a name",
                      "`troth log dump FILE` of a participant's log has both, in epoch_seen.")  # fmt: skip
    confirm(
        f"make {path} stand in for the log {log_id} of {name}:",
        (
            "it has the lost log's identity, and nothing else: should that one be found, start it, and never both;",
            "its coordinator lets nobody in until `troth participants accept-loss`: bring all participants back first;",
            "what is in doubt is proven by those who know, where it can be; keys of requests that began before are EXPIRED.",
        ),
        yes,
    )
    loss = record_pb2.Loss(why=f"stands in for a lost log, by {who or who_am_i()}: {why}")
    record = record_pb2.CoordinatorRecord(at_ms=time.time_ns() // 1_000_000, loss=loss)
    offline.stand_in(path, name, log_id, _body("coordinator", record, payload_keys))
    if as_json:
        render.write_json({"path": str(path), "name": name, "log_id": log_id})
    else:
        render.say(f"Made {path}. Start its coordinator, and bring all participants back; then: troth participants accept-loss")
