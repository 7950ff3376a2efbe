"""Runs a service's operation through crash-and-recover at every named crash point, and reports the first broken promise.

The pytest plugin gives it to tests as the fixture `crash_points`:

    def test_a_debit_survives_every_crash(crash_points):
        crash_points.check(make_bank, call("payments", "debit", account="a", amount=5),
                           prepare=[call("payments", "open", account="a", amount=100)])

The operation runs in five scenarios (`SCENARIOS`): as a transaction over two participants that commits, as one that a second
participant refuses after this one has voted YES, alone, interactively, and interactively rolled back. Each runs once in peace,
which tells the crash points that it comes by, and what the data look like before and after. Then it runs again for every one
of the points: there the service (or the coordinator) crashes, it is started anew on the same files, and the promises are checked:

    everything is decided       a crash leaves no transaction undecided, no lock and no open branch
    told is true                after COMMITTED the data are those of the peaceful run, after ABORTED those of before
    at most once                the same again under the same key does not do it twice, and does it when it was aborted
    durable                     a further restart changes nothing

Crash points are those of `troth.failpoints`. The crash happens inside of the test's process: the engine ends at that very point,
and nothing more is written or said. Promises that an operation breaks are those about what it does *besides* the database that
it was given: in files, in variables, through connections of its own. The data are whatever `state` returns.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from participant_sdk import LogBranch, LogResource, Participant, Refuse
from participant_sdk.client import call
from participant_sdk.client.client import Call
from participant_sdk.embedded.session import InProcessSession
from participant_sdk.session import Owner
from participant_sdk.testing.cluster import COORDINATOR, Cluster
from participant_sdk.wiring import SessionLike
from troth import failpoints, logs
from troth.errors import Aborted, ConfigError, HeuristicOutcome, OutcomeUnknown, RequestError, TrothError
from troth.values import decode_arguments

WITNESS = "troth-witness"
"""The second participant of the scenarios that need one."""
TOGETHER = "together"
REFUSED = "refused elsewhere"
ALONE = "alone"
INTERACTIVE = "interactive"
ROLLED_BACK = "interactive, rolled back"
SCENARIOS = (TOGETHER, REFUSED, ALONE, INTERACTIVE, ROLLED_BACK)
KEY = "troth-crash-points"
COMMITTED, ABORTED = "COMMITTED", "ABORTED"
ALL_THERE = "told is true: what was committed is there, once"
NOTHING_LEFT = "told is true: an aborted transaction leaves nothing behind"
PATIENCE_SECONDS = 20.0
"""How long anything may take once nothing crashes any more."""
LOOK_SECONDS = 0.02
VOTED = "participant:after-send:votes"

Make = Callable[[Path], Participant]
"""Makes the participant on files below a directory; called anew at each restart, as a new process would."""
State = Callable[[Participant, Path], Awaitable[object]]
"""What counts of the service's data; compared with `==`."""

_is_witness: ContextVar[bool] = ContextVar("troth-witness", default=False)


@dataclass(frozen=True, slots=True)
class Point:
    """A crash point: its name, and the how-manieth time it is come by."""

    name: str
    nth: int

    def __str__(self) -> str:
        return f"{self.name}@{self.nth}"

    @classmethod
    def parse(cls, text: str) -> Point:
        """`ROLE:MOMENT:WHAT@N`. Raises `ConfigError`."""
        name, _, nth = text.partition("@")
        if name.count(":") != 2 or not (nth or "1").isdigit():
            raise ConfigError(f"{text!r} is no crash point", hint="Write ROLE:MOMENT:WHAT@N.")
        return cls(name, int(nth or 1))


class BrokenPromise(AssertionError):
    """A promise that did not hold: which, where, and what was found instead."""

    def __init__(self, promise: str, scenario: str, points: Sequence[Point], found: str) -> None:
        self.promise = promise
        self.scenario = scenario
        self.points = tuple(points)
        where = " and then at ".join(map(str, points)) or "(no crash)"
        super().__init__(f"broken promise: {promise}\n  scenario:    {scenario}\n  crash point: {where}\n  {found}")


class _Crash(Exception):
    """Ends an engine at a crash point."""


