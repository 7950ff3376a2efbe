"""Addresses of MariaDB as arguments of a command."""

from __future__ import annotations

from troth.errors import ConfigError
from troth.mariadb.address import parse


def require_address(text: str) -> str:
    """The address. Raises `ConfigError` for what is none, or holds a password."""
    if parse(text).password:
        hint = "MYSQL_PWD, or a file: ?read_default_file=~/.my.cnf"
        raise ConfigError("the address holds a password, which lists of processes show", hint=hint)
    return text
