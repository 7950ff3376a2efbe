"""What survives a crash: records, and the bank's rows as of the same moment.

A batch is written as one transaction that ends in a mark, as in SQLite's write-ahead log. What a crash leaves of a batch without
its mark is torn, and the next start cuts it. A process has its disk to itself: a second one finds the lock and does not start.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.sim.bank import Bank, Rows
from troth.ready import Append, Event

Records = list[tuple[int, bytes]]


class DiskFailed(Exception):
    """A write or a sync failed: the process must stop."""


class Locked(Exception):
    """Another process has the log."""


class Batch(NamedTuple):
    """One transaction of the log."""

    records: Records
    drop_below: int
    rows: Rows | None
    marked: bool = True
    """Whether its end is there too."""


class Disk:
    """One process's disk. Batches go to a volatile tail; a sync moves the tail to what is durable."""

    def __init__(self, bank: Bank | None = None) -> None:
        self.bank = bank
        self.holder: object = None
        """The process that has the lock."""
        self.durable: Records = []
        self._rows: Rows | None = bank.rows.copy() if bank else None
        self._tail: list[Batch] = []
        self.next_seq = 1
        self.syncs = 0
        self.log_id = ""
        """Shared by copies."""
        self.failing = ""
        """`sync error`: the next sync fails, and what it was to keep may be kept or not; `disk full`: nothing can be written."""
        self.torn = 0
        """Batches that a start has cut."""
        self.history: list[tuple[Records, Rows | None]] | None = None
        """What was durable after each sync, where somebody may put one of these back."""
        self.forced: Callable[[Append], None] = lambda append: None
        """Hears each forced record that is written."""
        self.sample: Callable[[Records, Records, bool], None] | None = None
        """Hears, before a batch is made durable and anything of it is said, what was durable before, what the batch adds, and
        whether it drops records, and may have copied them first: then it is all of it or nothing."""

    def lock(self, holder: object) -> None:
        """Take the disk; it is let go when the process dies."""
        if self.holder is not None and self.holder is not holder:
            raise Locked
        self.holder = holder

    def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int) -> tuple[list[int], list[Event | None]]:
        """Carry a batch out; it is in the tail afterwards, and durable if `sync`."""
        if self.failing == "disk full":
            raise DiskFailed(self.failing)
        written: Records = []
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
            if append.force:
                self.forced(append)
        self._tail.append(Batch(written, drop_below, self.bank.snapshot() if self.bank else None))
        if sync:
            if self.failing:
                raise DiskFailed(self.failing)
            self.syncs += 1
            if self.sample is not None:
                added = [record for part in self._tail for record in part.records]
                self.sample(self.durable, added, any(part.drop_below for part in self._tail))
            self._settle(len(self._tail))
        return seqs, events

    def _settle(self, count: int) -> None:
        for batch in self._tail[:count]:
            self.durable.extend(batch.records)
            if batch.drop_below:  # never the newest
                self.durable = [record for record in self.durable[:-1] if record[0] >= batch.drop_below] + self.durable[-1:]
            self._rows = batch.rows
        del self._tail[:count]
        if self.history is not None:
            self.history.append((self.durable.copy(), self._rows))

    def crash(self, random: random.Random) -> None:
        """Lose a part of what was not synced: any suffix of the tail. The first batch that is lost may be there in part."""
        self.holder = None
        self.failing = "" if self.failing == "sync error" else self.failing
        if not self._tail:
            self._go_back()
            return
        self._settle(random.randint(0, len(self._tail)))
        torn, self._tail = self._tail[:1], []
        if torn and torn[0].records and random.random() < 0.7:
            part = torn[0].records[: random.randint(1, len(torn[0].records))]
            self._tail = [Batch(part, 0, self._rows, marked=False)]
        self._go_back()

    def _go_back(self) -> None:
        if self.bank is not None:
            assert self._rows is not None
            self.bank.restore(self._rows)

    def read(self) -> tuple[list[int], list[bytes]]:
        """What a start finds; a batch without its mark is cut."""
        whole = [batch for batch in self._tail if self.is_whole(batch)]
        self.torn += len(self._tail) - len(whole)
        self._tail = whole
        self._settle(len(whole))
        if self.durable:
            self.next_seq = self.durable[-1][0] + 1
        return [seq for seq, _ in self.durable], [body for _, body in self.durable]

    def is_whole(self, batch: Batch) -> bool:
        """Whether a batch is to be believed."""
        return batch.marked

    def append_offline(self, body: bytes) -> None:
        """One record, durably, while no process runs (`troth log resolve`)."""
        assert self.holder is None
        self.read()
        self.durable.append((self.next_seq, body))
        self.next_seq += 1

    @property
    def position(self) -> int:
        """The seq of the newest durable record."""
        return self.durable[-1][0] if self.durable else 0

    def put_back(self, number: int) -> None:
        """Let it hold again what was durable after an earlier sync."""
        assert self.holder is None and self.history is not None
        records, self._rows = self.history[number]
        self.durable, self._tail = records.copy(), []
        self.next_seq = self.position + 1
        self._go_back()

    def copy(self) -> Disk:
        """The records as a backup of this moment has them."""
        other = Disk()
        other.log_id = self.log_id
        other.durable = list(self.durable)
        other.next_seq = self.durable[-1][0] + 1 if self.durable else 1
        return other
