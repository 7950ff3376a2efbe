"""A connection to MariaDB, whichever driver made it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from troth.mariadb.address import Address
from troth.mariadb.dialect import Dialect, dialect_of
from troth.mariadb.drivers import Answer, Driver, driver_of
from troth.mariadb.errors import kinds

Parameters = Sequence[Any] | Mapping[str, Any]

_OURS = "autocommit = 1, sql_mode = 'STRICT_ALL_TABLES', innodb_lock_wait_timeout = %s, lock_wait_timeout = %s"


class Connection:
    """One session of the server. `raw` is the driver's own object."""

    def __init__(self, driver: Driver, raw: Any) -> None:
        self.driver = driver
        self.raw = raw

    @property
    def dialect(self) -> Dialect:
        """What the server is, as it said when the connection was made."""
        return dialect_of(str(self.raw.get_server_info()))

    @classmethod
    async def to(cls, address: Address) -> Connection:
        """A new one. Raises what the driver raises (`errors.kinds`), `ConfigError` for a driver that is not there."""
        driver = driver_of(address.driver)
        return cls(driver, await driver.connect(address))

    async def ask(self, statement: str, parameters: Parameters = ()) -> Answer:
        """Send one statement. Raises what the driver raises."""
        return await self.driver.ask(self.raw, statement, parameters)

    async def one(self, statement: str, parameters: Parameters = ()) -> tuple[Any, ...] | None:
        """The first row of the answer."""
        rows = (await self.ask(statement, parameters)).rows
        return tuple(rows[0]) if rows else None

    async def set_up(self, lock_wait_seconds: int) -> None:
        """Make it a session of our own work: it reads committed data, and waits so long for locks."""
        settings = f"SET SESSION {self.dialect.isolation} = 'READ-COMMITTED', {_OURS}"
        await self.ask(settings, (lock_wait_seconds, lock_wait_seconds))

    async def user(self) -> str:
        """Whom the server takes us for, `name@host`."""
        return await self._word("SELECT CURRENT_USER()")

    async def database(self) -> str:
        """The database that we are in; empty for none."""
        return await self._word("SELECT DATABASE()")

    async def _word(self, statement: str) -> str:
        row = await self.one(statement)
        return str(row[0]) if row else ""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A local transaction for the time of the block."""
        await self.ask("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(*kinds()):
                await self.ask("ROLLBACK")
            raise
        await self.ask("COMMIT")

    @property
    def closed(self) -> bool:
        """Whether the driver knows that it is gone."""
        return self.driver.closed(self.raw)

    async def close(self) -> None:
        """Say goodbye; raises nothing."""
        await self.driver.close(self.raw)

    def cut(self) -> None:
        """Close the socket without a word."""
        self.driver.cut(self.raw)
