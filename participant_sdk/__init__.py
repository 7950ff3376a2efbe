"""Troth's participant SDK: what a service imports to take part in transactions.

    from participant_sdk import Participant, Refuse, SqliteResource

    bank = Participant("payments", resource=SqliteResource("payments.db", schema=SCHEMA),
                       data_directory="var/payments", coordinator="127.0.0.1:7420")

    @bank.operation(locks=lambda account, amount: [f"account/{account}"])
    def debit(db, *, account: str, amount: int) -> int: ...

The names are loaded when they are first used, so that the pure core can be imported without gRPC and SQLite.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from troth.packages import what_is_missing

if TYPE_CHECKING:
    from participant_sdk.branch import Branch
    from participant_sdk.codec import PayloadCodec
    from participant_sdk.context import Scope, current_scope, entered
    from participant_sdk.embedded.service import Embedded
    from participant_sdk.health import Condition, Health, terminate
    from participant_sdk.limits import Limits
    from participant_sdk.lock_keys import NO_LOCKS, Read
    from participant_sdk.participant import Participant
    from participant_sdk.registry import current_caller
    from participant_sdk.resources.log_only import LogBranch, LogResource
    from participant_sdk.resources.mariadb import MariaDB, MariadbLimits, MariadbLog
    from participant_sdk.resources.postgres import Postgres, PostgresLimits, PostgresLog
    from participant_sdk.resources.sqlite import SqliteResource
    from participant_sdk.resources.sqlite_database import Database
    from troth.errors import Aborted, LogError, Refuse, RequestError, TrothError
    from troth.identity.tls import Tls

__all__ = [
    "NO_LOCKS",
    "Aborted",
    "Branch",
    "Condition",
    "Database",
    "Embedded",
    "Health",
    "Limits",
    "LogBranch",
    "LogError",
    "LogResource",
    "MariaDB",
    "MariadbLimits",
    "MariadbLog",
    "Participant",
    "PayloadCodec",
    "Postgres",
    "PostgresLimits",
    "PostgresLog",
    "Read",
    "Refuse",
    "RequestError",
    "Scope",
    "SqliteResource",
    "Tls",
    "TrothError",
    "current_caller",
    "current_scope",
    "entered",
    "terminate",
]

_HOMES = {
    "NO_LOCKS": "participant_sdk.lock_keys",
    "Read": "participant_sdk.lock_keys",
    "Aborted": "troth.errors",
    "Branch": "participant_sdk.branch",
    "Condition": "participant_sdk.health",
    "Database": "participant_sdk.resources.sqlite_database",
    "Embedded": "participant_sdk.embedded.service",
    "Health": "participant_sdk.health",
    "Limits": "participant_sdk.limits",
    "LogBranch": "participant_sdk.resources.log_only",
    "LogError": "troth.errors",
    "LogResource": "participant_sdk.resources.log_only",
    "MariaDB": "participant_sdk.resources.mariadb",
    "MariadbLimits": "participant_sdk.resources.mariadb",
    "MariadbLog": "participant_sdk.resources.mariadb",
    "Participant": "participant_sdk.participant",
    "PayloadCodec": "participant_sdk.codec",
    "Postgres": "participant_sdk.resources.postgres",
    "PostgresLimits": "participant_sdk.resources.postgres",
    "PostgresLog": "participant_sdk.resources.postgres",
    "Refuse": "troth.errors",
    "RequestError": "troth.errors",
    "Scope": "participant_sdk.context",
    "SqliteResource": "participant_sdk.resources.sqlite",
    "Tls": "troth.identity.tls",
    "TrothError": "troth.errors",
    "current_caller": "participant_sdk.registry",
    "current_scope": "participant_sdk.context",
    "entered": "participant_sdk.context",
    "terminate": "participant_sdk.health",
}


def __dir__() -> list[str]:
    """The public names, also before they are used: for completion, and for who looks around in a prompt."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        missing = what_is_missing(error)
        if not missing:
            raise
        raise ImportError(f"{name} cannot be used: {missing}", name=error.name) from error
    globals()[name] = value
    return value
