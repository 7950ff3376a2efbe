"""The log without a disk: for contract tests and for simulation.

A `Disk` outlives the logs on it, as a real one outlives processes. It keeps apart what is synced and what is only written; a
crash keeps the first, and any prefix of the batches of the second. Bodies are serialised and read back like in a file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from troth.errors import LogFailed, LogForeign, LogLocked, Reason
from troth.log.contract import LogIdentity, StoredRecord, UncontestedLog, Written
from troth.ready import Append

FORMAT_VERSION = 1


async def _at_once() -> None:
    """A disk that takes no time."""


@dataclass(frozen=True, slots=True)
class _Batch:
    records: tuple[StoredRecord, ...]
    drop_below: int


@dataclass
class Disk:
    """One log's worth of storage.

    `latency`   awaited by each synced write between writing and being durable: a simulator's virtual delay.
    `fail_at`   the number of the call (1 is the first) that fails, with its message. Opens, writes and syncs are calls.
    """

    latency: Callable[[], Awaitable[None]] = _at_once
    fail_at: dict[int, str] = field(default_factory=dict)
    identity: LogIdentity | None = None
    holder: MemoryLog | None = None
    calls: int = 0
    syncs: int = 0
    durable: list[StoredRecord] = field(default_factory=list)
    unsynced: list[_Batch] = field(default_factory=list)

    def crash(self, keep: int = 0) -> None:
        """The process dies. Of the batches that were not synced, the first `keep` are found on the disk afterwards.

        A batch is a transaction: it is found whole or not at all.
        """
        kept = self.unsynced[:keep]
        self.unsynced = []
        self.holder = None
        for batch in kept:
            self._settle(batch)

    def write(self, records: Sequence[StoredRecord], drop_below: int) -> None:
        """Hand a batch to the operating system."""
        self.call("write")
        self.unsynced.append(_Batch(tuple(records), drop_below))

    def sync(self) -> None:
        """Make durable all that was written."""
        self.call("sync")
        self.syncs += 1
        written, self.unsynced = self.unsynced, []
        for batch in written:
            self._settle(batch)

    def call(self, what: str) -> None:
        """Count a call, and fail it when it is its turn."""
        self.calls += 1
        message = self.fail_at.pop(self.calls, None)
        if message is not None:
            raise LogFailed(Reason.LOG_FAILED, f"the disk failed at {what}: {message}")

    def _settle(self, batch: _Batch) -> None:
        self.durable.extend(batch.records)
        if batch.drop_below:
            self.durable = [record for record in self.durable if record.seq >= batch.drop_below]


class MemoryLog(UncontestedLog):
    """A `troth.log.contract.Log` on a `Disk`."""

    def __init__(self, disk: Disk, *, role: str, name: str, log_id: str = "0" * 32) -> None:
        self._disk = disk
        self._identity = LogIdentity(role, name, log_id, FORMAT_VERSION)
        self._last_seq = 0
        self._state = "new"

    async def open(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        """See `Log.open`."""
        assert self._state == "new", f"the log is {self._state}: a log is opened once"
        self._state = "closed"
        disk = self._disk
        if disk.holder is not None:
            raise LogLocked(Reason.LOG_LOCKED, "the disk is used by another log")
        disk.call("open")
        identity = disk.identity or self._identity
        if (identity.role, identity.name) != (self._identity.role, self._identity.name):
            raise LogForeign(
                Reason.LOG_FOREIGN,
                f"the disk holds the log of the {identity.role} {identity.name!r}, "
                f"not of the {self._identity.role} {self._identity.name!r}",
            )
        disk.identity = identity
        disk.holder = self
        self._state = "open"
        self._last_seq = disk.durable[-1].seq if disk.durable else 0
        return identity, list(disk.durable)

    async def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int = 0) -> Written:
        """See `Log.write`. The newest record is never dropped."""
        self._check_usable()
        self._state = "failed"  # unless all goes well
        records, seqs = self._number(batch)
        self._disk.write(records, min(drop_below, self._last_seq))
        self._state = "open"
        if sync:
            await self._disk.latency()
            self._check_usable()
            self._state = "failed"
            self._disk.sync()
            self._state = "open"
        return Written(seqs, [None] * len(seqs))

    def _check_usable(self) -> None:
        # A log whose process crashed in the meantime must not touch the disk again: the next life may have it.
        state = "cut off by a crash" if self._state == "open" and self._disk.holder is not self else self._state
        if state != "open":
            raise LogFailed(Reason.LOG_FAILED, f"the log cannot be written: it is {state}")

    def _number(self, batch: Sequence[Append]) -> tuple[list[StoredRecord], list[int]]:
        records: list[StoredRecord] = []
        seqs: list[int] = []
        for append in batch:
            assert append.apply is None, "this log cannot apply; see participant_sdk.resources.sqlite"
            if append.record is None:
                seqs.append(0)
                continue
            self._last_seq += 1
            seqs.append(self._last_seq)
            body = append.record.SerializeToString() if self.seal is None else self.seal(append.record)
            records.append(StoredRecord(self._last_seq, body))
        return records, seqs

    async def close(self) -> None:
        """See `Log.close`. What was written is synced, unless the log has failed."""
        held = self._disk.holder is self
        try:
            if held and self._state == "open":
                self._disk.sync()
        finally:
            self._state = "failed" if self._state == "failed" else "closed"
            if held:
                self._disk.holder = None
