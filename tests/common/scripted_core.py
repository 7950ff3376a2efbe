"""A core that does what each event tells it, and a log whose sync waits until it is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from troth.errors import RemoteProtocolError
from troth.log.contract import LogIdentity, StoredRecord, UncontestedLog, Written
from troth.ready import Append, Effect, Event, Instant, Opened, Ready
from troth.v1 import record_pb2


def record(name: str) -> record_pb2.CoordinatorRecord:
    """A record that says a name."""
    return record_pb2.CoordinatorRecord(ended=record_pb2.Ended(transaction_id=name))


def name_of(body: bytes) -> str:
    """The name that a record says."""
    return record_pb2.CoordinatorRecord.FromString(body).ended.transaction_id


def append(name: str, *effects: Effect, **options: Any) -> Append:
    """An append of a record with that name, owned by it."""
    return Append(record(name), name, effects=effects, **options)


@dataclass(frozen=True)
class Do:
    """An event that puts these into the next Ready."""

    appends: tuple[Append, ...] = ()
    effects: tuple[Effect, ...] = ()
    error: Exception | None = None


@dataclass
class ScriptedCore:
    """Remembers what it saw."""

    seen: list[Event] = field(default_factory=list)
    ready: Ready = field(default_factory=Ready)
    recovered: list[str] = field(default_factory=list)
    recover_error: Exception | None = None
    ticks: list[float] = field(default_factory=list)
    due: float | None = None
    live: dict[str, list[str]] = field(default_factory=dict)

    def recover(self, records: Sequence[bytes], now: Instant, opened: Opened) -> Sequence[str]:
        if self.recover_error is not None:
            raise self.recover_error
        self.recovered = [name_of(body) for body in records]
        return self.recovered

    def step(self, event: Event, now: Instant) -> None:
        self.seen.append(event)
        if isinstance(event, Do):
            if event.error is not None:
                raise event.error
            self.ready.appends.extend(event.appends)
            self.ready.effects.extend(event.effects)

    def tick(self, now: Instant) -> None:
        self.ticks.append(now.monotonic)
        self.ready.effects.append("ticked")
        self.due = None

    def deadline(self) -> float | None:
        return self.due

    def take_ready(self) -> Ready:
        taken, self.ready = self.ready, Ready()
        return taken

    def live_records(self, owner: str) -> Sequence[record_pb2.CoordinatorRecord]:
        return [record(name) for name in self.live.get(owner, [])]

    def live_owners(self) -> int:
        return len(self.live)


ILLEGAL = Do(error=RemoteProtocolError("not now"))


@dataclass
class GateLog(UncontestedLog):
    """A log that keeps what it is given. With `gated`, each write waits for `let_go`."""

    gated: bool = False
    stored: list[StoredRecord] = field(default_factory=list)
    batches: list[tuple[list[str], bool, int]] = field(default_factory=list)
    open_error: Exception | None = None
    write_error: Exception | None = None
    apply: Callable[[Append], tuple[bool, Event]] = lambda append: (True, None)
    closed: int = 0
    _begun: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    _gate: asyncio.Queue[None] = field(default_factory=asyncio.Queue)

    async def open(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        if self.open_error is not None:
            raise self.open_error
        return LogIdentity("coordinator", "c1", "0" * 32, 1), list(self.stored)

    async def begun(self) -> None:
        """Wait until another write has begun."""
        await self._begun.get()

    def let_go(self) -> None:
        """Let one write finish."""
        self._gate.put_nowait(None)

    async def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int = 0) -> Written:
        self._begun.put_nowait(None)
        self.batches.append(([append.owner for append in batch], sync, drop_below))
        if self.gated:
            await self._gate.get()
        if self.write_error is not None:
            raise self.write_error
        results = [self._one(append) for append in batch]
        self.stored = [stored for stored in self.stored if stored.seq >= drop_below]
        return Written([seq for seq, _ in results], [event for _, event in results])

    def _one(self, append: Append) -> tuple[int, Event]:
        kept, event = (True, None) if append.apply is None else self.apply(append)
        if append.record is None or not kept:
            return 0, event
        seq = self.stored[-1].seq + 1 if self.stored else 1
        self.stored.append(StoredRecord(seq, append.record.SerializeToString()))
        return seq, event

    async def close(self) -> None:
        self.closed += 1
