"""Where a MariaDB database is, as one writes it: `mysql://user@host:3306/database?ssl_ca=/etc/ca.pem`.

    mysql://, mariadb://        with the driver aiomysql
    mysql+asyncmy://            with another one: asyncmy, or pymysql, which blocks (`drivers`)

A password is better not written there: `MYSQL_PWD`, or a file as of `mariadb` itself (`read_default_file=~/.my.cnf`).
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from troth.errors import ConfigError

DRIVERS = ("aiomysql", "asyncmy", "pymysql")
CONNECT_SECONDS = 10
"""How long the server may take to answer."""
_PORT = 3306
_TLS = ("ssl_ca", "ssl_cert", "ssl_key")
_OPTIONS = ("unix_socket", "read_default_file", "read_default_group", *_TLS)


@dataclass(frozen=True, slots=True)
class Address:
    """A database, and who asks for it."""

    driver: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    options: dict[str, str]
    """Of the query, by name."""

    @property
    def place(self) -> str:
        """For people, without secrets."""
        return f"the database {self.database!r} at {self.options.get('unix_socket') or f'{self.host}:{self.port}'}"

    def arguments(self) -> dict[str, Any]:
        """What every driver's `connect` takes; the name of the database is its own affair."""
        given: dict[str, Any] = {
            "host": self.host, "port": self.port, "user": self.user, "password": self.password or os.environ.get("MYSQL_PWD", ""),
            "charset": "utf8mb4", "autocommit": True, "connect_timeout": CONNECT_SECONDS,
            **{name: value for name, value in self.options.items() if name not in _TLS},
        }  # fmt: skip
        if any(name in self.options for name in _TLS):
            given["ssl"] = self._tls()
        return given

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.options.get("ssl_ca"))
            if certificate := self.options.get("ssl_cert"):
                context.load_cert_chain(certificate, self.options.get("ssl_key"))
        except OSError as error:
            raise ConfigError(f"the files of TLS in the database's address cannot be read: {error}") from None
        return context


def is_address(text: object) -> bool:
    """Whether it is meant to be one."""
    return isinstance(text, str) and text.partition("://")[0].partition("+")[0] in ("mysql", "mariadb")


def parse(text: str) -> Address:
    """Read an address. Raises `ConfigError`."""
    if not is_address(text):
        raise ConfigError("the database is no address of MariaDB", hint="mysql://user@host:3306/database")
    try:
        parts = urlsplit(text)
        port = parts.port or _PORT
    except ValueError as error:
        raise ConfigError(f"the database's address cannot be read: {error}") from None
    driver = parts.scheme.partition("+")[2] or DRIVERS[0]
    if driver not in DRIVERS:
        raise ConfigError(f"{driver!r} is no driver that is known here", hint=f"One of {', '.join(DRIVERS)}.")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := set(options) - set(_OPTIONS):
        raise ConfigError(
            f"the database's address has unknown options: {', '.join(sorted(unknown))}", hint=f"There are {', '.join(_OPTIONS)}."
        )
    database = unquote(parts.path.lstrip("/"))
    if not database:
        raise ConfigError("the address names no database", hint="mysql://user@host:3306/database")
    return Address(
        driver, parts.hostname or "localhost", port, unquote(parts.username or ""), unquote(parts.password or ""), database, options
    )
