"""What every log must do. A log proves itself by a subclass with a fixture `store` (see `log_samples.Store`)."""

from __future__ import annotations

import pytest
from log_samples import Store, batch, numbers, record

from troth.errors import LogFailed, LogForeign, LogLocked
from troth.ready import Append


class LogContract:
    """The suite of the log's contract."""

    async def test_a_new_log_is_empty_and_keeps_its_identity(self, store: Store) -> None:
        log = store.log()
        identity, records = await log.open()
        await log.close()
        again = store.log()
        assert (identity.role, identity.name, len(identity.log_id)) == ("coordinator", "c1", 32)
        assert (await again.open(), list(records)) == ((identity, []), [])
        await again.close()

    async def test_seqs_begin_at_one_have_no_gaps_and_go_on_after_a_restart(self, store: Store) -> None:
        log = store.log()
        await log.open()
        assert list((await log.write(batch(10, 11), sync=True)).seqs) == [1, 2]
        assert list((await log.write(batch(12), sync=True)).seqs) == [3]
        await log.close()
        log = store.log()
        _, records = await log.open()
        assert [stored.seq for stored in records] == [1, 2, 3]
        assert numbers(records) == [10, 11, 12]
        assert list((await log.write(batch(13), sync=True)).seqs) == [4]
        await log.close()

    async def test_bodies_come_back_byte_for_byte(self, store: Store) -> None:
        log = store.log()
        await log.open()
        large = record(1, size=20_000)
        await log.write([Append(large)], sync=True)
        await log.close()
        log = store.log()
        _, records = await log.open()
        await log.close()
        assert records[0].body == large.SerializeToString()

    async def test_an_append_without_record_takes_no_seq(self, store: Store) -> None:
        log = store.log()
        await log.open()
        written = await log.write([*batch(1), Append(None), *batch(2)], sync=True)
        await log.close()
        assert (list(written.seqs), list(written.events)) == ([1, 0, 2], [None, None, None])

    async def test_an_empty_batch_is_nothing(self, store: Store) -> None:
        log = store.log()
        await log.open()
        written = await log.write([], sync=True)
        await log.close()
        assert (list(written.seqs), list(written.events)) == ([], [])

    async def test_the_head_is_dropped(self, store: Store) -> None:
        log = store.log()
        await log.open()
        await log.write(batch(1, 2, 3), sync=True)
        await log.write(batch(4), sync=True, drop_below=3)
        await log.close()
        log = store.log()
        _, records = await log.open()
        await log.close()
        assert [stored.seq for stored in records] == [3, 4]

    async def test_the_newest_record_stays_so_that_seqs_go_on(self, store: Store) -> None:
        log = store.log()
        await log.open()
        await log.write(batch(1, 2, 3), sync=True)
        await log.write([], sync=True, drop_below=99)
        await log.close()
        log = store.log()
        _, records = await log.open()
        assert [stored.seq for stored in records] == [3]
        assert list((await log.write(batch(4), sync=True)).seqs) == [4]
        await log.close()

    async def test_what_was_synced_survives_a_crash(self, store: Store) -> None:
        log, successor = store.log(), None
        await log.open()
        await log.write(batch(1, 2), sync=True)
        await log.write(batch(3), sync=True, drop_below=2)
        store.crash()
        successor = store.log()
        _, records = await successor.open()
        await successor.close()
        await log.close()
        assert numbers(records) == [2, 3]

    async def test_of_unsynced_batches_a_crash_leaves_whole_ones_in_order(self, store: Store) -> None:
        log = store.log()
        await log.open()
        await log.write(batch(1), sync=True)
        for first in (2, 4, 6):
            await log.write(batch(first, first + 1), sync=False)
        store.crash()
        successor = store.log()
        _, records = await successor.open()
        await successor.close()
        await log.close()
        assert numbers(records) in ([1], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7])

    async def test_a_sync_covers_the_unsynced_batches_before_it(self, store: Store) -> None:
        log = store.log()
        await log.open()
        await log.write(batch(1, 2), sync=False)
        await log.write(batch(3), sync=False, drop_below=2)
        await log.write(batch(4), sync=True)
        store.crash()
        successor = store.log()
        _, records = await successor.open()
        await successor.close()
        await log.close()
        assert numbers(records) == [2, 3, 4]

    async def test_closing_loses_nothing(self, store: Store) -> None:
        log = store.log()
        await log.open()
        await log.write(batch(1), sync=False)
        await log.close()
        log = store.log()
        _, records = await log.open()
        await log.close()
        assert numbers(records) == [1]

    async def test_a_log_has_one_writer(self, store: Store) -> None:
        log = store.log()
        await log.open()
        with pytest.raises(LogLocked):
            await store.log().open()
        await log.write(batch(1), sync=True)
        await log.close()
        successor = store.log()
        _, records = await successor.open()
        await successor.close()
        assert numbers(records) == [1]

    @pytest.mark.parametrize(("role", "name"), [("participant", "c1"), ("coordinator", "c2"), ("coordinator", "c")])
    async def test_a_log_of_somebody_else_is_refused(self, store: Store, role: str, name: str) -> None:
        log = store.log()
        await log.open()
        await log.close()
        with pytest.raises(LogForeign):
            await store.log(role, name).open()
        log = store.log()
        await log.open()
        await log.close()

    async def test_a_closed_log_takes_nothing_and_may_be_closed_again(self, store: Store) -> None:
        log = store.log()
        await log.open()
        await log.close()
        with pytest.raises(LogFailed):
            await log.write(batch(1), sync=True)
        await log.close()