@dataclass(slots=True)
class Report:
    """What was run."""

    runs: int = 0
    crashes: int = 0
    points: set[tuple[str, str]] = field(default_factory=set)
    """Scenario and name."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tested."""

    make: Make
    calls: tuple[Call, ...]
    prepare: tuple[Call, ...] = ()
    state: State | None = None

    @property
    def name(self) -> str:
        """The participant's name."""
        return self.calls[0].participant


async def tables(participant: Participant, directory: Path) -> object:
    """The default state: every row of every table of a `SqliteResource`, in the order of their values."""

    def dump(db: Any) -> dict[str, list[Any]]:
        names = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*'")
        return {
            name: sorted(db.execute(f'SELECT * FROM "{name}"'), key=repr)
            for (name,) in names
            if not name.startswith("troth_")
        }

    return await participant.read(dump)


async def check(subject: Subject, directory: Path, *, only: Sequence[Point] = (), twice: bool = False) -> Report:
    """Run all scenarios; `only` crashes at these points, `twice` crashes again at every point of each recovery.

    Raises `BrokenPromise`, and `ConfigError` when the operation does not commit in peace.
    """
    if {one.participant for one in (*subject.calls, *subject.prepare)} != {subject.name}:
        raise ConfigError("all calls must be of the one participant that is tested")
    report = Report()
    for scenario in SCENARIOS:
        await _Scenario(scenario, subject, directory, report).check(only, twice)
    return report


class _Scenario:
    """One scenario: in peace, then with a crash at each point."""

    def __init__(self, scenario: str, subject: Subject, directory: Path, report: Report) -> None:
        self._scenario = scenario
        self._subject = subject
        self._directory = directory / "crash"
        self._report = report

    async def check(self, only: Sequence[Point], twice: bool) -> None:
        peaceful = await self._run(())
        if self._scenario in (TOGETHER, ALONE, INTERACTIVE) and peaceful.told != COMMITTED:
            raise ConfigError(f"{peaceful.refusal}", hint="The operation must commit when nothing crashes.")
        for point in only or peaceful.points:
            crashed = await self._run((point,), peaceful)
            for again in crashed.points_of_recovery if twice else ():
                await self._run((point, again), peaceful)

    async def _run(self, points: tuple[Point, ...], peaceful: _Run | None = None) -> _Run:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        run = _Run(self._scenario, self._subject, self._directory, points)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await run.run(peaceful)
        except TimeoutError:
            raise run.broken("everything is decided", f"still {run.doing} after {PATIENCE_SECONDS:.0f} s") from None
        self._report.runs += 1
        self._report.crashes += run.crashes
        self._report.points.update((self._scenario, point.name) for point in run.points)
        return run


