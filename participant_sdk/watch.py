"""Looks at the invariants of a participant, each at its own pace, and tells what it finds.

*Only committed data is looked at*, all of it at one point. How depends on where undecided data is:

`SqliteResource`        At a quiet point: undecided rows are in the file, and so the check stands in line for the invariant's lock
                        keys (the whole resource by default) as `participant.read` does. It runs between two pieces of work.
`Postgres`, `MariaDB`   In one transaction that only reads, at `REPEATABLE READ`, and is rolled back: the server shows it neither
                        prepared nor unfinished branches, and it waits for nobody.
without a parameter     The function looks for itself: for example by a transaction over several participants, which reads all of
                        them at one point when they hold their locks until its outcome.

*Nothing hangs on it.* One check at a time, each with an end: after `seconds_max` what it was given is taken away, and the
participant goes on. A function that has still not returned is not begun again, and costs the thread that it has. What it raises, or
cannot be checked for another reason, is tried again soon; the third time in a row it is UNCHECKED.

A service in several processes is looked at by one of them, that with the lowest slot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from participant_sdk.aside import Desk, Threads
from participant_sdk.border import Raised, deliverable, finished, unasked
from participant_sdk.invariants import DETAIL_CHARACTERS_MAX, Finding, Invariant, Standing, Unclear
from troth import forks
from troth.errors import TrothError
from troth.logs import encodable, get_logger
from troth.v1 import participant_pb2

AGAIN_SECONDS = 5.0
"""After a check that came to nothing the next one comes so soon, or sooner."""
FAILURES_MAX = 3
"""So many of them in a row make it UNCHECKED."""
LOOK_SECONDS = 1.0
"""How soon a new coordinator, or a new stream, is told."""
CUT_SECONDS = 1.0
"""How long a function that was cancelled may take to end."""
TURNS_ELSEWHERE = 2
"""Checks in a row that are another process's: one alone may be of a process that only visits a slot."""

_STATES = {
    Standing.HOLDS: participant_pb2.INVARIANT_STATE_HOLDS,
    Standing.VIOLATED: participant_pb2.INVARIANT_STATE_VIOLATED,
    Standing.UNCHECKED: participant_pb2.INVARIANT_STATE_UNCHECKED,
}
_log = get_logger("participant_sdk.invariants")


class Watched(Protocol):
    """The participant's runtime, as far as this needs it (`Runtime`, or `Slots`)."""

    @property
    def resource(self) -> Any:
        """What is looked at."""

    @property
    def heard_out(self) -> frozenset[int]:
        """The streams on which a coordinator may be told."""

    @property
    def ended(self) -> asyncio.Future[TrothError | None]:
        """Done when the participant does not serve any more."""

    def tell(self, stream: int, field: str, message: Any) -> None:
        """Tell one."""

    async def is_first(self) -> bool:
        """Whether this process does what a service does once."""


@dataclass(slots=True)
class _Seen:
    """What becomes of one invariant."""

    invariant: Invariant
    due: float = 0.0
    finding: Finding | None = None
    checked: float = 0.0
    """When it was found out last, by the loop's clock."""
    failures: int = 0
    elsewhere: int = 0
    still_runs: Callable[[], bool] = lambda: False
    """Whether a check that is over has not returned."""


