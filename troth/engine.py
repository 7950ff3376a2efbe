"""The engine: the only code that executes what a core wants.

    submit(event) → inbox → core.step → Ready ─┬─ effects now ────────────────────────→ perform
                                               └─ appends → one batch → sync ─┬─ effects → perform
                                                                              └─ events  → inbox, before all others

One writer, no locks. While one sync runs, the core is stepped on and its appends queue for the next batch: group commit falls
out of that (DeWitt et al., SIGMOD 1984, section 4). Callers only enqueue; whoever is cancelled cancels nothing here.

A failed log ends the engine: `failed` gets the error, nothing more is performed, and the process is expected to stop. So does an
error that nobody expected (a bug in a core or a shell): what it left behind is not to be trusted, and restart recovers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from troth import failpoints
from troth.errors import ProtocolError, Reason, TrothError
from troth.histogram import SECONDS, SIZES, Histogram
from troth.log.cleaner import Cleaner
from troth.log.contract import Log, LogIdentity
from troth.log.sealing import RecordCodec
from troth.payload_keys import Ring
from troth.ready import Append, Core, Effect, Event, Instant, Opened

LINGER_SECONDS = 0.02
"""How long an unforced append waits for a forced one to ride with."""

COMPANY_SECONDS = 1.0
"""How long an append waits that is not forced and for which nobody waits: it only lets things be forgotten (the end of a
transaction whose decision is durable, a watermark). So transactions that come one by one pay no syncs for ends."""

PATIENCE_SECONDS = 0.004
"""How long a forced append waits for another to ride with, when nobody waits for it."""

TURN_EVENTS_MAX = 256
"""Events of one turn. What they lead to is sent before the next turn, so that peers work on the first events of a large frame
while this process works on the others; without that everybody waits in step for the slowest, on one core."""


@dataclass(slots=True)
class EngineCounters:
    """What the engine did since it started."""

    records: int = 0
    forced_records: int = 0
    batches: int = 0
    syncs: int = 0
    protocol_errors: int = 0
    sync_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS), compare=False)
    """How long writes took, each with its sync."""
    batch_records: Histogram = field(default_factory=lambda: Histogram(SIZES), compare=False)
    """How many records they had."""


def read_clocks() -> Instant:
    """Both clocks of this machine."""
    return Instant(time.monotonic(), time.time_ns() // 1_000_000)


class Engine:
    """Runs one core over one log.

    `perform`      carries an effect out; must not block or raise.
    `on_violation` is told of protocol errors; the core has not changed.
    `batch_max`    records of one batch; a batch that cleans the log takes all that is queued.
    `keyring`      gives the payload keys, where the payload of records is sealed.
    """

    def __init__(
        self,
        role: str,
        core: Core,
        log: Log,
        perform: Callable[[Effect], None],
        *,
        on_violation: Callable[[Event, ProtocolError], None] = lambda event, error: None,
        clocks: Callable[[], Instant] = read_clocks,
        batch_max: int = 2048,
        keyring: Callable[[], Ring] | None = None,
    ) -> None:
        self._role = role
        self._core = core
        self._log = log
        self._codec = RecordCodec(role, keyring)
        self.position = 0
        """The seq of the newest record that is durable: all that peers may be told of how far the log is."""
        self._written = 0
        """The seq of the newest record that is written, be it durable or not."""
        self._perform = perform
        self._on_violation = on_violation
        self._clocks = clocks
        self._batch_max = batch_max
        self._inbox: deque[Event] = deque()
        self._released = 0
        self._queued: deque[Append] = deque()
        self._urgent_queued = 0
        self._lingers_until: float | None = None
        self._cleaner = Cleaner(core)
        self._loop = asyncio.get_running_loop()
        self._sleeper: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._writing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._ended = False
        self.counters = EngineCounters()
        self.failed: asyncio.Future[TrothError] = self._loop.create_future()

    # ---- what the shells use

    async def start(self) -> LogIdentity:
        """Open the log, recover the core, and begin. Raises `LogError`."""
        try:
            identity, records = await self._log.open()
            self.position = self._written = records[-1].seq if records else 0
            bodies = self._codec.opened([record.body for record in records])
            self._codec.tell()
            self._log.seal = self._codec.seal
            opened = Opened(identity.log_id, self.position, self._codec.unreadable)
            owners = self._core.recover(bodies, self._clocks(), opened)
            self._cleaner.recovered([record.seq for record in records], owners)
        except BaseException:
            await self._log.close()
            raise
        if self._log.lost is not None:
            self._log.lost.add_done_callback(lambda lost: self._fail(lost.result()))
        self._task = asyncio.create_task(self._run(), name=f"troth-engine-{self._role}")
        return identity

    def submit(self, event: Event) -> None:
        """Enqueue an event. Never blocks; whoever bounds the peers bounds this queue. An engine that has ended drops it."""
        if not self._ended:
            self._inbox.append(event)
            self._wake()

    def submit_all(self, events: Sequence[Event]) -> None:
        """Enqueue the events of one frame."""
        if not self._ended:
            self._inbox.extend(events)
            self._wake()

    def backlog(self) -> int:
        """Events and appends that wait."""
        return len(self._inbox) + len(self._queued)

    async def stop(self) -> None:
        """Handle what is queued, make it durable, release the log. May be called again; a cancelled caller cancels nothing."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"troth-close-{self._role}")
            self._wake()
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._log.close()

    # ---- the loop

    async def _run(self) -> None:
        try:
            while not self._finished():
                now = self._clocks()
                while now.monotonic >= self._log.held_until:
                    # This process may have been stopped for long, and another may own the log: say nothing before that is known.
                    await self._log.hold()
                    now = self._clocks()
                self._turn(now)
                if self._inbox or self._finished():
                    await asyncio.sleep(0)
                else:
                    await self._sleep()
        except asyncio.CancelledError:
            # Whoever cancels all tasks of a loop cancels this one too; what is left then must not look alive.
            self._fail(TrothError(Reason.SHUTTING_DOWN, f"the {self._role}'s engine was cancelled"))
        except Exception as error:
            self._fail(error)
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
        if self._writing is not None:
            await asyncio.wait((self._writing,))
        self._ended = True

    def _finished(self) -> bool:
        if self.failed.done():
            return True
        return self._closing is not None and not (self._inbox or self._queued or self._writing)

    def _turn(self, now: Instant) -> None:
        """One turn: everything that waits goes into the core, and what comes out is carried out."""
        core, perform, inbox = self._core, self._perform, self._inbox
        # What was released is taken whole: the cleaner, asked below, must find that the core knows what the log holds.
        room, self._released = max(TURN_EVENTS_MAX, self._released), 0
        while room:
            count = min(len(inbox), room)
            self._step(count, now)
            deadline = core.deadline()
            if deadline is not None and deadline <= now.monotonic:
                core.tick(now)
            ready = core.take_ready()
            self._enqueue(ready.appends, now)
            for effect in ready.effects:
                perform(effect)
            # What an effect has answered at once belongs to the same turn, and to the same batch.
            room = room - count if inbox else 0
        self._start_write(now)

    def _step(self, count: int, now: Instant) -> None:
        step, next_event = self._core.step, self._inbox.popleft
        for _ in range(count):
            event = next_event()
            try:
                step(event, now)
            except ProtocolError as error:
                self.counters.protocol_errors += 1
                self._on_violation(event, error)

    async def _sleep(self) -> None:
        """Wait for an event, the end of a write, or the next deadline."""
        at = self._core.deadline()
        if self._writing is None and self._lingers_until is not None and (at is None or self._lingers_until < at):
            at = self._lingers_until
        if at is not None:
            self._set_alarm(at)
        # Nothing has run between the turn and here, so nothing that was to wake us is missed.
        self._sleeper = self._loop.create_future()
        await self._sleeper

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _set_alarm(self, at: float) -> None:
        """Wake up then at the latest. An alarm that is no longer needed rings all the same: that is cheaper than to move it."""
        if self._alarm is not None:
            if self._alarm_at <= at:
                return
            self._alarm.cancel()
        self._alarm_at = at
        delay = max(0.0, at - self._clocks().monotonic)
        self._alarm = self._loop.call_later(delay, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._wake()

    # ---- writing

    def _enqueue(self, appends: Sequence[Append], now: Instant) -> None:
        if not appends:
            return
        self._queued.extend(appends)
        linger = COMPANY_SECONDS
        for append in appends:
            if append.force or append.apply is not None:
                if append.patient:
                    linger = PATIENCE_SECONDS
                else:
                    self._urgent_queued += 1
            elif not append.patient and linger > LINGER_SECONDS:
                linger = LINGER_SECONDS
        until = now.monotonic + linger
        if self._lingers_until is None or until < self._lingers_until:
            self._lingers_until = until

    def _start_write(self, now: Instant) -> None:
        if self._writing is not None or not self._queued:
            return
        lingered = self._lingers_until is not None and self._lingers_until <= now.monotonic
        urgent = self._urgent_queued or lingered or self._closing is not None
        if urgent or len(self._queued) >= self._batch_max:
            copies, drop_below = self._cleaner.plan()
            batch = self._take_batch(all_of_it=drop_below > 0)
            self._lingers_until = now.monotonic + LINGER_SECONDS if self._queued else None
            writing = self._write(copies, batch, drop_below)
            self._writing = asyncio.create_task(writing, name=f"troth-write-{self._role}")

    def _take_batch(self, *, all_of_it: bool) -> list[Append]:
        """The next batch. One with copies takes everything: the core has stepped on to the end of the queue, and its copies may
        say nothing that the log does not have by then."""
        queued = self._queued
        if all_of_it or len(queued) <= self._batch_max:
            batch = list(queued)
            queued.clear()
            self._urgent_queued = 0
            return batch
        batch = [queued.popleft() for _ in range(self._batch_max)]
        self._urgent_queued -= sum(1 for append in batch if not append.patient and (append.force or append.apply is not None))
        return batch

    async def _write(self, copies: list[Append], batch: list[Append], drop_below: int) -> None:
        try:
            # Copies stand before the batch. They may already say what the batch says: replay takes repeats.
            whole = copies + batch
            # A batch of applies alone is not synced (unforced work promises nothing); everything else is.
            sync = any(append.force or append.apply is None for append in whole)
            self._hit("before-sync", batch)
            began = self._clocks().monotonic
            written = await self._log.write(whole, sync=sync, drop_below=drop_below)
            self.counters.sync_seconds.add(self._clocks().monotonic - began)
            self.counters.batch_records.add(len(whole))
            self._cleaner.written(len(copies), whole, written.seqs)
            self._written = max(self._written, *written.seqs)
            if sync:
                self.position = self._written
            self.counters.batches += 1
            self.counters.syncs += sync
            self._hit("after-sync", batch)
            self._release(whole, written.seqs, written.events)
        except Exception as error:
            self._fail(error)
        finally:
            self._writing = None
            self._wake()

    def _release(self, batch: Sequence[Append], seqs: Sequence[int], events: Sequence[Event | None]) -> None:
        """Count what is durable, and let go what waited for that: events go before everything in the inbox, in order."""
        ended = self.failed.done()
        records = forced_records = 0
        first: list[Event] = []
        perform = self._perform
        for append, seq, event in zip(batch, seqs, events, strict=True):
            if seq:
                records += 1
                forced_records += append.force
            if ended:
                continue
            if event is not None:
                first.append(event)
            if seq == 0 and append.record is not None:
                continue  # the apply refused: this append's effects and event are dropped
            if append.event is not None:
                first.append(append.event)
            for effect in append.effects:
                perform(effect)
        self.counters.records += records
        self.counters.forced_records += forced_records
        self._released = len(first)
        self._inbox.extendleft(reversed(first))

    def _hit(self, moment: str, batch: Sequence[Append]) -> None:
        if failpoints.armed:
            for append in batch:
                if append.record is not None:
                    failpoints.hit(self._role, moment, append.record.WhichOneof("kind") or "none")

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            if not isinstance(error, TrothError):
                bug = TrothError(Reason.INTERNAL, f"the {self._role} stopped: {type(error).__name__}: {error}")
                bug.__cause__ = error
                error = bug
            self.failed.set_result(error)
        self._wake()
