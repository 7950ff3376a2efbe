"""Books trips: a flight, a room and a car, in three services on three databases, in one transaction each, while they are killed.

It brings private servers of PostgreSQL and MariaDB, the coordinator, and the services with two workers each; kills a worker of each
service and the coordinator on the way; and looks into the databases afterwards. Each trip must be in all of them or in none, and as
was told.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pymysql
from rich.console import Console
from rich.table import Table

from participant_sdk.client import Aborted, Client, OutcomeUnknown, RequestError, current_transaction, transactional
from participant_sdk.testing.mariadb import MariadbServer
from participant_sdk.testing.postgres import PostgresServer
from troth.log import mariadb_store, postgres_store

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SERVICES: dict[str, tuple[LiteralString, LiteralString]] = {
    "flights": ("CREATE TABLE seat (trip text PRIMARY KEY, flight text NOT NULL)", "SELECT trip FROM seat"),
    "hotels": ("CREATE TABLE room (trip text PRIMARY KEY, hotel text NOT NULL)", "SELECT trip FROM room"),
    "cars": ("CREATE TABLE car (trip varchar(40) PRIMARY KEY, town varchar(40) NOT NULL) ENGINE = InnoDB", "SELECT trip FROM car"),
}
"""Their tables, and how the demo looks into them; cars are on MariaDB, the others on PostgreSQL."""
PLACES = 4
"""Towns that one can go to."""
CALLERS = 6
PATIENCE_SECONDS = 60.0


class Company:
    """The processes. Whatever still runs is killed at the end."""

    def __init__(self, postgres: PostgresServer, mariadb: MariadbServer, directory: Path, places: int) -> None:
        self._postgres, self._mariadb = postgres, mariadb
        self._directory = directory
        self._places = places
        self._processes: list[subprocess.Popen[str]] = []
        self._coordinator: subprocess.Popen[str] | None = None
        self.address = "127.0.0.1:0"
        self.urls: dict[str, str] = {}
        self.kills = 0

    def dsn(self, service: str) -> str:
        """Of the database of a service."""
        return self._mariadb.dsn(service, driver="pymysql") if service == "cars" else self._postgres.dsn(service)

    async def make_databases(self) -> None:
        """One for each service, with its table and those of Troth."""
        for service, (table, _) in SERVICES.items():
            if service == "cars":
                await self.ask("", f"CREATE DATABASE {service}")
                await mariadb_store.init(self._mariadb.dsn(service), "participant", (), branches=True)
            else:
                await self.ask("postgres", f"CREATE DATABASE {service}")
                await postgres_store.init(self.dsn(service), "participant", (), branches=True)
            await self.ask(service, table)

    async def ask(self, database: str, query: LiteralString | str) -> list[Any]:
        """The rows of a query, past the services."""
        if database in ("", "cars"):
            return await asyncio.to_thread(self._ask_mariadb, database, query)
        async with await psycopg.AsyncConnection.connect(self._postgres.dsn(database), autocommit=True) as connection:
            cursor = await connection.execute(query.encode())
            return await cursor.fetchall() if cursor.description else []

    def _ask_mariadb(self, database: str, query: str) -> list[Any]:
        socket_of = str(self._mariadb.socket)
        connection: Any = pymysql.connect(unix_socket=socket_of, user="root", database=database or None, autocommit=True)
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def coordinate(self) -> None:
        """Start the coordinator, at the same address each time."""
        data = str(self._directory / "coordinator")
        command = ("-m", "coordinator.cli", "serve", "--data-directory", data, "--listen", self.address)
        self._coordinator = self._start("coordinator", *command, stderr=subprocess.PIPE)
        assert self._coordinator.stderr is not None
        for line in self._coordinator.stderr:
            if found := re.search(r"serving on (\S+)", line):
                self.address = found[1]
                return
        raise RuntimeError("the coordinator does not serve")

    def serve(self, service: str) -> None:
        """Start a service with two workers, on a port that the kernel chose."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.set_inheritable(True)
            number = listening.fileno()
            if service == "flights":
                command = ["uvicorn", "--workers", "2", "--fd", str(number), "--log-level", "warning", "flights:app"]
            else:
                command = ["gunicorn", "--workers", "2", "--bind", f"fd://{number}", "--config", str(HERE / "gunicorn_conf.py"),
                           "--log-level", "warning", f"{service}:application"]  # fmt: skip
            environment = {"DATABASE": self.dsn(service), "COORDINATOR": self.address, "PLACES": str(self._places)}
            self._start(service, "-m", *command, environment=environment, pass_fds=(number,))
            self.urls[service] = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def _start(self, name: str, *command: str, environment: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TROTH_")}
        paths = f"{ROOT}{os.pathsep}{HERE}"
        with (self._directory / f"{name}.err").open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, *command], env={**clean, "PYTHONPATH": paths, **(environment or {})}, text=True,
                **{"stderr": errors, "stdout": errors, **options},
            )  # fmt: skip
        self._processes.append(process)
        return process

    async def worker(self, service: str) -> int:
        """The process of a worker that takes transactions."""
        end = time.monotonic() + PATIENCE_SECONDS
        async with httpx.AsyncClient() as http:
            while time.monotonic() < end:
                with contextlib.suppress(httpx.HTTPError):
                    told = (await http.get(self.urls[service])).json()
                    if told["ready"]:
                        return int(told["pid"])
                await asyncio.sleep(0.05)
        raise RuntimeError(f"{service} does not begin: see {self._directory / service}.err")

    async def kill(self, victim: str) -> None:
        """Kill a worker of a service; its server starts another. Or the coordinator, and start it again."""
        self.kills += 1
        if victim in SERVICES:
            os.kill(await self.worker(victim), signal.SIGKILL)
            return
        assert self._coordinator is not None
        self._coordinator.kill()
        self._coordinator.wait()
        self.coordinate()

    def end(self) -> None:
        """Stop everything."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            if process.poll() is None:
                process.kill()
                process.wait()


# ---- the caller


async def travel(company: Company, client: Client, http: httpx.AsyncClient, numbers: Iterator[int], told: dict[str, str]) -> None:
    """One customer after the other."""

    @transactional(client, attempts=4, timeout=4.0)
    async def book(trip: str, place: str) -> None:
        tx = current_transaction()
        assert tx is not None
        with tx.last_call():  # no service is called twice, so each prepares as it answers
            for service in SERVICES:
                (await http.post(f"{company.urls[service]}/book", json={"trip": trip, "place": place})).raise_for_status()

    for number in numbers:
        trip = f"trip-{number:03}"
        try:
            await book(trip, f"town-{number % PLACES}")
            told[trip] = "committed"
        except OutcomeUnknown:
            told[trip] = "unknown"
        except (Aborted, RequestError, httpx.HTTPError) as error:
            told[trip] = f"aborted {getattr(error, 'code', '') or getattr(error, 'reason', None) or type(error).__name__}"
            await asyncio.sleep(0.05)


async def chaos(company: Company, told: dict[str, str], trips: int) -> None:
    """What is killed, and after which part of the trips."""
    for part, victim in ((0.2, "flights"), (0.4, "hotels"), (0.6, "coordinator"), (0.8, "cars")):
        while len(told) < part * trips:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.02)
        await company.kill(victim)


# ---- afterwards


async def found(company: Company) -> dict[str, set[str]]:
    """The trips in each database, once nothing is prepared any more."""
    trips: dict[str, set[str]] = {}
    for service, (_, query) in SERVICES.items():
        undecided = "XA RECOVER" if service == "cars" else "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        end = time.monotonic() + PATIENCE_SECONDS
        while await company.ask(service, undecided):
            if time.monotonic() > end:
                raise RuntimeError(f"{service} still has branches in doubt")
            await asyncio.sleep(0.05)
        trips[service] = {row[0] for row in await company.ask(service, query)}
    return trips


def judged(trips: dict[str, set[str]], told: dict[str, str]) -> list[str]:
    """What is wrong."""
    wrong = []
    for trip, outcome in sorted(told.items()):
        where = [service for service in SERVICES if trip in trips[service]]
        if len(where) not in (0, len(SERVICES)):
            wrong.append(f"{trip} is booked at {', '.join(where)} only; told {outcome}")
        elif outcome != "unknown" and (outcome == "committed") != bool(where):
            wrong.append(f"{trip} was told {outcome}, and is {'booked' if where else 'not booked'}")
    return wrong


async def run(options: argparse.Namespace, postgres: PostgresServer, mariadb: MariadbServer) -> int:
    """The whole demo; returns the exit status."""
    console = Console(stderr=True)
    company = Company(postgres, mariadb, options.directory, places=options.trips // (PLACES + 1))
    told: dict[str, str] = {}
    try:
        await company.make_databases()
        company.coordinate()
        for service in SERVICES:
            company.serve(service)
        for service in SERVICES:
            await company.worker(service)
        console.print(f"demo: {len(SERVICES)} services with two workers each; booking {options.trips} trips")
        numbers = iter(range(options.trips))
        async with Client(company.address) as client, client.carry(httpx.AsyncClient(timeout=10.0)) as http:
            killing = asyncio.create_task(chaos(company, told, options.trips)) if not options.no_kills else None
            await asyncio.gather(*(travel(company, client, http, numbers, told) for _ in range(CALLERS)))
            if killing is not None:
                await killing
        trips = await found(company)
    finally:
        company.end()
    return _tell(console, company, told, trips)


def _tell(console: Console, company: Company, told: dict[str, str], trips: dict[str, set[str]]) -> int:
    wrong = judged(trips, told)
    table = Table("outcome", "trips")
    for outcome, count in sorted(Counter(told.values()).items()):
        table.add_row(outcome, str(count))
    console.print(table)
    for line in wrong:
        console.print(f"demo: {line}")
    kinds = Counter(outcome.split(" ")[0] for outcome in told.values())
    sys.stdout.write(
        f"demo: {'ok' if not wrong else 'WRONG'} trips={len(told)} committed={kinds['committed']} aborted={kinds['aborted']}"
        f" unknown={kinds['unknown']} kills={company.kills} in_doubt=0 violations={len(wrong)}\n"
    )
    return 1 if wrong else 0


def main() -> int:
    """Parse, and run."""
    parser = argparse.ArgumentParser(prog="scripts/demo --databases", description=__doc__)
    parser.add_argument("--trips", type=int, default=120, help="how many trips are booked (120)")
    parser.add_argument("--no-kills", action="store_true", help="kill nothing")
    parser.add_argument("--directory", type=Path, default=ROOT / "var" / "booking", help="where the coordinator and the logs are")
    options = parser.parse_args()
    options.directory = options.directory.resolve()
    shutil.rmtree(options.directory, ignore_errors=True)
    options.directory.mkdir(parents=True)
    with PostgresServer() as postgres, MariadbServer() as mariadb:
        return asyncio.run(run(options, postgres, mariadb))


if __name__ == "__main__":
    sys.exit(main())
