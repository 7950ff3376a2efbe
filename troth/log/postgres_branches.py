"""The proof of what became of a branch, inside a PostgreSQL database: the table `troth.branch`.

    gid         the name under which the branch was prepared, or would have been (`troth.gids`)
    committed   true: written in the branch's own transaction, so it is there exactly if the branch committed
                false: a tombstone, written by whoever asked for the branch and did not find it; it never commits any more
    at          when

One primary key makes the two exclude each other: whoever comes second waits for the first to end, and then finds its row. So
"absent" becomes "cannot arrive any more" in one local transaction, whatever a slow backend is still about to do.
"""

from __future__ import annotations


def _index(name: str, columns: str) -> str:
    """Makes an index of what waits in the outbox, where there is none. `IF NOT EXISTS` would lock the table before it looks: it
    waits for every branch that is prepared, and others for it."""
    made = f"CREATE INDEX {name} ON troth.outbox ({columns}) WHERE aside IS NULL"
    return f"DO $$ BEGIN IF to_regclass('troth.{name}') IS NULL THEN {made}; END IF; END $$"


CREATE = (
    "CREATE SCHEMA IF NOT EXISTS troth",
    'CREATE TABLE IF NOT EXISTS troth.branch (gid text COLLATE "C" PRIMARY KEY, committed boolean NOT NULL DEFAULT true,'
    " at timestamptz NOT NULL DEFAULT clock_timestamp())",
    # What is to be delivered after the commit; see participant_sdk/outbox.
    "CREATE TABLE IF NOT EXISTS troth.outbox (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " id uuid NOT NULL DEFAULT gen_random_uuid(), topic text NOT NULL, key text, body bytea NOT NULL,"
    " made timestamptz NOT NULL DEFAULT clock_timestamp(), attempts int NOT NULL DEFAULT 0,"
    " due timestamptz NOT NULL DEFAULT clock_timestamp(), error text, aside timestamptz)",
    _index("outbox_key", "key, position"),
    _index("outbox_topic", "topic, key, position"),
)
HAS_INDEX = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('troth.outbox_topic') AND indisvalid"
"""An outbox of an earlier version has none of topics."""

MARK = "INSERT INTO troth.branch (gid) SELECT %s WHERE pg_current_xact_id_if_assigned() IS NOT NULL"
"""The branch's last statement before its vote. No row: it has changed nothing, locked nothing, and needs no proof."""

ENTOMB = (
    "WITH tombstone AS (INSERT INTO troth.branch (gid, committed) VALUES (%(gid)s, false) ON CONFLICT (gid) DO NOTHING"
    " RETURNING committed) SELECT committed FROM tombstone UNION ALL SELECT committed FROM troth.branch WHERE gid = %(gid)s"
)
"""What became of a branch that is not prepared, for good. Waits for a transaction that has the branch's marker. No row: the marker
came while this waited, and the same statement tells next time."""

FORGET = "DELETE FROM troth.branch WHERE gid = ANY(%s)"

CLEAN = "DELETE FROM troth.branch WHERE starts_with(gid, %s) AND NOT committed AND at < clock_timestamp() - interval '7 days'"
"""Drops tombstones of branches that no backend can still be working for."""

LIST = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, %s)"

HELD = (
    "WITH locks AS MATERIALIZED (SELECT * FROM pg_locks),"
    " ours AS (SELECT * FROM pg_prepared_xacts WHERE CASE WHEN database = current_database() THEN starts_with(gid, %s) END),"
    " own AS (SELECT * FROM locks WHERE CASE WHEN locktype = 'transactionid' AND granted THEN pid IS NULL END),"
    " held AS (SELECT p.gid, l.* FROM ours AS p JOIN own ON own.transactionid = p.transaction"
    "   JOIN locks AS l ON l.virtualtransaction = own.virtualtransaction AND CASE WHEN l.pid IS NULL THEN true END),"
    " asked AS (SELECT *, (to_jsonb(l)->>'waitstart')::timestamptz AS since FROM locks AS l WHERE NOT granted),"
    " waits AS (SELECT gid, count(DISTINCT pid)::int AS sessions,"
    "   max(extract(epoch FROM clock_timestamp() - since))::float8 AS seconds FROM ("
    "     SELECT held.gid, w.pid, w.since FROM asked AS w JOIN held ON w.transactionid = held.transactionid"
    "     UNION ALL SELECT held.gid, w.pid, w.since FROM asked AS w JOIN held ON w.relation = held.relation"
    "     AND w.locktype = held.locktype AND w.page IS NOT DISTINCT FROM held.page AND w.tuple IS NOT DISTINCT FROM held.tuple"
    "   ) AS found GROUP BY gid),"
    " places AS (SELECT held.gid, array_agg(DISTINCT held.relation::regclass::text) AS tables FROM held JOIN pg_class AS c"
    "   ON c.oid = held.relation AND c.relkind = 'r' JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname <> 'pg_catalog'"
    "   AND (n.nspname, c.relname) <> ('troth', 'branch') GROUP BY held.gid)"
    " SELECT p.gid, p.owner::text, extract(epoch FROM clock_timestamp() - p.prepared)::float8,"
    " coalesce(places.tables, '{}'), coalesce(waits.sessions, 0), coalesce(waits.seconds, 0)"
    " FROM ours AS p LEFT JOIN waits ON waits.gid = p.gid LEFT JOIN places ON places.gid = p.gid"
    " ORDER BY coalesce(waits.sessions, 0) DESC, p.prepared LIMIT 1000"
)
"""Each prepared branch with this beginning of its name: its owner, its age in seconds, its tables, how many sessions wait for it,
and for how many seconds the first of them has (PostgreSQL 14 and newer; else 0). A thousand, those first for which most wait.

The planner takes what is in a CASE for half of all rows, and joins by hashing. The conditions themselves it takes for one row, and
compares each with each: ten seconds where 1500 branches are prepared."""

CHECK = (
    "WITH there AS (SELECT c.oid AS branches, n.oid AS place FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE n.nspname = 'troth' AND c.relname = 'branch')"
    " SELECT current_setting('max_prepared_transactions')::int, pg_is_in_recovery(), EXISTS (SELECT FROM there),"
    " current_user, current_database(), coalesce((SELECT has_schema_privilege(place, 'USAGE')"
    " AND has_table_privilege(branches, 'SELECT') AND has_table_privilege(branches, 'INSERT')"
    " AND has_table_privilege(branches, 'DELETE') FROM there), true)"
)
"""By oid: names of a schema that one may not use cannot be looked up."""


def grants(role: str) -> list[str]:
    """What a role needs besides its own tables, to have branches and to keep its log here."""
    return [
        f"GRANT USAGE ON SCHEMA troth TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA troth TO {role}",
    ]
