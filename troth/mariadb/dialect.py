"""What MariaDB and MySQL say differently: they speak one protocol, and XA in both does what a branch needs.

Which of them a server is, its version tells, which it says when a connection is made. Everything else here is one code for both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of the two."""

    name: str
    version_min: tuple[int, ...]
    """Of a server that keeps what Troth promises."""
    relay_version_min: tuple[int, ...]
    """Of one from which messages of the outbox are delivered (SKIP LOCKED)."""
    isolation: str
    """The session's variable for the isolation level."""
    statement_limit: str
    """That for the longest run of a statement; in MySQL of one that reads."""
    statement_unit: float
    """How many of its units a second has."""
    idle_limit: str
    """That for the longest silence, in seconds."""
    idle_ends_sessions: bool
    """Whether that limit holds outside of transactions too: a session that goes back to a pool has to lose it."""
    session_status: str
    """The table of the session's own counters."""
    word_collation: str
    """Compares bytes, and blanks at the end too."""
    listing_privilege: str
    """What a user needs for XA RECOVER; empty for nothing."""
    waiting: str
    """By table, how many sessions wait for transactions that no session has, which are prepared; and for how many seconds the
    first. The server does not tell which of these transactions an XA branch is."""
    waiting_grants: str
    """What a user needs for that, as SQL."""

    def settings(self, level: str, lock_seconds: int, statement_seconds: float, idle_seconds: int) -> dict[str, object]:
        """What a branch's session is set to: values by the names of variables, as the server shows them."""
        limit = statement_seconds * self.statement_unit
        return {
            self.isolation: level, "autocommit": 1, "innodb_lock_wait_timeout": lock_seconds, "lock_wait_timeout": lock_seconds,
            self.statement_limit: limit if self.statement_unit == 1.0 else max(1, round(limit)), self.idle_limit: idle_seconds,
        }  # fmt: skip


MARIADB = Dialect(
    name="MariaDB",
    version_min=(10, 5),  # since then a prepared branch outlives its session
    relay_version_min=(10, 6),
    isolation="tx_isolation",
    statement_limit="max_statement_time",
    statement_unit=1.0,
    idle_limit="idle_transaction_timeout",
    idle_ends_sessions=False,
    session_status="information_schema.SESSION_STATUS",
    word_collation="utf8mb4_nopad_bin",
    listing_privilege="",
    waiting=(
        "SELECT l.lock_table, COUNT(DISTINCT w.requesting_trx_id),"
        " MAX(TIMESTAMPDIFF(MICROSECOND, r.trx_wait_started, NOW(6))) / 1e6 FROM information_schema.INNODB_LOCK_WAITS AS w"
        " JOIN information_schema.INNODB_TRX AS t ON t.trx_id = w.blocking_trx_id AND t.trx_mysql_thread_id = 0"
        " JOIN information_schema.INNODB_TRX AS r ON r.trx_id = w.requesting_trx_id"
        " JOIN information_schema.INNODB_LOCKS AS l ON l.lock_id = w.requested_lock_id GROUP BY l.lock_table ORDER BY 1"
    ),
    waiting_grants="GRANT PROCESS ON *.* TO CURRENT_USER()",
)
MYSQL = Dialect(
    name="MySQL",
    version_min=(8, 0, 30),  # since then branches and the binary log agree after a crash; since 8.0.29 they leave their session
    relay_version_min=(8, 0, 30),
    isolation="transaction_isolation",
    statement_limit="max_execution_time",
    statement_unit=1000.0,
    idle_limit="wait_timeout",
    idle_ends_sessions=True,
    session_status="performance_schema.session_status",
    word_collation="utf8mb4_0900_bin",
    listing_privilege="XA_RECOVER_ADMIN",
    waiting=(
        "SELECT CONCAT('`', l.OBJECT_SCHEMA, '`.`', l.OBJECT_NAME, '`') AS place,"
        " COUNT(DISTINCT w.REQUESTING_ENGINE_TRANSACTION_ID),"
        " MAX(TIMESTAMPDIFF(MICROSECOND, r.trx_wait_started, NOW(6))) / 1e6 FROM performance_schema.data_lock_waits AS w"
        " JOIN information_schema.INNODB_TRX AS t ON t.trx_id = w.BLOCKING_ENGINE_TRANSACTION_ID AND t.trx_mysql_thread_id = 0"
        " JOIN information_schema.INNODB_TRX AS r ON r.trx_id = w.REQUESTING_ENGINE_TRANSACTION_ID"
        " JOIN performance_schema.data_locks AS l ON l.ENGINE_LOCK_ID = w.REQUESTING_ENGINE_LOCK_ID GROUP BY place ORDER BY 1"
    ),
    waiting_grants="GRANT PROCESS ON *.* TO CURRENT_USER(); GRANT SELECT ON performance_schema.* TO CURRENT_USER()",
)
_DIALECTS = (MARIADB, MYSQL)


def dialect_of(version: str) -> Dialect:
    """The dialect of a server that says this version of itself. What is no MariaDB is taken for MySQL."""
    return MARIADB if MARIADB.name.lower() in version.lower() else MYSQL


def wanted(*, relay: bool = False) -> str:
    """What servers there must be, for people."""
    least = ((one.name, one.relay_version_min if relay else one.version_min) for one in _DIALECTS)
    return " or ".join(f"{name} {'.'.join(map(str, version))}" for name, version in least) + " or newer"


def too_old(version: str, *, relay: bool = False) -> bool:
    """Whether a server of this version, as `VERSION()` says it, is none that there must be."""
    dialect = dialect_of(version)
    numbers = _NUMBERS.match(version)
    found = tuple(int(part) for part in numbers[0].split(".")) if numbers else ()
    return found < (dialect.relay_version_min if relay else dialect.version_min)
