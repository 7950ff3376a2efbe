"""`troth outbox`: the messages of a service's outbox that a relay has set aside, and what waits.

A message that failed too often by its own fault stays in the outbox with its error, and those behind it go on. A person says
what becomes of it: it is tried again, or dropped. What is not set aside is the relay's, and is left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import click

from coordinator.cli import render
from coordinator.cli.asking import confirm
from coordinator.cli.command import Group, json_option
from coordinator.cli.failure import OK, REFUSED, Failure
from troth.mariadb.address import is_address

Function = TypeVar("Function", bound=Callable[..., Any])

EXAMPLES = """
troth outbox list --dsn postgresql://db/bank              # what is set aside, and why
troth outbox topics --dsn postgresql://db/bank            # how much waits for each destination, and which is away
troth outbox show 17 --dsn postgresql://db/bank           # one message, with its body
troth outbox retry 17 --dsn postgresql://db/bank          # deliver it after all; --all: everything that is set aside
troth outbox drop 17 --dsn postgresql://db/bank           # give it up
troth outbox list --dsn mysql://db/bank                   # MariaDB
"""
COLUMNS = (
    "position", "id", "topic", "key", "attempts", "made_seconds_ago", "aside_seconds_ago", "error", "bytes",
)  # fmt: skip

TOPIC_COLUMNS = ("topic", "waiting", "aside", "oldest_waiting_seconds", "put_off", "next_try_seconds", "error")


class Place(Protocol):
    """A database that has an outbox (`outbox_postgres`, `outbox_mariadb`).

    Raises `LogError` when it cannot be reached, and `ConfigError` when it has no outbox, or its name is none.
    """

    async def listed(self, dsn: str, waiting: bool, after: int, messages_max: int) -> tuple[list[Any], Any]:
        """The rows of what is set aside, or of everything, by position (`COLUMNS`); and how many are set aside, how many wait,
        and for how many seconds the oldest of these."""

    async def topics(self, dsn: str) -> list[Any]:
        """A row for each topic (`TOPIC_COLUMNS`): how many messages wait, and are set aside, for how many seconds the oldest waits;
        how many of those that wait have failed; in how many seconds the last of these is tried again, and its error."""

    async def shown(self, dsn: str, position: int) -> tuple[Any, bytes] | None:
        """One row, and its body."""

    async def tried_again(self, dsn: str, everything: bool, positions: Sequence[int]) -> list[int]:
        """Let what is set aside be due; returns the positions of what was."""

    async def dropped(self, dsn: str, everything: bool, positions: Sequence[int]) -> list[int]:
        """Delete what is set aside; returns the positions of what was."""


def _place(dsn: str) -> Place:
    if is_address(dsn):
        from coordinator.cli import outbox_mariadb

        return outbox_mariadb
    from coordinator.cli import outbox_postgres

    return outbox_postgres


def _dsn_option(function: Function) -> Function:
    said = "The service's database, without a password: PostgreSQL, or mysql://…."
    return click.option("--dsn", required=True, metavar="DSN", help=said)(function)


def _choosing(function: Function) -> Function:
    """Which messages are meant."""
    function = click.option("--all", "everything", is_flag=True, help="All that are set aside.")(function)
    return click.argument("positions", metavar="[POSITION]...", nargs=-1, type=click.IntRange(1, 2**63 - 1))(function)


@click.group(cls=Group, examples=EXAMPLES)
def outbox() -> None:
    """Look at a service's outbox, and say what becomes of messages that could not be delivered."""


@outbox.command("list", examples="troth outbox list --dsn postgresql://db/bank\ntroth outbox list --waiting --dsn postgresql://db/bank")
@_dsn_option
@click.option("--waiting", is_flag=True, help="Also what waits to be delivered.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The most messages.")
@click.option(
    "--after", type=click.IntRange(0, 2**63 - 1), default=0, metavar="POSITION", help="Go on where a listing that was cut ended."
)
@json_option
def list_(dsn: str, waiting: bool, limit: int, after: int, as_json: bool) -> None:
    """List the messages that are set aside, each with its error, by position.

    What is delivered or dropped between two pages makes no other message come twice or go missing.
    """
    rows, (aside, waits, oldest) = asyncio.run(_place(dsn).listed(dsn, waiting, after, limit + 1))
    more, rows = len(rows) > limit, rows[:limit]
    following = rows[-1][0] if more else None
    if as_json:
        messages = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        told = {"aside": aside, "waiting": waits, "oldest_waiting_seconds": oldest, "next_after": following}
        render.write_json({**told, "messages": messages})
        return
    shown = ((row[0], row[2], row[3], row[4], _ago(row[6]), row[7]) for row in rows)
    render.write_table(("POSITION", "TOPIC", "KEY", "ATTEMPTS", "SET ASIDE", "ERROR"), shown)
    render.tell(f"{aside} set aside; {waits} wait" + (f", the oldest for {oldest:.0f} s" if waits else ""))
    if more:
        render.tell(f"that is not all: --after {following} goes on")


