"""One run of the second level: the daemon, three services, two client processes; faults; then peace, and judgement."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import grpc.aio

from participant_sdk.client import session as client_session
from tests import left
from tests.sim import checkers
from tests.sim.clients import History
from tests.sim.replay import recovery_repeats
from tests.sim.run import ACCOUNTS, BALANCE, Result, changes_owed
from tests.sim_engine.client import ClientProcess, EngineWorkload, WatchedSession
from tests.sim_engine.faults import Faults
from tests.sim_engine.limits import boots, draw
from tests.sim_engine.loop import LIFE, EngineWorld, VirtualTime
from tests.sim_engine.network import Network
from tests.sim_engine.probe import Probe
from tests.sim_engine.process import Process
from tests.sim_engine.roles import SHELL, CoordinatorProcess, ParticipantProcess
from tests.sim_engine.stranger import EVERY, Stranger, is_its_own_fault
from troth import logs
from troth.backoff import Backoff
from troth.errors import TrothError
from troth.log.cleaner import Cleaner

MUST_REACH = (
    "caller cancelled",
    "client asked and was told",
    "client resumed its session",
    "contradictory limits refused",
    "coordinator stopped in order",
    "coordinator's log failed",
    "crash at an await",
    "crash between write and sync",
    "hook called again",
    "key joined while running",
    "key retried after a commit",
    "limits drawn",
    "local read refused",
    "machines boot on any day",
    "outcome unknown",
    "participant stopped in order",
    "participant's log failed",
    "a stranger came under another's name",
    "a stranger ended another session's transaction",
    "a stranger said what others say",
    "Prepare against a running operation",
    "repeated interactive call",
    "stream broken",
    "unanswered request at a reconnect",
    "writer waited for the reader",
)
"""What a sweep of `REACH_SEEDS` seeds has to come to."""
REACH_SEEDS = 500
FAULT_SECONDS = 3.0
PEACE_SECONDS = 120.0
_FORGETS = frozenset({"retention_seconds", "retained_transactions_max"})
"""Where these are small, what is young expires, too."""
CLOCKS = (
    "troth.engine.time",
    "coordinator.services.context.time",
    "coordinator.services.admin.time",
    "participant_sdk.client.checks.time",
)
"""Where production code reads the clocks of the machine."""


class Run:
    """What one seed makes."""

    def __init__(self, seed: int, *, tracing: bool) -> None:
        self.world = world = EngineWorld(seed, tracing=tracing)
        self.network = network = Network(world)
        self.history, self.witness = History(), checkers.Witness()
        self.drawn = draw(seed, SHELL)
        if self.drawn.narrow:
            world.reach("limits drawn")
        if self.drawn.refused:
            world.reach("contradictory limits refused")
        self.coordinator = CoordinatorProcess(world, network, self.drawn)
        self.coordinator.on_answer = lambda answer: self.witness.told_client(answer.transaction_id, answer.outcome)
        names = ["p1", "p2", "p3"]
        self.accounts = {name: [f"{name}/{i}" for i in range(ACCOUNTS)] for name in names}
        ledger = world.random.choice(["", "", "p3", "p2"])
        self.participants = {name: self._participant(name, ledger=name == ledger) for name in names}
        self.clients = [ClientProcess(world, network, f"k{i}", self.participants, self.history) for i in range(2)]
        self.processes: list[Process] = [self.coordinator, *self.participants.values(), *self.clients]
        odd = boots(seed)
        self.odd_clocks = odd is not None
        """A coordinator that began in 2078 takes for old what is young."""
        for process in self.processes:
            process.boots_with = odd
        if odd is not None:
            world.reach("machines boot on any day")
        self.faults = Faults(world, network, self.processes)
        self.stranger = Stranger(world, network, self.history, seed) if seed % EVERY == 0 else None
        self.workload = EngineWorkload(world, self.clients, self.accounts)
        self.probe = Probe(self.coordinator, self.participants, self.clients[0], narrow=bool(self.drawn.narrow))

    def _participant(self, name: str, *, ledger: bool) -> ParticipantProcess:
        accounts = dict.fromkeys(self.accounts[name], BALANCE)
        participant = ParticipantProcess(self.world, self.network, name, accounts, self.drawn.participants, ledger=ledger)
        participant.on_send = self.witness.participant_said
        return participant

    # ---- the run

    def go(self, transactions: int | None) -> None:
        """Faults, then peace."""
        world = self.world
        for process in self.processes:
            process.start()
        world.run_until(0.5)
        self.faults.watch()
        self.faults.begin(FAULT_SECONDS)
        self.workload.schedule(transactions or world.random.randint(4, 12), FAULT_SECONDS * 0.8)
        for participant in self.participants.values():
            self._look(participant)
        if self.stranger is not None:
            self.stranger.start()
        world.run_until(world.now + FAULT_SECONDS + 1e-3)
        if self.stranger is not None:
            self.stranger.crash("it is gone")
        end = world.now + PEACE_SECONDS
        while world.now < end:
            world.run_until(world.now + 2.0)
            if self.at_rest():
                world.run_until(world.now + 2.0)
                self.probe.go()
                return

    def _look(self, participant: ParticipantProcess) -> None:
        """Local reads of a service, some of which are cancelled."""
        if self.faults.over:
            return
        random = self.world.random
        if participant.ready_to_serve():
            task = participant.spawn(self._looked(participant, random.choice(self.accounts[participant.name])))
            if task is not None and random.random() < 0.3:
                self.world.after(random.uniform(0.0, 0.01), task.cancel)
        self.world.after(random.uniform(0.05, 0.5), lambda: self._look(participant))

    async def _looked(self, participant: ParticipantProcess, account: str) -> None:
        try:
            await participant.look(account)
        except TrothError:
            self.world.reach("local read refused")

    def at_rest(self) -> bool:
        """Whether nothing is open."""
        busy = any(one.alive and one.core.states() for one in self.participants.values())
        waiting = any(client.open_actions() for client in self.clients)
        up = all(process.alive for process in self.processes)
        return up and not (busy or waiting) and self.coordinator.at_rest()

    # ---- the judgement

    def judge(self) -> list[str]:
        """All violations."""
        for process in (self.coordinator, *self.participants.values()):
            if not process.alive:
                return [f"AC5: {process.name} is down after all faults have ended"]
        coordinator: Any = self.coordinator
        participants: Any = self.participants
        expected = {name: changes_owed(attempt.work) for name, attempt in self.history.attempts.items()}
        money = len(self.participants) * ACCOUNTS * BALANCE
        scene = checkers.Scene(coordinator, participants, self.history, money, expected)
        scene.witness = self.witness
        scene.forgetful = coordinator.forgetful or self.odd_clocks or bool(_FORGETS & self.drawn.narrow)
        found = [*self.world.unexpected, *checkers.judge(scene, checkers.PROMISES)]
        found += [*self._callers(), *self._once(scene), *self.probe.violations, *self._left()]
        return found or list(recovery_repeats(scene))

    def _left(self) -> Iterator[str]:
        """Nobody holds anything for anybody any more."""
        assert self.coordinator.daemon is not None
        yield from left.in_daemon(self.coordinator.daemon)
        for name, participant in self.participants.items():
            assert participant.participant is not None
            yield from left.in_participant(name, participant.participant._runtime)
        for client in self.clients:
            sessions = client.client._running if client.client is not None else None
            if sessions is not None:
                yield from left.in_client(client.name, sessions.home)

    def _callers(self) -> Iterator[str]:
        """Every caller was told something, or its process died."""
        for client in self.clients:
            for action in client.open_actions():
                kind = "interactive" if action.interactive else "one-shot"
                yield f"AC5: {client.name} was never told of {action.ids}, {kind}, key {action.key!r}"

    def _once(self, scene: checkers.Scene) -> Iterator[str]:
        """What one caller wanted done once was done at most once, in however many transactions its client tried it."""
        for client in self.clients:
            for action in client.actions:
                stands = [name for name in action.ids if scene.applied(name)]
                if len(stands) > 1:
                    yield f"exactly once: one call committed {stands}"


def run(seed: int, *, tracing: bool = False, transactions: int | None = None) -> Result:
    """Run one seed."""
    one = Run(seed, tracing=tracing)
    violations: list[str] = []
    with _replaced(one):
        try:
            one.go(transactions)
            violations = one.judge()
        except AssertionError as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            violations.append(f"assertion: {error} at {where.name}:{where.lineno}")
        finally:
            one.world._tracing = False
            one.world.loop.dispose()
    crashes = sum(process.crashes for process in one.processes)
    count = one.faults.count + crashes
    return Result(seed, one.workload.started, crashes, count, violations, one.world.reached, one.world.trace)


# ---- what is replaced


OF_AUTHORS = ("a function raised", "operation failed")
"""What is said of the functions of a service's author, who may do what he likes."""


