"""A MariaDB database as a storage for tests of logs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pymysql
from log_samples import NAME, ROLE

from participant_sdk.testing.mariadb import MariadbServer
from troth.log.mariadb import MariadbLog
from troth.log.mariadb_store import connect, init


class MariadbStore:
    """A database of its own on a server. A crash takes the connections of every log that was made before."""

    _last = 0

    def __init__(self, server: MariadbServer) -> None:
        self.server = server
        MariadbStore._last += 1
        self.database = f"store_{MariadbStore._last}"
        self.dsn = server.dsn(self.database)
        self._logs: list[MariadbLog] = []

    async def create(self, *names: str) -> None:
        """Make the database, and in it the logs of `names`, or of `NAME`."""
        self.say(f"CREATE DATABASE {self.database}", database="mysql")
        await self.init(*(names or (NAME,)))

    async def init(self, *names: str) -> Sequence[str]:
        return await init(self.dsn, ROLE, names)

    def log(self, role: str = ROLE, name: str = NAME, **more: Any) -> MariadbLog:
        self._logs.append(MariadbLog(self.dsn, role=role, name=name, **more))
        return self._logs[-1]

    def crash(self) -> None:
        """The processes that have logs here are gone, with what they had in memory."""
        self.cut()
        for log in self._logs:
            log._unsynced.clear()

    def cut(self) -> None:
        """Every connection to the database ends."""
        sessions = f"SELECT ID FROM information_schema.PROCESSLIST WHERE DB = '{self.database}'"
        for (session,) in self.say(sessions, database="mysql"):
            with suppress(pymysql.Error):  # it has ended by itself
                self.say(f"KILL {session}", database="mysql")
        while self.say(sessions, database="mysql"):
            pass

    def say(self, *statements: str, database: str = "") -> Any:
        """What the last of these statements answers, on a connection of its own."""
        with pymysql.connect(
            unix_socket=str(self.server.socket), user="root", database=database or self.database, autocommit=True, ssl_disabled=True
        ) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    async def query(self, statement: str, *parameters: Any) -> list[Any]:
        """What a statement answers, on a connection of its own."""
        connection = await connect(self.dsn)
        try:
            return list((await connection.ask(statement, parameters)).rows)
        finally:
            await connection.close()
