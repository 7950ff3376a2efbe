"""The format of logs inside a PostgreSQL database, version 2: six tables in the schema `troth`.

    store    one row: the version of this format, and the random id of the store
    log      one row a log: role, name, log_id, and the epoch of whoever owns it
    batch    one row a batch: its first seq, its records packed into one body, a checksum over both; append-only
    lease    one row a log that is owned: by whom, on which backend, until when by the database's clock; whether it is given away
    cell     one row a cell of coordinators: its name, and the number of its shards, which never changes
    node     one row a node of a cell that lives: its name, where it is reached, until when by the database's clock

Leases stand apart from `log`: renewing one must not wait for an
append, nor an append for it.
"""

from __future__ import annotations

FORMAT_VERSION = 2
SERVER_VERSION_MIN = 130_000
"""PostgreSQL 13, as `server_version_num` writes it."""

_CELLS = (
    "CREATE TABLE troth.cell (name text PRIMARY KEY, shards integer NOT NULL CHECK (shards > 0))",
    "CREATE TABLE troth.node (cell text NOT NULL REFERENCES troth.cell, name text NOT NULL, process text NOT NULL,"
    " address text NOT NULL, draining boolean NOT NULL DEFAULT false, backend_pid integer NOT NULL, backend_start timestamptz,"
    " expires_at timestamptz NOT NULL, PRIMARY KEY (cell, name))",
)
"""What version 2 brought."""

CREATE = (
    "CREATE SCHEMA IF NOT EXISTS troth",
    "CREATE TABLE troth.store (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),"
    " format_version integer NOT NULL, store_id text NOT NULL)",
    "CREATE TABLE troth.log (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, role text NOT NULL, name text NOT NULL,"
    " log_id text NOT NULL UNIQUE, epoch bigint NOT NULL DEFAULT 0, UNIQUE (role, name))",
    "CREATE TABLE troth.batch (log bigint NOT NULL, first_seq bigint NOT NULL, records integer NOT NULL,"
    " drop_below bigint NOT NULL, crc bigint NOT NULL, body bytea NOT NULL, PRIMARY KEY (log, first_seq))",
    "CREATE TABLE troth.lease (log bigint PRIMARY KEY REFERENCES troth.log, epoch bigint NOT NULL, owner text NOT NULL,"
    " backend_pid integer NOT NULL, backend_start timestamptz, expires_at timestamptz NOT NULL,"
    " leaving boolean NOT NULL DEFAULT false)",
    *_CELLS,
)

UPGRADES: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE troth.lease ADD COLUMN leaving boolean NOT NULL DEFAULT false",
        *_CELLS,
        # What was one coordinator is a cell of one shard, of the same name.
        "INSERT INTO troth.cell (name, shards) SELECT name, 1 FROM troth.log WHERE role = 'coordinator'",
    ),
}
"""By the version that a store has: what makes it the next one."""

APPEND = (
    "INSERT INTO troth.batch (log, first_seq, records, drop_below, crc, body)"
    " SELECT held.number, %(first_seq)s, %(records)s, %(drop_below)s, %(crc)s, %(body)s"
    " FROM (SELECT number FROM troth.log WHERE number = %(log)s AND epoch = %(epoch)s FOR SHARE) AS held"
)
"""One round trip. No row means fenced: a claim raised the epoch. FOR SHARE, not FOR KEY SHARE, which a claim that only updates
passes by; the claim locks FOR UPDATE, so it waits for the appends before it, and no append lands after it."""

HIDE = (
    "UPDATE troth.batch SET drop_below = greatest(drop_below, %(drop_below)s)"
    " WHERE log = (SELECT number FROM troth.log WHERE number = %(log)s AND epoch = %(epoch)s FOR SHARE)"
    " AND first_seq = (SELECT max(first_seq) FROM troth.batch WHERE log = %(log)s)"
)
"""Lets the newest batch say what is dropped, where no further one does. No row means fenced, or an empty log."""

DROP = (
    "DELETE FROM troth.batch WHERE log = (SELECT number FROM troth.log WHERE number = %(log)s AND epoch = %(epoch)s FOR SHARE)"
    " AND first_seq + records <= %(drop_below)s"
)
"""Whole batches. Of one that straddles the border, `drop_below` of a later batch hides the head."""

NAMES = "SELECT role || ' ' || quote_literal(name) FROM troth.log ORDER BY 1 LIMIT 5"

CLAIM = "SELECT number, log_id, epoch FROM troth.log WHERE role = %(role)s AND name = %(name)s FOR UPDATE"

_LIVES = (
    "{0}.expires_at > clock_timestamp() AND EXISTS (SELECT FROM pg_stat_activity AS backend WHERE backend.pid = {0}.backend_pid"
    " AND (backend.backend_start IS NULL OR backend.backend_start = {0}.backend_start))"
)


def lives(row: str) -> str:
    """Whether the owner of a lease, or a node, lives, as SQL over its row. Whose backend is gone has lost his connection, and with
    it what he had: he is replaced without waiting for his lease."""
    return _LIVES.format(row)


HELD = (
    "SELECT owner, extract(epoch FROM expires_at - clock_timestamp())::float8 FROM troth.lease"
    f" WHERE log = %(log)s AND {lives('lease')}"
)
"""Who has the log, and for how many seconds."""

TAKE = (
    "WITH mine AS (UPDATE troth.log SET epoch = epoch + 1 WHERE number = %(log)s RETURNING number, epoch)"
    " INSERT INTO troth.lease AS l SELECT mine.number, mine.epoch, %(owner)s, pg_backend_pid(),"
    " (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()),"
    " clock_timestamp() + make_interval(secs => %(seconds)s) FROM mine"
    " ON CONFLICT (log) DO UPDATE SET epoch = excluded.epoch, owner = excluded.owner, backend_pid = excluded.backend_pid,"
    " backend_start = excluded.backend_start, expires_at = excluded.expires_at, leaving = false RETURNING l.epoch"
)

RENEW = (
    "UPDATE troth.lease SET expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)"
    " FROM unnest(%(logs)s::bigint[], %(epochs)s::bigint[], %(owners)s::text[]) AS mine (log, epoch, owner)"
    " WHERE lease.log = mine.log AND lease.epoch = mine.epoch AND lease.owner = mine.owner"
    " RETURNING lease.log, lease.epoch, lease.owner"
)
"""Of all logs of one process at once; those that somebody else has claimed are not among what comes back."""

RELEASE = "DELETE FROM troth.lease WHERE log = %(log)s AND epoch = %(epoch)s AND owner = %(owner)s"

READ = "SELECT first_seq, records, drop_below, crc, body FROM troth.batch WHERE log = %(log)s ORDER BY first_seq"
