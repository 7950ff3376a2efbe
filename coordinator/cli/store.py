"""`troth store`: a PostgreSQL database as the place of a cell's logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coordinator.cell.store import require_store
from coordinator.cli import render
from coordinator.cli.addresses import require_address
from coordinator.cli.command import Group, json_option
from troth.cell import SHARDS_DEFAULT
from troth.ids import check_name
from troth.mariadb.address import is_address

if TYPE_CHECKING:
    from troth.log.store_status import LogStatus

Function = TypeVar("Function", bound=Callable[..., Any])

EXAMPLES = """
troth store init --store postgresql://db/troth --name c1     # once; makes the tables and the cell
troth store init --store postgresql://db/shop --participant payments --grant-to payments_app   # for a service's database
troth store init --store mysql://admin@db/shop --participant payments --grant-to payments_app   # the same in MariaDB
troth store check --store postgresql://db/troth              # is it safe? who has which log?
troth store upgrade --store postgresql://db/troth            # after an upgrade of Troth, while nothing runs
troth serve --store postgresql://db/troth --name c1          # on as many machines as you like
"""


def _store_option(function: Function) -> Function:
    return click.option(
        "--store", envvar="TROTH_STORE", default="", metavar="DSN",
        help="Connection string of libpq, without a password (~/.pgpass, PGPASSWORD); of a participant's database also "
        "mysql://. Default: $TROTH_STORE.",
    )(function)  # fmt: skip


@click.group(cls=Group, examples=EXAMPLES)
def store() -> None:
    """Make, look at or upgrade a store: a PostgreSQL database that the nodes of a cell share."""


@store.command(examples="troth store init --store postgresql://db/troth --name c1 --shards 16")
@_store_option
@click.option("--name", default="c1", show_default=True, metavar="NAME", help="The cell that is made.")
@click.option(
    "--shards", default=SHARDS_DEFAULT, show_default=True, metavar="N",
    help="Into how many shards its work is divided. It never changes: with it keys would move.",
)  # fmt: skip
@click.option("--participant", default="", metavar="NAME", help="Make what a service needs in its own database instead.")
@click.option("--grant-to", default="", metavar="ROLE", help="The database role that the service works with.")
@json_option
def init(store: str, name: str, shards: int, participant: str, grant_to: str, as_json: bool) -> None:
    """Make the tables, the cell and its logs where they are not there. Nothing that is there changes."""
    from coordinator.history import postgres
    from troth.log.postgres_cell import init_cell

    if participant or grant_to:
        check_name("participant", participant)
        asyncio.run(_prepare_database(store, grant_to))
        said = f"the database is ready for the participant {participant}"
        return render.write_json({"made": []}) if as_json else render.say(said)
    made = asyncio.run(init_cell(require_store(store), name, shards))
    asyncio.run(postgres.make(require_store(store)))
    if as_json:
        render.write_json({"cell": name, "shards": shards, "made": list(made)})
    elif made:
        render.say(f"made the cell {name} with {'one shard' if shards == 1 else f'{shards} shards'}")
    else:
        render.say(f"the cell {name} is there already")


async def _prepare_database(dsn: str, grant_to: str) -> None:
    """Make what a participant needs in its own database."""
    if is_address(dsn):
        from troth.log import mariadb_store

        await mariadb_store.init(require_address(dsn), "participant", (), branches=True, grant_to=grant_to)
    else:
        from troth.log import postgres_store

        await postgres_store.init(require_store(dsn), "participant", (), branches=True, grant_to=grant_to)


@store.command(examples="troth store upgrade --store postgresql://db/troth")
@_store_option
@json_option
def upgrade(store: str, as_json: bool) -> None:
    """Bring the tables to the format of this version, in one transaction. Refused while anything uses the store."""
    from troth.log import postgres_store

    first, *others = asyncio.run(postgres_store.upgrade(require_store(store)))
    if as_json:
        render.write_json({"before": first, "now": (first, *others)[-1]})
    elif others:
        render.say(f"upgraded the store from format {first} to {others[-1]}")
    else:
        render.say(f"the store has format {first} already")


@store.command(examples="troth store check --store postgresql://db/troth --json")
@_store_option
@json_option
def check(store: str, as_json: bool) -> None:
    """Check the server's settings and the format, and list the logs. Exit 3 with what is wrong, and what to do."""
    logs = asyncio.run(_status(store))
    if as_json:
        render.write_json({"logs": [asdict(one) for one in logs]})
        return
    rows = (
        (one.role, one.name, one.epoch, one.batches, one.bytes, one.owner or "nobody", _lease(one))
        for one in logs
    )  # fmt: skip
    render.write_table(("ROLE", "NAME", "EPOCH", "BATCHES", "BYTES", "OWNER", "LEASE"), rows)


async def _status(dsn: str) -> Sequence[LogStatus]:
    if is_address(dsn):
        from troth.log import mariadb_store

        return await mariadb_store.status(dsn)
    from troth.log import postgres_store

    return await postgres_store.status(require_store(dsn))


def _lease(one: LogStatus) -> str:
    if not one.owner:
        return ""
    return f"{one.lease_seconds:.1f} s" if one.lease_seconds > 0 else f"lapsed {-one.lease_seconds:.0f} s ago"
