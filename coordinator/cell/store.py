"""The store of a cell: a PostgreSQL database, named by the setting `store`."""

from __future__ import annotations

from troth.errors import ConfigError

ROLE = "coordinator"
EXTRA_HINT = "Install it: pip install 'troth[coordinator,postgres]'."


def check_store(text: str) -> str:
    """What is wrong with a connection string, or an empty text. What is told never holds the string: it may hold a password."""
    if not text:
        return ""
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        return f"it needs the extra 'postgres'. {EXTRA_HINT}"
    try:
        parts = conninfo_to_dict(text)
    except ProgrammingError:
        return "it is no connection string; write postgresql://HOST/DATABASE, or host=... dbname=..."
    if parts.get("password"):
        return "it holds a password, which settings show; use ~/.pgpass (passfile=...), a service file, or PGPASSWORD"
    return ""


def require_store(text: str) -> str:
    """The store that a command is about. Raises `ConfigError` when there is none."""
    if not text:
        raise ConfigError("no store is named", hint="Name it: --store postgresql://HOST/DATABASE, or TROTH_STORE.")
    problem = check_store(text)
    if problem:
        raise ConfigError(f"the store is not usable: {problem}")
    return text
