"""An asyncio loop in virtual time, which knows of each callback to whose life it belongs.

Nothing is waited for: when no callback is ready, time jumps to the next timer. A life is a context variable, so tasks, timers and
the callbacks of futures belong to the life that made them. A life that has ended is not run any more: nothing is cancelled, no
`finally` is reached, exactly as in a process that was killed. What is ready at the same moment in different lives runs in an
order that the seed draws; within a life the order is asyncio's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import warnings
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from tests.sim.world import EPOCH_MS, World
from troth.ready import Instant

STEP_SECONDS = 1e-6
"""What a round of callbacks costs; also, time that stands still would hide a timer that is set again and again."""
ROUNDS_MAX = 2_000_000
SAME_MOMENT_SECONDS = 0.01
SAME_MOMENT_ROUNDS_MAX = 5_000
"""Ordinary runs come to some 250; a moment has room for 10,000."""
assert SAME_MOMENT_ROUNDS_MAX < SAME_MOMENT_SECONDS / STEP_SECONDS, "or nobody could ever be found to turn in circles"

LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)
OUTSIDE = contextvars.Context()
"""The context of what belongs to no process: the network and the faults."""


class Life:
    """One life of a process: from its start to its exit, or to its crash."""

    def __init__(self, name: str, skew_ms: Callable[[], int] = lambda: 0) -> None:
        self.name = name
        self.skew_ms = skew_ms
        self.alive = True
        self.paused = False
        self.held: deque[asyncio.Handle] = deque()
        self.steps = 0
        self.acts_at = 0
        """The step before which `act` is called; 0 for never."""
        self.act: Callable[[], None] = lambda: None
        self.context = contextvars.copy_context()
        self.context.run(LIFE.set, self)
        self.on_end: list[Callable[[], None]] = []

    def end(self) -> None:
        """Nothing of it runs from here on."""
        if self.alive:
            self.alive = False
            self.held.clear()
            for action in self.on_end:
                action()

    def resume(self, ready: deque[asyncio.Handle]) -> None:
        """Run what waited."""
        self.paused = False
        ready.extend(self.held)
        self.held.clear()


class EngineWorld(World):
    """Time and chance of a run, with the loop as its queue."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        super().__init__(seed, tracing=tracing)
        self.loop = VirtualLoop(self)
        self.unexpected: list[str] = []
        """What nobody should have raised or logged."""

    def after(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """Let something happen later, outside of all processes."""
        self.loop.call_later(delay, action, *arguments, context=OUTSIDE)

    def run_until(self, end: float, *, steps_max: int = ROUNDS_MAX) -> None:
        """Let time pass."""
        self.loop.rounds_max = self.loop.rounds + steps_max
        handle = self.loop.call_at(end, self.loop.stop, context=OUTSIDE)
        try:
            self.loop.run_forever()
        finally:
            handle.cancel()


class VirtualLoop(base_events.BaseEventLoop):
    """The loop. It has no selector, no threads and no sockets: what would need them fails."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, world: EngineWorld) -> None:
        super().__init__()
        self.world = world
        self._clock_resolution = 1e-9
        self.rounds = 0
        self.rounds_max = ROUNDS_MAX
        self._moment = 0.0
        self._rounds_of_moment = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Virtual seconds."""
        return self.world.now

    def spawn(self, life: Life, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a task in a life."""
        return self.create_task(work, context=life.context.copy())

    def _make_task(self, loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # tasks of ended lives stay pending by design
        self.tasks.append(task)
        return task

    # ---- one round

    def _run_once(self) -> None:
        self._count_round()
        self._take_due()
        if not self._ready:
            assert self._scheduled, "nothing is ready and nothing will ever be"
            self.world.now = self._scheduled[0]._when  # type: ignore[attr-defined]  # as the base class does
            self._take_due()
        if len(self._ready) > 1:
            self._mix()
        ready = self._ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:  # type: ignore[attr-defined]  # as the base class does
                self._run_handle(handle)

    def _count_round(self) -> None:
        world = self.world
        world.now += STEP_SECONDS
        self.rounds += 1
        if world.now > self._moment + SAME_MOMENT_SECONDS:
            self._moment, self._rounds_of_moment = world.now, 0
        self._rounds_of_moment += 1
        assert self._rounds_of_moment < SAME_MOMENT_ROUNDS_MAX, "livelock: somebody turns in circles"
        assert self.rounds < self.rounds_max, "livelock: the run does not come to rest"

    def _take_due(self) -> None:
        scheduled, end = self._scheduled, self.world.now + self._clock_resolution
        while scheduled and (scheduled[0]._cancelled or scheduled[0]._when < end):  # type: ignore[attr-defined]  # as above
            handle = heapq.heappop(scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]  # as the base class does
            if not handle._cancelled:  # type: ignore[attr-defined]  # as the base class does
                self._ready.append(handle)

    def _mix(self) -> None:
        """Draw the order between lives; keep it within each."""
        lives = {id(life): life for life in (_life(handle) for handle in self._ready)}
        if len(lives) > 1:
            ranks = dict(zip(lives, self.world.random.sample(range(len(lives)), len(lives)), strict=True))
            self._ready = deque(sorted(self._ready, key=lambda handle: ranks[id(_life(handle))]))

    def _run_handle(self, handle: asyncio.Handle) -> None:
        life = _life(handle)
        if life is not None:
            if not life.alive:
                return
            if life.paused:
                life.held.append(handle)
                return
            life.steps += 1
            if life.steps == life.acts_at:
                life.act()
                if not life.alive:
                    return
                if life.paused:
                    life.held.append(handle)
                    return
        handle._run()  # type: ignore[attr-defined]  # as the base class does

    # ---- the end

    def dispose(self) -> None:
        """Drop all tasks, quietly: what their `finally` blocks do touches nothing that anybody looks at."""
        asyncio._set_running_loop(self)  # what begins tasks on its way out begins them here, and they are dropped too
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for task in self.tasks:
                if not task.done():
                    _close(task.get_coro())
        asyncio._set_running_loop(None)
        self.tasks.clear()
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    # ---- what the base class wants

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There is no other thread."""


def _close(work: Any) -> None:
    """Close a coroutine; again when it awaits something on its way out."""
    for _ in range(20):
        with contextlib.suppress(BaseException):
            work.close()
            return


def _life(handle: asyncio.Handle) -> Life | None:
    return handle._context.get(LIFE)  # type: ignore[attr-defined,no-any-return]  # every handle has one


class VirtualTime:
    """Takes the place of the module `time` where production code reads clocks."""

    def __init__(self, world: EngineWorld) -> None:
        self._world = world

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._world.now

    def time_ns(self) -> int:
        """The wall clock of the process that asks."""
        life = LIFE.get()
        instant: Instant = self._world.instant(life.skew_ms() if life is not None else 0)
        return instant.wall_ms * 1_000_000

    def perf_counter(self) -> float:
        """Virtual seconds."""
        return self._world.now


__all__ = ["EPOCH_MS", "LIFE", "OUTSIDE", "EngineWorld", "Life", "VirtualLoop", "VirtualTime"]