class Watch:
    """Runs from `start` to `close`, in the participant's loop. `read` is `Participant.read`."""

    def __init__(
        self, participant: str, invariants: Sequence[Invariant], runtime: Watched, read: Callable[..., Awaitable[Any]]
    ) -> None:
        self._participant, self._runtime, self._read = participant, runtime, read
        self._seen = [_Seen(one) for one in invariants]
        self._threads = Threads()
        self._told: frozenset[int] = frozenset()
        self._clock = asyncio.get_running_loop().time
        self._tasks: list[asyncio.Task[None]] = []
        self._generation = forks.generation()

    def start(self) -> None:
        """Begin; the first check of each is made now."""
        if self._seen:
            for work in (self._check_all(), self._tell_new()):
                self._tasks.append(asyncio.create_task(work, name=f"troth-invariants-{self._participant}"))

    async def close(self) -> None:
        """End; whatever does not end is left alone."""
        if forks.generation() != self._generation:
            return  # in a forked child they are its parent's
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CUT_SECONDS)

    @property
    def findings(self) -> Mapping[str, Finding]:
        """What is known of those that were looked at, by name."""
        return {seen.invariant.name: seen.finding for seen in self._seen if seen.finding is not None}

    @property
    def ages(self) -> Mapping[str, float]:
        """How many seconds ago each was found out last."""
        return {seen.invariant.name: self._clock() - seen.checked for seen in self._seen if seen.checked}

    # ---- the schedule

    async def _check_all(self) -> None:
        while not self._runtime.ended.done():
            seen = min(self._seen, key=lambda one: one.due)
            if (wait := seen.due - self._clock()) > 0:
                await asyncio.sleep(wait)
            await self._turn(seen)
            every = seen.invariant.every_seconds
            seen.due = self._clock() + (min(every, AGAIN_SECONDS) if seen.failures else every)

    async def _turn(self, seen: _Seen) -> None:
        """One check, and what follows from it."""
        try:
            if not await self._runtime.is_first():
                self._elsewhere(seen)
                return
            seen.elsewhere = 0
            wrong = seen.invariant.judged(await self._checked(seen))
        except Unclear as unclear:
            self._failed(seen, str(unclear))
        except TrothError as error:
            self._failed(seen, error.message)
        except Exception as error:
            self._failed(seen, f"it raised {type(error).__name__}", error)
        else:
            seen.failures, seen.checked = 0, self._clock()
            self._found(seen, Standing.VIOLATED if wrong else Standing.HOLDS, wrong)

    def _elsewhere(self, seen: _Seen) -> None:
        """Another process looks at it: what was found here is old."""
        seen.elsewhere += 1
        if seen.elsewhere >= TURNS_ELSEWHERE and seen.finding is not None:
            seen.finding, seen.checked, seen.failures = None, 0.0, 0
            self._tell(self._told, seen)

    # ---- one check

    async def _checked(self, seen: _Seen) -> Any:
        """What the function returned. Raises what it raised, and `Unclear` when it did not return in time."""
        invariant = seen.invariant
        if seen.still_runs():
            raise Unclear("a check that was begun before has not returned yet")
        if invariant.alone and not invariant.is_async:
            return await self._in_thread(seen)
        if invariant.alone:
            return await self._in_time(seen, finished(invariant.function))
        if self._runtime.resource.atomic:
            return await self._at_a_quiet_point(seen)
        return await self._in_time(seen, self._runtime.resource.look(invariant.function, self._threads, invariant.seconds_max))

    async def _at_a_quiet_point(self, seen: _Seen) -> Any:
        desk = Desk(seen.invariant.function, seen.invariant.seconds_max)
        await self._read(desk.serve, locks=seen.invariant.locks)
        return self._returned(seen, desk.result)

    async def _in_thread(self, seen: _Seen) -> Any:
        running = self._threads.submit(seen.invariant.function)
        ended = asyncio.wrap_future(running)
        ended.add_done_callback(unasked)
        await asyncio.wait((ended,), timeout=seen.invariant.seconds_max)
        return self._returned(seen, running)

    def _returned(self, seen: _Seen, running: Future[Any]) -> Any:
        if not running.done():
            seen.still_runs = lambda: not running.done()
            raise _late(seen.invariant)
        return running.result()

    async def _in_time(self, seen: _Seen, check: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(check)
        try:
            # A statement that takes so long is ended by the server first, which needs no help.
            more = 0.0 if seen.invariant.alone else CUT_SECONDS
            await asyncio.wait((task,), timeout=seen.invariant.seconds_max + more)
        finally:
            task.cancel()
        if not task.done():
            await asyncio.wait((task,), timeout=CUT_SECONDS)
            seen.still_runs = lambda: not task.done()
            task.add_done_callback(unasked)
            raise _late(seen.invariant)
        result = task.result()
        if type(result) is Raised:
            raise deliverable(result.error)
        return result

    # ---- what follows

    def _failed(self, seen: _Seen, why: str, error: Exception | None = None) -> None:
        invariant = seen.invariant.name
        seen.failures += 1
        if seen.failures == 1:
            _log.warning("invariant not checked", participant=self._participant, invariant=invariant, why=why, exc_info=error)
        if seen.failures >= FAILURES_MAX:
            before = seen.finding
            if before is not None and before.standing is Standing.VIOLATED:
                why = f"{why}; when it was checked last it was violated: {before.detail}"
            elif before is not None and before.standing is Standing.UNCHECKED:
                return
            self._found(seen, Standing.UNCHECKED, encodable(why)[:DETAIL_CHARACTERS_MAX])

    def _found(self, seen: _Seen, standing: Standing, detail: str) -> None:
        before, now_ms = seen.finding, int(time.time() * 1000)
        same = before is not None and before.standing is standing
        seen.finding = Finding(standing, before.since_ms if same and before is not None else now_ms, detail)
        if seen.finding == before:
            return
        self._tell(self._told, seen)
        if same:
            return
        about: dict[str, Any] = {"participant": self._participant, "invariant": seen.invariant.name}
        if standing is Standing.VIOLATED:
            _log.error("invariant violated", **about, detail=detail)
        elif standing is Standing.UNCHECKED:
            _log.error("invariant cannot be checked", **about, why=detail)
        elif before is not None:
            _log.info("invariant holds again", **about, after_seconds=(now_ms - before.since_ms) / 1000)

    # ---- coordinators

    async def _tell_new(self) -> None:
        """Tell each stream that is new all that is known."""
        while True:
            streams = self._runtime.heard_out
            new, self._told = streams - self._told, streams
            for seen in self._seen:
                if seen.finding is not None:
                    self._tell(new, seen)
            await asyncio.sleep(LOOK_SECONDS)

    def _tell(self, streams: frozenset[int], seen: _Seen) -> None:
        report = participant_pb2.InvariantReport(name=seen.invariant.name, state=participant_pb2.INVARIANT_STATE_ELSEWHERE)
        if (finding := seen.finding) is not None:
            report.state, report.since_ms, report.detail = _STATES[finding.standing], finding.since_ms, finding.detail
        for stream in streams:
            with suppress(TrothError):
                self._runtime.tell(stream, "invariants", report)


def _late(invariant: Invariant) -> Unclear:
    return Unclear(f"it did not return within {invariant.seconds_max:g} seconds (seconds_max)")