class _Observer:
    """Counts the points that are come by, and crashes at the chosen ones. May be called on any thread."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._waiting = list(points)
        self._loop = asyncio.get_running_loop()
        self._counts: Counter[str] = Counter()
        self.watching = False
        self.came_by: list[Point] = []
        self.first_of_recovery = 0
        self.crashes = 0
        self.crashed: asyncio.Queue[Point] = asyncio.Queue()
        self.voted = asyncio.Event()

    def __call__(self, name: str) -> None:
        if not self.watching or _is_witness.get():
            return
        if name == VOTED:
            self._loop.call_soon_threadsafe(self.voted.set)
        self._counts[name] += 1
        point = Point(name, self._counts[name])
        self.came_by.append(point)
        if self._waiting and self._waiting[0] == point:
            self._waiting.pop(0)
            # A process that is started again counts from one.
            self._counts.clear()
            self.crashes += 1
            self.first_of_recovery = len(self.came_by)
            self._loop.call_soon_threadsafe(self.crashed.put_nowait, point)
            self._loop.call_soon_threadsafe(self.voted.set)
            raise _Crash(str(point))


class _CrashSession(InProcessSession):
    """A session that comes by the points of sending."""

    def send(self, stream: int, field: str, message: Any, *, patient: bool = False) -> None:
        failpoints.hit("participant", "before-send", field)
        super().send(stream, field, message, patient=patient)
        failpoints.hit("participant", "after-send", field)

    def deliver(self, **fields: Any) -> None:
        for name in fields:
            failpoints.hit("coordinator", "before-send", name)
        super().deliver(**fields)
        for name in fields:
            failpoints.hit("coordinator", "after-send", name)


class _CrashCluster(Cluster):
    """A cluster whose participants and coordinator crash at points."""

    def _session(self, name: str, address: str, owner: Owner) -> SessionLike:
        return _CrashSession(name, owner, self._coordinator)

    async def _start(self, participant: Participant) -> None:
        if participant.name != WITNESS:
            await super()._start(participant)
            return
        token = _is_witness.set(True)  # inherited by every task that it starts
        try:
            await super()._start(participant)
        finally:
            _is_witness.reset(token)


class _Run:
    """One run of one scenario, with a crash at each of `points`, one after the other."""

    def __init__(self, scenario: str, subject: Subject, directory: Path, points: tuple[Point, ...]) -> None:
        self._scenario = scenario
        self._subject = subject
        self._directory = directory
        self._crash_at = points
        self._observer = _Observer(points)
        self._cluster = _CrashCluster(lambda: subject.make(directory), self._make_witness)
        self.doing = "starting"
        self.told = ""
        self.refusal: TrothError | None = None
        self.before: object = None
        self.after: object = None
        self.crashes = 0
        self._revived = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    @property
    def points(self) -> list[Point]:
        """What was come by."""
        return list(self._observer.came_by)

    @property
    def points_of_recovery(self) -> list[Point]:
        """What was come by after the crash."""
        return self._observer.came_by[self._observer.first_of_recovery :] if self.crashes else []

    def broken(self, promise: str, found: str) -> BrokenPromise:
        """The error for a promise that did not hold."""
        told = f"told:        {self.told or 'nothing'}\n  found:       "
        return BrokenPromise(promise, self._scenario, self._crash_at, told + found)

    async def run(self, peaceful: _Run | None) -> None:
        """Run it, and check what is found against a run in peace. Raises `BrokenPromise`."""
        with logs.quiet(), failpoints.observed(self._observer):
            async with self._cluster:
                for prepared in self._subject.prepare:
                    await self._cluster.run(prepared)
                self.before = await self._state()
                await self._act()
                self.after = await self._state()
                if peaceful is not None:
                    self._check_told(peaceful)
                    await self._check_again(peaceful)
                elif self.told == ABORTED and self.after != self.before:
                    raise self.broken(NOTHING_LEFT, _difference(self.before, self.after))
                await self._check_restart()

    # ---- acting

    async def _act(self) -> None:
        """Run the operation while it crashes, and find out what came of it."""
        reviving = asyncio.create_task(self._revive())
        self._observer.watching = True
        try:
            self.doing = "running the operation"
            self.told, unknown = await self._tell(self._scenario)
            self.doing = "starting again what crashed"
            await self._until_revived(reviving)
            self._observer.watching = False
            await self._until_revived(reviving)
            if unknown is not None:
                self.doing = f"asking for the outcome of {unknown.transaction_id}"
                self.told = await self._ask(unknown)
        finally:
            self._observer.watching = False
            reviving.cancel()
            await asyncio.gather(reviving, return_exceptions=True)

    async def _tell(self, scenario: str) -> tuple[str, OutcomeUnknown | None]:
        """Run the operation; returns what was told, or the error that says that it is not known."""
        try:
            if scenario in (INTERACTIVE, ROLLED_BACK):
                await self._interactive(scenario)
            else:
                await self._one_shot(scenario)
        except OutcomeUnknown as unknown:
            return "", unknown
        except _RolledBack:
            return ABORTED, None
        except HeuristicOutcome as error:
            raise self.broken("all agree", str(error)) from error
        except TrothError as error:  # also of the service's own call, when it crashed in the middle
            self.refusal = error
            return ABORTED, None
        return COMMITTED, None

    async def _one_shot(self, scenario: str) -> None:
        beside = {TOGETHER: [call(WITNESS, "agree")], REFUSED: [call(WITNESS, "refuse")]}.get(scenario, [])
        await self._cluster.run(*self._subject.calls, *beside, key=KEY)

    async def _interactive(self, scenario: str) -> None:
        async with self._cluster.transaction(key=KEY) as tx:
            for one in self._subject.calls:
                with tx.call():
                    branch = self._cluster[one.participant].branch()
                    await branch.run(one.operation.name, **decode_arguments(one.operation.arguments))
            with tx.call():
                await self._cluster[WITNESS].branch().run("agree")
            if scenario == ROLLED_BACK:
                raise _RolledBack

    def _make_witness(self) -> Participant:
        witness = Participant(WITNESS, resource=LogResource(), data_directory=self._directory, coordinator="127.0.0.1:7420")

        @witness.operation(locks=[])
        async def agree(branch: LogBranch) -> None:
            """Vote YES."""

        @witness.operation(locks=[])
        async def refuse(branch: LogBranch) -> None:
            """Vote NO, but not before the other one has voted."""
            await self._observer.voted.wait()
            raise Refuse("REFUSED", "the scenario wants it")

        return witness

    # ---- crashing

    async def _revive(self) -> None:
        """Start again whatever crashes: a participant comes back only when the coordinator does, so both at the same time."""
        async with asyncio.TaskGroup() as restarts:
            while True:
                point = await self._observer.crashed.get()
                restarts.create_task(self._restart(point))

    async def _restart(self, point: Point) -> None:
        try:
            if point.name.startswith("coordinator:"):
                await self._cluster.crash(COORDINATOR)
                await self._cluster.restart(COORDINATOR)
            else:
                async with self._one_at_a_time:
                    await self._cluster.restart(self._subject.name)
        except (TrothError, _Crash):
            if self._observer.crashes == self.crashes + 1:
                raise  # it was no further crash that ended the start
        self.crashes += 1
        self._revived.set()

    async def _until_revived(self, reviving: asyncio.Task[None]) -> None:
        while self.crashes < self._observer.crashes:
            self._revived.clear()
            waiting = asyncio.create_task(self._revived.wait())
            await asyncio.wait((waiting, reviving), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if reviving.done():
                reviving.result()

    # ---- looking

    async def _ask(self, unknown: OutcomeUnknown) -> str:
        first = unknown.first_attempt_ms
        while True:
            try:
                await self._cluster.get(unknown.transaction_id, self._subject.name, WITNESS, first_attempt_ms=first)
                return COMMITTED
            except Aborted:
                return ABORTED
            except (OutcomeUnknown, RequestError):
                await asyncio.sleep(LOOK_SECONDS)

    async def _state(self) -> object:
        self.doing = "waiting to read the data: a branch or a lock is left over"
        participant = self._cluster[self._subject.name]
        await participant.wait_connected()
        return await (self._subject.state or tables)(participant, self._directory)

    # ---- promises

    def _check_told(self, peaceful: _Run) -> None:
        expected = peaceful.after if self.told == COMMITTED else peaceful.before
        if self.told == COMMITTED and peaceful.told == ABORTED:
            raise self.broken("told is true", "a transaction that was refused or rolled back was told COMMITTED")
        if self.after != expected:
            promise = ALL_THERE if self.told == COMMITTED else NOTHING_LEFT
            raise self.broken(promise, _difference(expected, self.after))

    async def _check_again(self, peaceful: _Run) -> None:
        """The same again, in peace, as a client would that was told ABORTED, or that lost the answer."""
        commits = self._scenario in (TOGETHER, ALONE, INTERACTIVE)
        if not commits or (self._scenario == INTERACTIVE and self.told == COMMITTED):
            return  # an interactive begin under the key of a committed transaction is refused: nothing would run
        self.doing = "running the operation again"
        told, _ = await self._tell(self._scenario)
        found = await self._state()
        if told != COMMITTED:
            raise self.broken("at most once: what was aborted can be done again", f"again: {told}, {self.refusal}")
        if found != peaceful.after:
            raise self.broken("at most once: the same again under the same key", _difference(peaceful.after, found))

    async def _check_restart(self) -> None:
        found = await self._state()
        self.doing = "starting once more"
        await self._cluster.restart(self._subject.name)
        restarted = await self._state()
        if restarted != found:
            raise self.broken("durable: a restart changes nothing", _difference(found, restarted))


class _RolledBack(Exception):
    """Leaves the block of an interactive transaction."""


def _difference(expected: object, found: object) -> str:
    return f"{found!r}\n  expected:    {expected!r}"


def run(subject: Subject, directory: Path, *, only: Sequence[Point] = (), twice: bool = False) -> Report:
    """`check` for tests without an event loop. Raises `ConfigError` inside of one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise ConfigError("crash_points.check has an event loop of its own", hint="Call it from a plain `def` test.")
    return asyncio.run(check(subject, directory, only=only, twice=twice))
