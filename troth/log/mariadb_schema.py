"""The format of logs inside a MariaDB database, version 1: four tables beside the service's own.

    troth_store    one row: the version of this format, and the random id of the store
    troth_log      one row a log: role, name, log_id, and the epoch of whoever owns it
    troth_batch    one row a batch (`batches`); append-only
    troth_lease    one row a log that is owned: by whom, until when by the database's clock, and the name of a lock that the owner's
                   session holds: it is free as soon as that session ends

Leases stand apart from logs: renewing one must not wait for an append, nor an append for it. All sessions read committed data: what
a claim reads behind its lock is what is there.
"""

from __future__ import annotations

FORMAT_VERSION = 1
PACKET_BYTES_MIN = 16 * 1024 * 1024
"""Of `max_allowed_packet`, which is its default."""
BATCH_BYTES_MAX = 4 * 1024 * 1024
"""What one row holds: written as text it is at most twice that."""

_NAME = "VARCHAR(80) CHARACTER SET ascii COLLATE ascii_bin NOT NULL"
CREATE = (
    "CREATE TABLE troth_store (only_row TINYINT PRIMARY KEY DEFAULT 1 CHECK (only_row = 1), format_version INT NOT NULL,"
    f" store_id {_NAME}) ENGINE = InnoDB",
    f"CREATE TABLE troth_log (number BIGINT AUTO_INCREMENT PRIMARY KEY, role {_NAME}, name {_NAME}, log_id {_NAME} UNIQUE,"
    " epoch BIGINT NOT NULL DEFAULT 0, UNIQUE (role, name)) ENGINE = InnoDB",
    "CREATE TABLE troth_batch (log BIGINT NOT NULL, first_seq BIGINT NOT NULL, records INT NOT NULL, drop_below BIGINT NOT NULL,"
    " crc BIGINT NOT NULL, body LONGBLOB NOT NULL, PRIMARY KEY (log, first_seq)) ENGINE = InnoDB",
    f"CREATE TABLE troth_lease (log BIGINT PRIMARY KEY, epoch BIGINT NOT NULL, owner VARCHAR(200) NOT NULL, life {_NAME},"
    " expires_at DATETIME(6) NOT NULL) ENGINE = InnoDB",
)
TABLES = ("troth_store", "troth_log", "troth_batch", "troth_lease")

APPEND = (
    "INSERT INTO troth_batch (log, first_seq, records, drop_below, crc, body)"
    " SELECT number, %(first_seq)s, %(records)s, %(drop_below)s, %(crc)s, %(body)s"
    " FROM troth_log WHERE number = %(log)s AND epoch = %(epoch)s LOCK IN SHARE MODE"
)
"""One round trip. No row means fenced: a claim raised the epoch. A locking read sees what is committed when it gets its lock, so
what waited behind a claim finds the new epoch."""

STILL_OURS = "SELECT 1 FROM troth_log WHERE number = %(log)s AND epoch = %(epoch)s LOCK IN SHARE MODE"

HIDE = (
    "UPDATE troth_batch SET drop_below = GREATEST(drop_below, %(drop_below)s) WHERE log = %(log)s"
    " ORDER BY first_seq DESC LIMIT 1"
)
"""Lets the newest batch say what is dropped, where no further one does; behind `STILL_OURS`."""

DROP = "DELETE FROM troth_batch WHERE log = %(log)s AND first_seq + records <= %(drop_below)s"
"""Whole batches. Of one that straddles the border, `drop_below` of a later batch hides the head. Behind `STILL_OURS`."""

NAMES = "SELECT CONCAT(role, ' ', QUOTE(name)) FROM troth_log ORDER BY 1 LIMIT 5"
CLAIM = "SELECT number, log_id, epoch FROM troth_log WHERE role = %(role)s AND name = %(name)s FOR UPDATE"

LIVES = "({0}.expires_at > UTC_TIMESTAMP(6) AND IS_USED_LOCK(COALESCE({0}.life, '-')) IS NOT NULL)"
"""Whether the owner of a lease lives. Whose session is gone has lost his connection, and with it what he had: he is replaced
without waiting for his lease. (MySQL takes no name that is NULL, as that of a log without a lease.)"""

HELD = (
    "SELECT owner, TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at) / 1e6 FROM troth_lease AS l"
    f" WHERE log = %(log)s AND {LIVES.format('l')}"
)
"""Who has the log, and for how many seconds."""

RAISE = "UPDATE troth_log SET epoch = epoch + 1 WHERE number = %(log)s"
_UNTIL = "UTC_TIMESTAMP(6) + INTERVAL %(microseconds)s MICROSECOND"
TAKE = (
    "REPLACE INTO troth_lease (log, epoch, owner, life, expires_at)"
    f" VALUES (%(log)s, %(epoch)s, %(owner)s, %(life)s, {_UNTIL})"
)
LIVE = "SELECT GET_LOCK(%(life)s, 0)"
RENEW = f"UPDATE troth_lease SET expires_at = {_UNTIL} WHERE log = %(log)s AND epoch = %(epoch)s AND owner = %(owner)s"
MINE = "SELECT log, epoch, owner FROM troth_lease WHERE log IN ({})"
RELEASE = "DELETE FROM troth_lease WHERE log = %(log)s AND epoch = %(epoch)s AND owner = %(owner)s"

READ = "SELECT first_seq, records, drop_below, crc, body FROM troth_batch WHERE log = %(log)s ORDER BY first_seq"

SLOTS = (
    f"SELECT o.name, l.log IS NOT NULL, COALESCE({LIVES.format('l')}, 0) FROM troth_log AS o LEFT JOIN troth_lease AS l"
    " ON l.log = o.number WHERE o.role = %s AND LEFT(o.name, CHAR_LENGTH(%s)) = %s ORDER BY LENGTH(o.name), o.name"
)
"""Each slot of a service: whether somebody has taken it and not given it back, and whether he has it still."""
