"""PostgreSQL as a participant's resource, and as the place of its log; needs the extra `postgres`."""

from participant_sdk.resources.postgres.resource import Postgres
from participant_sdk.resources.postgres.slot_logs import PostgresLog
from participant_sdk.resources.relational.resource import DatabaseLimits

__all__ = ["Postgres", "PostgresLimits", "PostgresLog"]


class PostgresLimits(DatabaseLimits):
    """The limits of `Postgres`: what they are is said of every database."""
