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

if TYPE_CHECKING:
    from participant_sdk.branch import Branch
    from participant_sdk.participant import Limits, Participant
    from participant_sdk.resources.log_only import LogBranch, LogResource
    from participant_sdk.resources.sqlite import SqliteResource
    from participant_sdk.resources.sqlite_database import Database
    from troth.errors import Aborted, LogError, Refuse, RequestError, TrothError

__all__ = [
    "Aborted",
    "Branch",
    "Database",
    "Limits",
    "LogBranch",
    "LogError",
    "LogResource",
    "Participant",
    "Refuse",
    "RequestError",
    "SqliteResource",
    "TrothError",
]

_HOMES = {
    "Aborted": "troth.errors",
    "Branch": "participant_sdk.branch",
    "Database": "participant_sdk.resources.sqlite_database",
    "Limits": "participant_sdk.participant",
    "LogBranch": "participant_sdk.resources.log_only",
    "LogError": "troth.errors",
    "LogResource": "participant_sdk.resources.log_only",
    "Participant": "participant_sdk.participant",
    "Refuse": "troth.errors",
    "RequestError": "troth.errors",
    "SqliteResource": "participant_sdk.resources.sqlite",
    "TrothError": "troth.errors",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
