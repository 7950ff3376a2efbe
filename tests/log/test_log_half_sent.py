"""An append of which only the beginning arrived, from a node that is gone without the server's noticing."""

from __future__ import annotations

from log_samples import PostgresStore, batch, numbers, opened

from troth.log import postgres_schema
from troth.log.postgres import PostgresLog


async def test_a_claim_does_not_wait_for_the_rest_of_an_append_that_never_comes(postgres_store: PostgresStore) -> None:
    gone = await opened(postgres_store, lease_seconds=0.5)
    await gone.write(batch(1), sync=True)
    gone._leases.discard(gone)
    await gone._connection.execute("BEGIN")
    row = gone._own(first_seq=2, records=1, drop_below=0, crc=0, body=b"")
    assert (await gone._connection.execute(postgres_schema.APPEND, row)).rowcount == 1, "it holds the log's row from now on"
    await postgres_store.query("UPDATE troth.lease SET expires_at = clock_timestamp()")
    after = PostgresLog(postgres_store.dsn, role="coordinator", name="c1")
    _, records = await after.open()
    assert numbers(records) == [1], "and it was not written"
    await after.close()
    await gone.close()
