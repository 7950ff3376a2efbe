"""What runbooks are rehearsed with: two banks, transfers between them, and a clock that is wrong. It is the command `rehearse`.

    rehearse bank NAME               serves var/NAME until it is told to end
    rehearse watched NAME            the same, with an invariant: no account is below what var/lowest says
    rehearse transfer KEY ...        one unit from north to south for each key, all at once; says what came of each
    rehearse refund KEY ...          the same, back from south
    rehearse stranger                breaks a rule of the protocol
    rehearse clock SECONDS ...       `troth ...` under a wall clock that is so far ahead, or behind
"""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import grpc

from coordinator.cli.main import run as troth
from coordinator.pki import authority
from participant_sdk import Participant, SqliteResource, Tls
from participant_sdk.client import Client, call
from troth import failpoints
from troth.errors import TrothError
from troth.v1 import common_pb2, participant_pb2, participant_pb2_grpc

SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, amount INTEGER NOT NULL) STRICT"
ADD = "INSERT INTO account VALUES (?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"
AUTHORITY = "var/pki/authority.pem"
PATIENCE_SECONDS = 60.0


def say(text: str) -> None:
    """One line, also beside others that write."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def place() -> dict[str, Any]:
    """Where the coordinator is, and how it is known where a page has made an authority."""
    return {"coordinator": os.environ["TROTH_LISTEN"], "tls": Tls(AUTHORITY) if os.path.exists(AUTHORITY) else None}


def bank(name: str, *, watched: bool = False) -> int:
    """Serve one bank. It may be told to die (`TROTH_FAILPOINTS`)."""
    failpoints.arm_from_environment()
    os.makedirs(f"var/{name}", exist_ok=True)
    resource = SqliteResource(f"var/{name}/{name}.db", schema=SCHEMA)
    made = Participant(name, resource=resource, data_directory=f"var/{name}", **place())

    @made.operation(locks=lambda account, amount: [account])
    def add(db: Any, *, account: str, amount: int) -> None:
        db.execute(ADD, (account, amount))

    def no_account_is_too_low(db: Any) -> str | None:
        lowest = int(Path("var/lowest").read_text())
        row = db.one("SELECT name, amount FROM account WHERE amount < ?", (lowest,))
        return f"{row[0]} has {row[1]}" if row else None

    if watched:
        made.invariant(every_seconds=0.2)(no_account_is_too_low)

    async def told() -> None:
        await made.wait_connected()
        say(f"{name} is connected")

    return made.run(told)


async def transfer(*keys: str, amount: int = 1) -> int:
    """Move one unit for each key."""
    where = place()
    async with Client(where["coordinator"], tls=where["tls"]) as client:
        await asyncio.gather(*(one_transfer(client, key, amount) for key in keys))
    return 0


async def one_transfer(client: Client, key: str, amount: int) -> None:
    """Say how it ended, or why it did not."""
    work = (call("north", "add", account=key, amount=-amount), call("south", "add", account=key, amount=amount))
    try:
        done = await client.run(*work, key=key if amount > 0 else f"{key}-refund", timeout=PATIENCE_SECONDS)
    except TrothError as error:
        say(f"{key}: {type(error).__name__} {error.reason.name}")
    else:
        say(f"{key}: committed {done.transaction_id}")


async def stranger() -> int:
    """A participant of a later version, say, that acknowledges in a way that there is not; says what it is told."""
    hello = participant_pb2.Hello(
        protocol=common_pb2.ProtocolRange(lowest=1, highest=1), participant="stranger", log_id="44" * 16, incarnation=1
    )
    wrong = participant_pb2.Acknowledgement(transaction_id="t", kind=99)  # type: ignore[arg-type]  # that is what is wrong

    async with grpc.aio.insecure_channel(os.environ["TROTH_LISTEN"]) as channel:
        session = participant_pb2_grpc.ParticipantServiceStub(channel).Session()
        await session.write(participant_pb2.SessionRequest(hello=hello, reports_complete=True))
        async for frame in session:
            if frame.HasField("welcome"):
                await session.write(participant_pb2.SessionRequest(acknowledgements=[wrong]))
            if frame.HasField("goodbye"):
                say(frame.goodbye.cause.reason)
    return 0


def clock(ahead: str, *arguments: str) -> int:
    """The command line with the wall clock put forward; what is monotonic goes on as it was."""
    right, ahead_ns = time.time_ns, int(ahead) * 1_000_000_000
    time.time_ns = lambda: right() + ahead_ns
    time.time = lambda: time.time_ns() / 1e9
    authority.datetime = Shifted  # type: ignore[misc]  # whoever issues certificates asks this clock
    Shifted.ahead = timedelta(seconds=int(ahead))
    return troth(arguments)


class Shifted(datetime):
    """What `clock` makes of dates."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # a date as everybody's
        return datetime.now(tz) + cls.ahead


def sqlite(arguments: Sequence[str]) -> int:
    """What the command `sqlite3 FILE QUERY` prints; not every machine has it."""
    file, query = arguments
    with closing(sqlite3.connect(file)) as connection:
        for row in connection.execute(query):
            say("|".join(map(str, row)))
    return 0


def run(arguments: Sequence[str]) -> int:
    """The command; returns its status."""
    what, *rest = arguments
    refund, watched = functools.partial(transfer, amount=-1), functools.partial(bank, watched=True)
    if what in ("transfer", "refund", "stranger"):
        return asyncio.run({"transfer": transfer, "refund": refund, "stranger": stranger}[what](*rest))
    return {"bank": bank, "watched": watched, "clock": clock}[what](*rest)
