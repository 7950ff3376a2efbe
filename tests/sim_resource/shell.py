"""A process around the participant's core, with the engine's order of doings and without asyncio.

Everything that the engine does between two awaits is one action here, and the process may die before or after each. A write is two
actions: it is begun (the batch is fixed), and some time later it is in the file; the core is stepped on in between.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from participant_sdk.core.core import ParticipantCore
from tests.sim.world import World
from tests.sim_resource.files import Files, FilesFailed
from troth.engine import COMPANY_SECONDS, LINGER_SECONDS, PATIENCE_SECONDS
from troth.errors import ProtocolError
from troth.log.cleaner import Cleaner
from troth.ready import Append, Effect, Event, Opened

SLACK_RECORDS = 2
"""Of the cleaner: the log is cleaned all the time."""


class Crashed(Exception):
    """The process dies here."""


class Shell:
    """One life after another. The subclass makes the core and carries effects out."""

    def __init__(self, world: World, disk: Files) -> None:
        self.world = world
        self.disk = disk
        self.life = 0
        self.alive = False
        self.crash_chance = 0.0
        self.crashes = 0
        self.violations: list[str] = []
        self.core: ParticipantCore
        self._cleaner: Cleaner
        self._inbox: deque[Event] = deque()
        self._queued: list[Append] = []
        self._writing = False
        self._lingers_until = math.inf
        self._wake_at: float | None = None

    # ---- to be given

    def make_core(self) -> ParticipantCore:
        """A core for a new life."""
        raise AssertionError("given by the service")

    def perform(self, effect: Effect) -> None:
        """Carry an effect out."""
        raise AssertionError("given by the service")

    def recovered(self) -> None:
        """The core has read the log."""

    # ---- life

    def start(self) -> None:
        """Begin a life from what the files hold."""
        assert not self.alive
        self.life += 1
        self.alive = True
        self._inbox.clear()
        self._queued.clear()
        self._writing = False
        self._lingers_until = math.inf
        self._wake_at = None
        seqs, bodies = self.disk.read()
        self.core = self.make_core()
        self._cleaner = Cleaner(self.core, slack_records=SLACK_RECORDS)
        self._guarded(lambda: self._recover(seqs, bodies))

    def _recover(self, seqs: Sequence[int], bodies: Sequence[bytes]) -> None:
        self._cleaner.recovered(seqs, self.core.recover(bodies, self.world.instant(), Opened("log", len(bodies))))
        self.recovered()
        self._turn()

    def crash(self, why: str) -> None:
        """Die, now."""
        if self.alive:
            self.world.say("bank", f"CRASH {why}")
            self.alive = False
            self.crashes += 1
            self.disk.crash(self.world.random)

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Let this life do something later, unless it has ended by then."""
        life = self.life
        self.world.after(delay, lambda: self._in_life(life, action))

    def _in_life(self, life: int, action: Callable[[], None]) -> None:
        if self.alive and self.life == life:
            self._guarded(action)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Crashed as crash:
            self.crash(str(crash))
        except FilesFailed:
            self.world.reach("the log failed")
            self.crash("the log failed")

    def maybe_crash(self, where: str) -> None:
        """A point at which the process may die."""
        if self.crash_chance and self.world.random.random() < self.crash_chance:
            self.world.reach(f"crash {where}")
            raise Crashed(where)

    # ---- the engine's turn

    def submit(self, event: Event) -> None:
        """An event arrives; the turn is taken at once, because other arrivals have actions of their own."""
        self._inbox.append(event)
        self._turn()

    def _turn(self) -> None:
        now = self.world.instant()
        while self._inbox:
            event = self._inbox.popleft()
            if self.world.tracing:
                self.world.say("bank", event)
            try:
                self.core.step(event, now)
            except ProtocolError as error:
                self.violations.append(str(error))
        deadline = self.core.deadline()
        if deadline is not None and deadline <= now.monotonic:
            self.core.tick(now)
        ready = self.core.take_ready()
        self._queued.extend(ready.appends)
        self._start_write()
        for effect in ready.effects:
            self.maybe_crash("between effects")
            self.perform(effect)
        self._arm()

    def _arm(self) -> None:
        deadline = self.core.deadline()
        if deadline is not None and (self._wake_at is None or deadline < self._wake_at):
            self._wake_at = deadline
            self.later(max(0.0, deadline - self.world.now) + 1e-6, self._woken)

    def _woken(self) -> None:
        self._wake_at = None
        self._turn()

    def _start_write(self) -> None:
        if self._writing or not self._queued:
            return
        due = [append for append in self._queued if append.force or append.apply is not None]
        if any(not append.patient for append in due):
            self._begin_write()
        else:
            in_no_hurry = all(append.patient for append in self._queued)
            linger = PATIENCE_SECONDS if due else COMPANY_SECONDS if in_no_hurry else LINGER_SECONDS
            until = self.world.now + linger
            if until < self._lingers_until:
                self._lingers_until = until
                self.later(linger, lambda: self._lingered(until))

    def _lingered(self, until: float) -> None:
        if self._lingers_until == until and not self._writing and self._queued:
            self._begin_write()

    def _begin_write(self) -> None:
        self._lingers_until = math.inf
        self.maybe_crash("before write")
        copies, drop_below = self._cleaner.plan()
        batch, self._queued = self._queued, []
        self._writing = True
        self.later(self.world.random.expovariate(1 / 0.003), lambda: self._finish_write(copies, batch, drop_below))

    def _finish_write(self, copies: list[Append], batch: list[Append], drop_below: int) -> None:
        whole = copies + batch
        sync = any(append.force or append.apply is None for append in whole)
        seqs, events = self.disk.write(whole, sync=sync, drop_below=drop_below)
        self._cleaner.written(len(copies), whole, seqs)
        self.maybe_crash("after sync")
        self._writing = False
        self._release(whole, seqs, events)
        self._turn()

    def _release(self, whole: list[Append], seqs: Sequence[int], events: Sequence[Any]) -> None:
        first: list[Event] = []
        for append, seq, event in zip(whole, seqs, events, strict=True):
            if event is not None:
                first.append(event)
            if seq == 0 and append.record is not None:
                continue
            if append.event is not None:
                first.append(append.event)
            for effect in append.effects:
                self.perform(effect)
        self._inbox.extendleft(reversed(first))
