"""MariaDB as a participant's resource, and as the place of its log; needs the extra `mariadb`."""

from participant_sdk.resources.mariadb.resource import MariaDB
from participant_sdk.resources.mariadb.slot_logs import MariadbLog
from participant_sdk.resources.relational.resource import DatabaseLimits

__all__ = ["MariaDB", "MariadbLimits", "MariadbLog"]


class MariadbLimits(DatabaseLimits):
    """The limits of `MariaDB`: what they are is said of every database."""
