"""What is to be delivered after a branch's commit, inside a MariaDB database: the tables `troth_outbox` and `troth_outbox_key`.

    troth_outbox        one row a message, as in PostgreSQL (`postgres_branches`); its position is given when it is inserted
    troth_outbox_key    65,536 rows, which are made once. A message with a key first changes the row of its key's number, and so
                        holds that key until the branch's outcome

InnoDB has no lock of a name that a prepared transaction keeps: `GET_LOCK` is the session's, which ends at the vote. It keeps the
locks of rows that it has *changed*, also when the server crashes. The rows are there beforehand, since the lock of a row that is
there is of that row alone at each isolation level, and nobody else's key waits in a gap. There are so many that two keys have the
same number one time in 65,536: then they wait for one another, and nothing else comes of it.
"""

from __future__ import annotations

import hashlib

from troth.mariadb.dialect import Dialect

KEYS = 65_536
_WORD = "CHARACTER SET utf8mb4 COLLATE {collation}"

_CREATE = (
    "CREATE TABLE IF NOT EXISTS troth_outbox (position BIGINT AUTO_INCREMENT PRIMARY KEY, id BINARY(16) NOT NULL,"
    f" topic VARCHAR(200) {_WORD} NOT NULL, `key` VARCHAR(200) {_WORD}, body LONGBLOB NOT NULL,"
    " made DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)), attempts INT NOT NULL DEFAULT 0,"
    f" due DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)), error TEXT {_WORD}, aside DATETIME(6),"
    " INDEX of_key (`key`, aside), INDEX of_topic (topic, aside, `key`)) ENGINE = InnoDB ROW_FORMAT = DYNAMIC",
    "CREATE TABLE IF NOT EXISTS troth_outbox_key (number INT UNSIGNED PRIMARY KEY, used BIGINT NOT NULL DEFAULT 0)"
    " ENGINE = InnoDB",
)
"""Times are UTC, by the database's clock. `collation` is the one of the server's dialect."""
TABLES = ("troth_outbox", "troth_outbox_key")

HAS_INDEX = (
    "SELECT 1 FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'troth_outbox'"
    " AND INDEX_NAME = 'of_topic' LIMIT 1"
)
ADD_INDEX = "ALTER TABLE troth_outbox ADD INDEX of_topic (topic, aside, `key`)"
"""Of a table that an earlier version made. It waits for every branch that is prepared, and others for it: so only where it is
missing."""

COUNT_KEYS = "SELECT COUNT(*) FROM troth_outbox_key"
_DIGITS = " UNION ALL ".join(f"SELECT {digit} AS n" for digit in range(16))
FILL_KEYS = (
    f"INSERT IGNORE INTO troth_outbox_key (number) WITH digit AS ({_DIGITS})"
    " SELECT ((a.n * 16 + b.n) * 16 + c.n) * 16 + d.n FROM digit AS a, digit AS b, digit AS c, digit AS d"
)
"""Only where rows are missing (`COUNT_KEYS`): it would wait for every branch that holds one."""

HOLD = "UPDATE troth_outbox_key SET used = used + 1 WHERE number = %s"
"""Changes one row. A change of nothing (`used = used`) would not be locked after a crash."""


def create(dialect: Dialect) -> tuple[str, ...]:
    """What makes the tables on a server of this dialect, where they are not there."""
    return tuple(statement.format(collation=dialect.word_collation) for statement in _CREATE)


def key_number(key: str) -> int:
    """The row that stands for a key; the same in every process."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % KEYS
