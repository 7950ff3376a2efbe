"""`troth keys`: payload keys, which seal idempotency keys, arguments, results and reasons in logs. A secret is never shown."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import click

from coordinator.cli import render
from coordinator.cli.command import Group, json_option
from coordinator.cli.failure import USAGE, Failure
from troth import payload_keys
from troth.log import offline
from troth.payload_keys import Ring

EXAMPLES = """
troth keys init                                      # var/payload-keys.toml, with a first key
troth keys show --log var/c1/coordinator.db          # which keys there are, and how many records need each
troth keys rotate                                    # a new key seals; the old ones still open
troth keys drop 20261130-4f1c2a --log var/c1/coordinator.db   # one that no record of these logs needs any more
"""


@click.group(cls=Group, examples=EXAMPLES)
def keys() -> None:
    """Make, show and rotate keys that seal payload in logs: the setting `payload_keys`, and `Participant(payload_keys=...)`."""


_file = click.option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), default=Path("var/payload-keys.toml"), show_default=True,
    envvar="TROTH_PAYLOAD_KEYS", help="The file of keys. Default: $TROTH_PAYLOAD_KEYS, else",
)  # fmt: skip


@keys.command(examples="troth keys init --file /etc/troth/payload-keys.toml")
@_file
def init(file: Path) -> None:
    """Write a file with a first key, for its owner only. One that is there is never replaced."""
    if file.exists():
        raise Failure(USAGE, "CONFIG", f"{file} is there already", "`troth keys rotate` puts a new key into it.")
    ring = Ring((payload_keys.draw(),))
    _write(file, ring)
    render.say(f"made {file} with the key {ring.newest.id}")
    render.tell("Keep a copy where the logs are not: without it nobody reads what it has sealed.")


_logs = click.option(
    "--log", "logs", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A log whose process does not run: how many of its records need which key. May be given several times.",
)  # fmt: skip


@keys.command(examples="troth keys show\ntroth keys show --log var/c1/coordinator.db --log var/payments/payments.db --json")
@_file
@_logs
@json_option
def show(file: Path, logs: tuple[Path, ...], as_json: bool) -> None:
    """Show which keys there are, and which of them the records of logs need."""
    ring = payload_keys.read_file(file)
    needed = _needed(logs)
    made = {key.id: key.made for key in ring.keys}
    rows = [(key_id, made.get(key_id, "missing"), _use(ring, key_id, needed, bool(logs)), needed[key_id]) for key_id in
            (*made, *sorted(needed.keys() - made))]  # fmt: skip
    if as_json:
        names = ("id", "made", "use", "records")
        render.write_json({"keys": [dict(zip(names, row, strict=True)) for row in rows]})
    else:
        columns = ("KEY", "MADE", "USE", "RECORDS") if logs else ("KEY", "MADE", "USE")
        render.write_table(columns, (row[: len(columns)] for row in rows))


@keys.command(examples="troth keys rotate --file /etc/troth/payload-keys.toml")
@_file
def rotate(file: Path) -> None:
    """Put a new key on top: it seals from then on, and those below still open what they have sealed."""
    ring = payload_keys.read_file(file).rotated()
    _write(file, ring)
    old = ", ".join(key.id for key in ring.keys[1:])
    render.say(f"made the key {ring.newest.id}; {file} has it on top")
    render.tell(
        "Processes that read this file seal with it within a second. Give the file to every other one that reads these logs, and\n"
        "start those again that get their keys from a variable or a command.\n"
        f"{old} can go when no record needs it: records go when their transactions are older than the retention and the log is\n"
        "cleaned. `troth keys show --log PATH` counts them, and each start of a process tells its own."
    )


@keys.command(examples="troth keys drop 20261130-4f1c2a --log var/c1/coordinator.db --log var/payments/payments.db")
@click.argument("key")
@_file
@_logs
def drop(key: str, file: Path, logs: tuple[Path, ...]) -> None:
    """Take a key out of the file. Refused for the one that seals, and for one that a record of the named logs needs.

    Name every log that this file was ever given to, backups too: nobody opens again what only this key has sealed.
    """
    ring, needed = payload_keys.read_file(file), _needed(logs)
    if ring.secret_of(key) is None:
        raise Failure(USAGE, "CONFIG", f"{file} has no key {key}", "`troth keys show` lists those that it has.")
    if key == ring.newest.id:
        raise Failure(USAGE, "CONFIG", f"{key} seals", "`troth keys rotate` first.")
    if not logs or needed[key]:
        why = f"{needed[key]} records need {key}" if logs else "no log is named, so nobody knows whether it is needed"
        raise Failure(USAGE, "CONFIG", why, "Name all logs with --log, and wait until none needs it.")
    _write(file, ring.without(key))
    render.say(f"{file} has {key} no more")


def _needed(logs: tuple[Path, ...]) -> Counter[str]:
    return Counter(key_id for log in logs for record in offline.dump(log).records for key_id in record.keys)


def _use(ring: Ring, key_id: str, needed: Counter[str], counted: bool) -> str:
    if key_id == ring.newest.id:
        return "seals"
    if ring.secret_of(key_id) is None:
        return "missing"
    return "can go, as far as these logs tell" if counted and not needed[key_id] else "opens"


def _write(file: Path, ring: Ring) -> None:
    """All at once, for the owner only, and durable: what it seals from now on must not outlive it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(ring.text())
        out.flush()
        os.fsync(out.fileno())
    os.replace(new, file)
