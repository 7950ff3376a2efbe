"""A cell in a PostgreSQL store: how many shards it has, which nodes live, and who has which shard.

What stands here about nodes is for liveness and for people. Nobody may write because of it: that is said by the epoch of each
shard's log alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace

import psycopg

from troth.cell import CellSeen, NodeSeen, ShardSeen, shard_names
from troth.errors import LogError, LogForeign, LogLocked, Reason
from troth.ids import check_name
from troth.log.postgres_leases import Leases
from troth.log.postgres_schema import lives
from troth.log.postgres_store import (
    Connection,
    changing,
    check_format,
    check_server,
    connect,
    from_error,
    make_log,
    make_tables,
    place,
)  # fmt: skip

ROLE = "coordinator"


_OURS = "split_part({0}.process, '/', 1) = %(life)s"
"""Whether a row of a node is that of this process. Its `process` is a random text, how much the node takes at most, which
features it uses and what its settings are, with slashes between: these have no columns of their own, since a version that is tried
beside another one must not change the tables of both."""

_JOIN = (
    "INSERT INTO troth.node AS n (cell, name, process, address, backend_pid, backend_start, expires_at)"
    " VALUES (%(cell)s, %(node)s, %(process)s, %(address)s, pg_backend_pid(),"
    " (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()),"
    " clock_timestamp() + make_interval(secs => %(seconds)s))"
    " ON CONFLICT (cell, name) DO UPDATE SET process = excluded.process, address = excluded.address,"
    f" draining = n.draining AND {_OURS.format('n')}, backend_pid = excluded.backend_pid,"
    " backend_start = excluded.backend_start, expires_at = excluded.expires_at"
    f" WHERE {_OURS.format('n')} OR NOT ({lives('n')})"
)
_BEAT = (
    "UPDATE troth.node SET expires_at = clock_timestamp() + make_interval(secs => %(seconds)s), draining = %(draining)s,"
    " process = %(process)s, backend_pid = pg_backend_pid(),"
    " backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())"
    f" WHERE cell = %(cell)s AND name = %(node)s AND {_OURS.format('node')}"
)
_LEAVING = (
    "UPDATE troth.lease SET leaving = true FROM troth.log WHERE lease.log = log.number AND lease.owner = %(node)s"
    " AND log.role = 'coordinator' AND log.name = ANY(%(leaving)s) AND NOT lease.leaving"
)
_NODES = (
    f"SELECT name, address, draining, {lives('node')}, extract(epoch FROM expires_at - clock_timestamp())::float8,"
    " coalesce(nullif(split_part(process, '/', 2), ''), '1')::float8,"
    " string_to_array(split_part(process, '/', 3), '+'), split_part(process, '/', 4)"
    " FROM troth.node WHERE cell = %(cell)s ORDER BY name"
)
_SHARDS = (
    f"SELECT log.name, coalesce(lease.owner, ''), coalesce({lives('lease')}, false), log.epoch,"
    " coalesce(lease.leaving, false),"
    " coalesce(extract(epoch FROM lease.expires_at - clock_timestamp()), 0)::float8"
    " FROM troth.log LEFT JOIN troth.lease ON lease.log = log.number"
    " WHERE log.role = 'coordinator' AND log.name = ANY(%(shards)s)"
)


async def init_cell(dsn: str, cell: str, shards: int) -> Sequence[str]:
    """Make the store where there is none, and the cell with its logs; returns those that were made. Raises `LogForeign` when the
    cell is there with another number of shards, which never changes: keys would move."""
    check_name("coordinator", cell)
    names = shard_names(cell, shards)
    async with changing(dsn, "troth store init") as connection:
        await make_tables(connection)
        there = await _cells(connection)
        if there.get(cell, shards) != shards:
            raise LogForeign(
                Reason.LOG_FOREIGN, f"the cell {cell!r} is there with {there[cell]} shards, and stays so",
                hint=f"Leave --shards {shards} out, or make a cell of another name.",
            )
        if cell not in there:
            await _check_free(connection, names)
        await connection.execute("INSERT INTO troth.cell (name, shards) VALUES (%s, %s) ON CONFLICT DO NOTHING", (cell, shards))
        return [name for name in names if await make_log(connection, ROLE, name)]


async def _cells(connection: Connection) -> dict[str, int]:
    cursor = await connection.execute("SELECT name, shards FROM troth.cell ORDER BY name")
    return dict(await cursor.fetchall())


async def _check_free(connection: Connection, names: Sequence[str]) -> None:
    """A new cell takes over no log: `c1` and a shard of the cell `c` must not be the same coordinator."""
    taken = "SELECT name FROM troth.log WHERE role = %s AND name = ANY(%s) LIMIT 1"
    cursor = await connection.execute(taken, (ROLE, list(names)))
    row = await cursor.fetchone()
    if row is not None:
        raise LogForeign(Reason.LOG_FOREIGN, f"a log of the coordinator {row[0]!r} is there already", hint="Choose another name.")


class CellStore:
    """One node's view of its cell, and its own place in it. `node` is its name, `address` where it is reached."""

    def __init__(self, dsn: str, cell: str, leases: Leases) -> None:
        self._dsn = dsn
        self._leases = leases
        self.cell = cell
        self.node = ""
        self.canary = 1.0
        """The part of the shards that this node takes at most; told with the next beat."""
        self.features: Collection[str] = ()
        """What this node uses of what an older version does not know; told with the next beat."""
        self.settings = ""
        """What its settings are, without a slash; told with the next beat."""
        self._life = secrets.token_hex(8)
        self.shards: Sequence[str] = ()
        """The names of the cell's shards; known after `open`."""

    def _own(self, **more: object) -> dict[str, object]:
        process = f"{self._life}/{self.canary:.6g}/{'+'.join(sorted(self.features))}/{self.settings}"
        who = {"cell": self.cell, "node": self.node, "life": self._life, "process": process}
        return {**who, "seconds": self._leases.seconds, **more}

    async def open(self) -> None:
        """Check the server, the format and the cell. Raises `LogError`: LOG_AWAY, STORE_UNSAFE, LOG_FOREIGN, LOG_TOO_NEW."""
        connection = await connect(self._dsn, f"troth node {self.cell}")
        try:
            await check_server(connection, self._dsn)
            await check_format(connection)
            there = await _cells(connection)
            if self.cell not in there:
                raise LogForeign(
                    Reason.LOG_FOREIGN,
                    f"the store in {place(connection)} has no cell {self.cell!r}; it has {', '.join(map(repr, there)) or 'none'}",
                    hint=f"Name another store or cell, or make it: `troth store init --name {self.cell}`.",
                )
        except psycopg.Error as error:
            raise from_error(f"the cell {self.cell!r}", error, "read") from error
        finally:
            await connection.close()
        self.shards = shard_names(self.cell, there[self.cell])

    async def join(self, node: str, address: str) -> None:
        """Live in the cell from now on. Raises `LogLocked` while another process has this node's name."""
        self.node = node
        async with self._leases.connected("joined") as connection:
            joined = await connection.execute(_JOIN, self._own(address=address))
        if joined.rowcount == 0:
            raise LogLocked(
                Reason.LOG_LOCKED, f"another process of the cell {self.cell!r} is the node {node!r}, and lives",
                hint="Give each node a name and an address of its own (`node`, `advertise`), or stop that process.",
            )

    async def beat(self, address: str, *, draining: bool, leaving: Collection[str]) -> CellSeen:
        """Say that this node lives and what it gives away, and look at the cell. Raises `LogError` when the store does not tell."""
        own = self._own(draining=draining, leaving=list(leaving), shards=list(self.shards))
        async with self._leases.connected("looked at") as connection:
            async with connection.pipeline():
                beaten = await connection.execute(_BEAT, own)
                if leaving:
                    await connection.execute(_LEAVING, own)
                nodes = await connection.execute(_NODES, own)
                shards = await connection.execute(_SHARDS, own)
                seen_nodes = tuple(NodeSeen(*row) for row in await nodes.fetchall())
                seen = {row[0]: ShardSeen(*row) for row in await shards.fetchall()}
            lives = beaten.rowcount > 0
        if len(seen) != len(self.shards):
            raise LogError(Reason.LOG_FOREIGN, f"the store lacks logs of shards of the cell {self.cell!r}")
        if not lives:
            await self.join(self.node, address)  # it was taken for dead, and its row is gone or somebody else's
            seen_nodes = tuple(replace(one, lives=True) if one.name == self.node else one for one in seen_nodes)
        return CellSeen(seen_nodes, tuple(seen[name] for name in self.shards))

    async def batches(self) -> dict[str, int]:
        """How many rows the log of each shard has. For people: it counts them."""
        counted = (
            "SELECT log.name, count(batch.log) FROM troth.log LEFT JOIN troth.batch ON batch.log = log.number"
            " WHERE log.role = 'coordinator' AND log.name = ANY(%(shards)s) GROUP BY log.name"
        )
        async with self._leases.connected("counted") as connection:
            cursor = await connection.execute(counted, {"shards": list(self.shards)})
            return dict(await cursor.fetchall())

    async def leave(self) -> None:
        """Live in the cell no more."""
        async with self._leases.connected("left") as connection:
            left = f"DELETE FROM troth.node WHERE cell = %(cell)s AND name = %(node)s AND {_OURS.format('node')}"
            await connection.execute(left, self._own())