@outbox.command(examples="troth outbox topics --dsn postgresql://db/bank\ntroth outbox topics --json --dsn postgresql://db/bank")
@_dsn_option
@json_option
def topics(dsn: str, as_json: bool) -> None:
    """Tell of each topic how much waits, and what keeps it: the last error, and when its destination is tried again.

    A relay leaves a topic alone whose destination is away, for longer each time, and tries it with a few messages then.
    """
    rows = asyncio.run(_place(dsn).topics(dsn))
    if as_json:
        render.write_json({"topics": [dict(zip(TOPIC_COLUMNS, row, strict=True)) for row in rows]})
        return
    shown = ((*row[:3], _seconds(row[3]), row[4], _seconds(row[5]), row[6]) for row in rows)
    render.write_table(("TOPIC", "WAITING", "ASIDE", "OLDEST", "PUT OFF", "NEXT TRY", "ERROR"), shown)


@outbox.command(examples="troth outbox show 17 --dsn postgresql://db/bank\ntroth outbox show 17 --body --dsn service=bank > body")
@_dsn_option
@click.option("--body", "only_body", is_flag=True, help="Write the body, byte by byte, and nothing else; a terminal gets escapes.")
@click.argument("position", type=click.IntRange(1, 2**63 - 1))
@json_option
def show(dsn: str, only_body: bool, position: int, as_json: bool) -> None:
    """Show one message, with its body: as text where it is some, else in hexadecimal."""
    found = asyncio.run(_place(dsn).shown(dsn, position))
    if found is None:
        raise _no_such(f"message {position} is not there")
    row, body = found
    if only_body:
        render.write_bytes(body)
        return
    facts = [*zip(COLUMNS, row, strict=True), ("body", _text(body))]
    if as_json:
        render.write_json(dict(facts))
    else:
        render.write_facts(facts)


@outbox.command(examples="troth outbox retry 17 18 --dsn postgresql://db/bank\ntroth outbox retry --all --dsn postgresql://db/bank")
@_dsn_option
@_choosing
@json_option
def retry(dsn: str, everything: bool, positions: tuple[int, ...], as_json: bool) -> int:
    """Let the relay try messages again that are set aside, out of their order: later ones of their keys have gone before."""
    _check(everything, positions)
    changed = asyncio.run(_place(dsn).tried_again(dsn, everything, positions))
    return _told("tries again", changed, positions, as_json)


@outbox.command(examples="troth outbox drop 17 --dsn postgresql://db/bank\ntroth outbox drop --all --yes --dsn postgresql://db/bank")
@_dsn_option
@_choosing
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def drop(dsn: str, everything: bool, positions: tuple[int, ...], yes: bool, as_json: bool) -> int:
    """Delete messages that are set aside. They are never delivered."""
    _check(everything, positions)
    which = "all that are set aside" if everything else ", ".join(map(str, positions))
    confirm(f"drop {which}:", ("nobody will ever get these messages.",), yes)
    changed = asyncio.run(_place(dsn).dropped(dsn, everything, positions))
    return _told("dropped", changed, positions, as_json)


def _check(everything: bool, positions: Sequence[int]) -> None:
    if everything == bool(positions):
        raise click.UsageError("name messages by their positions, or all of them by --all")


def _told(done: str, changed: Sequence[int], positions: Sequence[int], as_json: bool) -> int:
    missing = sorted(set(positions) - set(changed))
    if as_json:
        render.write_json({"changed": sorted(changed), "not_set_aside": missing})
    else:
        render.say(done, ", ".join(map(str, sorted(changed))) or "nothing")
    if missing:
        render.tell(f"not set aside, or not there: {', '.join(map(str, missing))}")
    return REFUSED if missing else OK


def _no_such(what: str) -> Failure:
    hint = "`troth outbox list --waiting` tells what there is; what was delivered is gone."
    return Failure(REFUSED, "UNKNOWN_MESSAGE", what, hint)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f} s ago"


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.hex()