class SeededBackoff:
    """In place of the client's back-off between dials, which differs between objects of one process."""

    def __init__(self, world: EngineWorld, backoff: Backoff) -> None:
        self._world = world
        self._backoff = backoff

    def delay_seconds(self, attempt: int, what: str) -> float:
        """See `Backoff`."""
        return self._backoff.delay_seconds(attempt, "redial") * self._world.random.uniform(0.7, 1.0)


@contextmanager
def _replaced(one: Run) -> Iterator[None]:
    """Clocks, network, and what is logged; and times that would make a run long without making it different."""
    world = one.world
    clock = VirtualTime(world)
    redial = SeededBackoff(world, Backoff(0.02, 0.5))
    with ExitStack() as stack:
        for name in CLOCKS:
            stack.enter_context(patch(name, clock))
        stack.enter_context(patch.object(grpc.aio, "insecure_channel", one.network.insecure_channel))
        stack.enter_context(patch.object(grpc.aio, "server", one.network.server))
        stack.enter_context(patch("coordinator.port.reflection.enable_server_reflection", lambda names, server: None))
        stack.enter_context(patch("participant_sdk.client.client.Session", WatchedSession))
        stack.enter_context(patch("participant_sdk.client.connection.REDIAL", redial))
        stack.enter_context(patch("participant_sdk.session.REDIAL", Backoff(0.02, 0.5)))
        stack.enter_context(patch.object(client_session, "RESEND", Backoff(0.3, 2.0)))
        stack.enter_context(patch.object(client_session, "WATERMARK_SECONDS", 0.1))
        stack.enter_context(patch.dict(Cleaner.__init__.__kwdefaults__, slack_records=2))
        stack.enter_context(_logging(world))
        stack.enter_context(patch.object(sys, "unraisablehook", lambda unraisable: None))
        world.loop.set_exception_handler(lambda loop, context: _unexpected(world, context))
        yield


def _unexpected(world: EngineWorld, context: dict[str, Any]) -> None:
    life = LIFE.get()
    if life is None or life.alive:
        world.unexpected.append(f"loop: {context.get('message')}: {context.get('exception')!r}")


@contextmanager
def _logging(world: EngineWorld) -> Iterator[None]:
    """What is logged goes into the trace; an error that nobody expected is a violation."""

    def hear(level: str, event: str, fields: dict[str, Any]) -> None:
        life = LIFE.get()
        if world.tracing:
            world.say(life.name if life else "?", f"LOG {level} {event} {fields}")
        if event in ("protocol violation", "protocol error", "malformed frame"):
            if is_its_own_fault(str(fields.get("error"))):
                return
            world.unexpected.append(f"protocol: {life.name if life else '?'}: {fields.get('error')} ({fields.get('event_kind')})")
        elif level in ("error", "critical") and event not in OF_AUTHORS and fields.get("reason") != "LOG_FAILED":
            world.unexpected.append(f"logged: {event} {fields}")

    with logs.heard_by(hear):
        yield
