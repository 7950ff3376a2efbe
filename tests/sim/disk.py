"""What survives a crash: records, and the bank's rows as of the same moment."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.sim.bank import Bank, Rows
from troth.ready import Append, Event


class DiskFailed(Exception):
    """The sync failed: the process must stop."""


class Disk:
    """One process's disk. Batches go to a volatile tail; a sync moves the tail to what is durable."""

    def __init__(self, bank: Bank | None = None) -> None:
        self.bank = bank
        self._durable: list[tuple[int, bytes]] = []
        self._rows: Rows | None = bank.rows.copy() if bank else None
        self._tail: list[tuple[list[tuple[int, bytes]], int, Rows | None]] = []
        self.next_seq = 1
        self.syncs = 0
        self.fail_next = False

    def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int) -> tuple[list[int], list[Event | None]]:
        """Carry a batch out; it is in the tail afterwards, and durable if `sync`."""
        if self.fail_next:
            self.fail_next = False
            raise DiskFailed
        written: list[tuple[int, bytes]] = []
        seqs: list[int] = []
        events: list[Event | None] = []
        for append in batch:
            event, keeps = None, True
            if append.apply is not None:
                assert self.bank is not None
                event, keeps = self.bank.apply(append.apply, append.record)  # type: ignore[arg-type]  # participants only
            events.append(event)
            if append.record is None or not keeps:
                seqs.append(0)
                continue
            seqs.append(self.next_seq)
            written.append((self.next_seq, append.record.SerializeToString()))
            self.next_seq += 1
        self._tail.append((written, drop_below, self.bank.rows.copy() if self.bank else None))
        if sync:
            self.syncs += 1
            self._settle(len(self._tail))
        return seqs, events

    def _settle(self, count: int) -> None:
        for written, drop_below, rows in self._tail[:count]:
            self._durable.extend(written)
            if drop_below:
                self._durable = [record for record in self._durable if record[0] >= drop_below]
            self._rows = rows
        del self._tail[:count]

    def crash(self, random: random.Random) -> None:
        """Lose a part of what was not synced: any suffix of the tail."""
        self._settle(random.randint(0, len(self._tail)))
        self._tail.clear()
        if self.bank is not None:
            assert self._rows is not None
            self.bank.rows = self._rows.copy()
            self.bank.row_locks.clear()

    def read(self) -> tuple[list[int], list[bytes]]:
        """What a start finds."""
        return [seq for seq, _ in self._durable], [body for _, body in self._durable]

    def durable_rows(self) -> Rows:
        """The rows as a crash would leave them."""
        assert self._rows is not None
        return self._rows
