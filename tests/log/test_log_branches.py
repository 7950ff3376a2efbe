"""The table that proves what became of branches is made beside the logs, once, for a role that may use it."""

from __future__ import annotations

from log_samples import PostgresStore

from troth.log import postgres_branches
from troth.log.postgres_store import connect, init


async def test_it_is_made_once_and_granted(postgres_store: PostgresStore) -> None:
    for _ in range(2):
        assert await init(postgres_store.dsn, "participant", (), branches=True, grant_to="pg_monitor") == []
    connection = await connect(postgres_store.dsn, "test")
    try:
        await connection.execute("SET ROLE pg_monitor")
        _, replica, made, role, _, granted = await (await connection.execute(postgres_branches.CHECK)).fetchone() or ()
        assert (replica, made, role, granted) == (False, True, "pg_monitor", True)
        found = [await (await connection.execute(postgres_branches.ENTOMB, {"gid": "g"})).fetchone() for _ in range(2)]
        assert found == [(False,), (False,)]
        await connection.execute(postgres_branches.FORGET, (["g"],))
    finally:
        await connection.close()
