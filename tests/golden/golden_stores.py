"""What a cell and two services left in databases when all of them were killed at once, with work in every state.

It runs on the software of whatever version is beside it, so it imports nothing of the tests. In a checkout of a landed version,
with the variables by which `scripts/test` names its servers:

    .venv-test/bin/python ../new/tests/golden/golden_stores.py ../new/tests/golden/NAME/stores.json

The cell's logs are in PostgreSQL; `north` keeps its rows and its log in the same database, `south` in MariaDB; both have slots. A
prepared branch is in no dump: each is told with what it does, which is found out by committing it when all else is written down.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from coordinator.cell.node import CellNode
from coordinator.config import load
from participant_sdk import MariadbLog, Participant, PostgresLog, Refuse
from participant_sdk.client import Client, call
from participant_sdk.resources.mariadb import MariaDB
from participant_sdk.resources.postgres import Postgres
from participant_sdk.testing.mariadb import MariadbServer
from participant_sdk.testing.postgres import PostgresServer
from troth.log import mariadb_branches, mariadb_schema, mariadb_store, postgres_branches, postgres_schema, postgres_store
from troth.log.postgres_cell import init_cell

SHARDS = 2
DATABASE = "golden"
"""In MariaDB: a branch's name has its database in it."""
CALLERS = 8
COMMITS = 40
DONE = {
    "postgres": "CREATE TABLE done (number bigserial PRIMARY KEY, action text NOT NULL)",
    "mariadb": "CREATE TABLE done (number BIGINT AUTO_INCREMENT PRIMARY KEY, action VARCHAR(60) NOT NULL) ENGINE = InnoDB",
}
TABLES = {
    "postgres": ("troth.store", "troth.log", "troth.batch", "troth.cell", "troth.branch", "done"),
    "mariadb": ("troth_store", "troth_log", "troth_batch", "troth_branch", "done"),
}


def make_participants(postgres: str, mariadb: str, coordinator: str) -> list[Participant]:
    """The two services."""
    north = Participant("north", resource=Postgres(postgres), log=PostgresLog(postgres), coordinator=coordinator)
    south = Participant("south", resource=MariaDB(mariadb), log=MariadbLog(mariadb), coordinator=coordinator)

    async def put(db: Any, *, action: str, refused: bool = False) -> str:
        async with db.cursor() as cursor:
            await cursor.execute("INSERT INTO done (action) VALUES (%s)", (action,))
        if refused:
            raise Refuse("REFUSED", "as was asked for")
        return action

    for one in (north, south):
        one.operation(locks=[])(put)
    return [north, south]


@contextlib.asynccontextmanager
async def node(dsn: str) -> Any:
    """The one node of the cell; its address."""
    flags: dict[str, Any] = {"store": dsn, "name": "c1", "listen": "127.0.0.1:0"}
    flags |= {"lease_seconds": 2.0, "hearing_seconds": 0.0, "history_seconds": 0.0}
    serving = asyncio.get_running_loop().create_future()

    def told(what: str, *_: Any) -> None:
        if what.startswith("serving") and not serving.done():
            serving.set_result(what.split()[2])

    config = load(environment={}, flags=flags).config
    make: Any = CellNode  # later versions tell apart what a node does and that it serves
    one = make(config, told, told) if CellNode.__init__.__code__.co_argcount > 3 else make(config, told)
    running = asyncio.create_task(one.run())
    try:
        yield await serving
    finally:
        one.stop()
        await running


async def work(postgres: str, mariadb: str) -> None:
    """Commit transactions, abort others, and tell of each that is known to be committed; for ever."""
    async with node(postgres) as address, contextlib.AsyncExitStack() as stack:
        for one in make_participants(postgres, mariadb, address):
            await stack.enter_async_context(one)
            await one.wait_connected()
        client = await stack.enter_async_context(Client(address))

        async def caller(number: int) -> None:
            for turn in range(10**6):
                action = f"{number}/{turn}"
                calls = [call("north", "put", action=action), call("south", "put", action=action, refused=turn % 5 == 4)]
                with contextlib.suppress(Exception):
                    await client.run(*calls[: 1 + (turn % 7 != 6)], key=action if number % 2 else None, timeout=30)
                    if turn % 7 != 6:
                        sys.stdout.write(f"{action}\n")
                        sys.stdout.flush()

        await asyncio.gather(*(caller(number) for number in range(CALLERS)))


# ---- writing down


def plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, (bytes, memoryview)):
        return {"base64": base64.b64encode(bytes(value)).decode()}
    return value if value is None or isinstance(value, (int, str, float)) else {"text": str(value)}


def _dump(ask: Any, kind: str) -> dict[str, Any]:
    found = {}
    for table in TABLES[kind]:
        names, rows = ask(f"SELECT * FROM {table}")
        found[table] = {"columns": names, "rows": [[plain(value) for value in row] for row in rows]}
    return found


def _postgres(dsn: str) -> dict[str, Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:

        def ask(sql: str) -> Any:
            cursor = connection.execute(sql)  # type: ignore[arg-type]  # it is no literal
            return [one.name for one in cursor.description or ()], cursor.fetchall()

        while ask("SELECT FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()")[1]:
            pass
        found = {"tables": _dump(ask, "postgres"), "prepared": []}
        for (gid,) in ask("SELECT gid FROM pg_prepared_xacts ORDER BY prepared")[1]:
            connection.execute(f"COMMIT PREPARED '{gid}'")  # type: ignore[arg-type]  # it has no parameters
            ((action,),) = ask("SELECT action FROM done ORDER BY number DESC LIMIT 1")[1]
            found["prepared"].append([gid, action])
        return found


def _mariadb(server: MariadbServer) -> dict[str, Any]:
    connection: Any = pymysql.connect(unix_socket=str(server.socket), user="root", database=DATABASE, autocommit=True)
    cursor = connection.cursor()

    def ask(sql: str) -> Any:
        cursor.execute(sql)
        return [one[0] for one in cursor.description or ()], cursor.fetchall()

    while len(ask("SELECT ID FROM information_schema.PROCESSLIST WHERE DB = 'golden'")[1]) > 1:
        pass
    found: dict[str, Any] = {"tables": _dump(ask, "mariadb"), "prepared": []}
    for number, ours, _, data in ask("XA RECOVER FORMAT = 'RAW'")[1]:
        raw = data.encode() if isinstance(data, str) else data
        xid = f"X'{raw[:ours].hex()}',X'{raw[ours:].hex()}',{number}"
        known = {row[0] for row in ask("SELECT action FROM done")[1]}
        marks = {row[0] for row in ask("SELECT gid FROM troth_branch")[1]}
        cursor.execute(f"XA COMMIT {xid}")
        (action,) = {row[0] for row in ask("SELECT action FROM done")[1]} - known
        (gid,) = {row[0] for row in ask("SELECT gid FROM troth_branch")[1]} - marks
        found["prepared"].append([xid, action, gid])
    return found


def record(path: Path) -> None:
    """Let a child work, kill it, and write down what it has left."""
    with PostgresServer() as postgres, MariadbServer() as mariadb:
        connection: Any = pymysql.connect(unix_socket=str(mariadb.socket), user="root", autocommit=True)
        connection.cursor().execute(f"CREATE DATABASE {DATABASE}")
        connection.cursor().execute(f"USE {DATABASE}")
        connection.cursor().execute(DONE["mariadb"])
        connection.close()
        with psycopg.connect(postgres.dsn(), autocommit=True) as one:
            one.execute(DONE["postgres"])
        asyncio.run(init_cell(postgres.dsn(), "c1", SHARDS))
        asyncio.run(postgres_store.init(postgres.dsn(), "participant", (), branches=True))
        asyncio.run(mariadb_store.init(mariadb.dsn(DATABASE), "participant", (), branches=True))
        command = [sys.executable, __file__, "work", postgres.dsn(), mariadb.dsn(DATABASE)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        told = [child.stdout.readline().strip() for _ in range(COMMITS)]
        child.send_signal(signal.SIGKILL)
        told += [line.strip() for line in child.stdout if line.endswith("\n")]
        child.wait()
        found = {"told": sorted(filter(None, told)), "postgres": _postgres(postgres.dsn()), "mariadb": _mariadb(mariadb)}
        found["postgres"]["made"] = [*postgres_schema.CREATE, *_made(postgres_branches), DONE["postgres"]]
        found["mariadb"]["made"] = [*mariadb_schema.CREATE, *_made(mariadb_branches), DONE["mariadb"]]
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _made(module: Any) -> list[str]:
    """How a version made the table of branches: one statement, or several."""
    return [module.CREATE] if isinstance(module.CREATE, str) else list(module.CREATE)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        asyncio.run(work(*sys.argv[2:]))
    else:
        record(Path(sys.argv[1]))
