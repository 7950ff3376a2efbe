"""One run: a coordinator, three participants, two clients; faults; then peace, and judgement."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from coordinator.core.model import State
from coordinator.core.settings import CoreSettings
from participant_sdk.core.branches import Config
from participant_sdk.core.branches import State as BranchState
from tests.sim import bounds, checkers, costs, heuristics, replay
from tests.sim.bank import arguments_of, sign_of
from tests.sim.clients import Client, History, Work
from tests.sim.faults import Faults
from tests.sim.network import Network
from tests.sim.operators import Operators
from tests.sim.plan import Plan
from tests.sim.process import Process
from tests.sim.roles import CONFIG, SETTINGS, CoordinatorProcess, ParticipantProcess
from tests.sim.scene import Scene
from tests.sim.workload import Workload
from tests.sim.world import World

ACCOUNTS = 4
BALANCE = 40
FAULT_SECONDS = 2.2
PEACE_SECONDS = 120.0
NAP_SECONDS = 50.0
FORGETTING_ROUNDS = 4

CHECKERS = (
    *checkers.PROMISES, checkers.commits_without_faults, checkers.ages, checkers.stale_epochs,
    checkers.everyone_answered, checkers.nobody_broke_the_protocol, costs.costs, bounds.nothing_grows,
)  # fmt: skip
"""The checkers that look at a run when it is over. `replay.recovery_repeats` comes last, when nothing else was found."""
BEFORE_FORGETTING = (heuristics.heuristics_told, heuristics.forced_kept, heuristics.outcomes_true, heuristics.nothing_in_doubt)
"""Those that look when all is decided, and operators have not forgotten anything yet."""
BEFORE_RESTARTING = (bounds.nothing_waits,)
"""Those that look when the retention has passed, and the coordinator has not begun a newer epoch."""
TABLE = (*CHECKERS, *BEFORE_FORGETTING, *BEFORE_RESTARTING, replay.recovery_repeats)
"""All checkers of this level. While a run goes on, `scene.Witness`, `replay.Prefixes` and `bounds.Limits` look as well, for the
checkers `no abort from absence`, `stale epochs write nothing`, `replay` and `bounded`."""


@dataclass
class Result:
    """How a run went."""

    seed: int
    transactions: int
    crashes: int
    faults: int
    violations: list[str]
    reached: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    """What the run was made of, for making it smaller."""


class Run:
    """What one seed makes."""

    def __init__(self, seed: int, *, tracing: bool, keep: Iterable[str] | None) -> None:
        self.seed = seed
        self.plan = plan = Plan(seed, keep)
        self.world = world = World(seed, tracing=tracing)
        self.network = Network(world)
        self.calm = plan.coin(0.08)
        self.narrow = narrow = not self.calm and plan.coin(0.15)
        forgetful = plan.coin(0.3)
        self.aged = plan.coin(0.06)
        settings, config = _limits(narrow=narrow, forgetful=forgetful)
        self.coordinator = CoordinatorProcess(world, self.network, settings)
        names = ["p1", "p2", "p3"]
        self.accounts = {name: [f"{name}/{i}" for i in range(ACCOUNTS)] for name in names}
        self.participants = {
            name: ParticipantProcess(world, name, dict.fromkeys(self.accounts[name], BALANCE), self.coordinator, config)
            for name in names
        }
        self.processes: list[Process] = [self.coordinator, *self.participants.values()]
        self.history = History()
        self.clients = [Client(world, f"k{i}", self.coordinator, self.participants, self.history) for i in range(2)]
        self.faults = Faults(world, self.network, self.processes, self.clients)
        self.workload = Workload(world, self.clients, self.accounts, steady=self.calm)
        self.operators = Operators(world, self.coordinator, self.participants)
        self.scene = self._scene(forgetful)
        self.prefixes = replay.Prefixes(seed, self.scene)
        self.limits = bounds.Limits(self.scene)

    def _scene(self, forgetful: bool) -> Scene:
        money = len(self.participants) * ACCOUNTS * BALANCE
        scene = Scene(self.coordinator, self.participants, self.history, money, {})
        scene.clients, scene.operators = self.clients, self.operators
        scene.calm, scene.forgetful = self.calm, forgetful
        witness = scene.witness
        witness.coordinator, witness.history = self.coordinator, self.history
        witness.aborted_by_operator = self.operators.aborted
        self.network.handed_over = witness.handed_over
        for process in self.processes:
            process.disk.forced = partial(witness.forced_record, process.name)
        return scene

    # ---- the run

    def go(self, transactions: int | None) -> None:
        """Faults, then peace."""
        world, plan = self.world, self.plan
        for process in self.processes:
            process.start()
        for client in self.clients:
            client.connect()
        world.run_until(0.3)
        if not self.calm:
            self.faults.plan(plan, self.coordinator, FAULT_SECONDS)
            if plan.coin(0.25):
                for number in range(1, plan.count(1, 5) + 1):
                    own = plan.draw(f"operator{number}")
                    if own is not None:
                        self.operators.plan(own, FAULT_SECONDS)
        # Where limits are narrow, much comes at once.
        seconds = FAULT_SECONDS * (0.1 if self.narrow else 0.8)
        self.workload.schedule(plan, transactions or plan.count(3, 8), seconds)
        while world.now < 0.3 + FAULT_SECONDS:
            world.run_until(world.now + 0.2)
            self.limits.look()
        self.faults.end()
        self.come_to_rest()
        self.operators.over = True
        if self.operators.forced or self.operators.abandoned:
            self.clear_up()
        if self.aged:
            self.age()

    def come_to_rest(self) -> None:
        """Let time pass until nothing is open, or until it is clear that something never will be closed."""
        end = self.world.now + PEACE_SECONDS
        while self.world.now < end:
            self.world.run_until(self.world.now + 0.25)
            if self.is_at_rest():
                # Whoever has been answered may still hold a branch of which he is told a moment later.
                self.world.run_until(self.world.now + 0.5)
                if self.is_at_rest():
                    return

    def is_at_rest(self) -> bool:
        """Whether nothing is open but what waits for an operator."""
        coordinator = self.coordinator
        if not coordinator.alive or not coordinator.serving or self.workload.waiting:
            return False
        if any(txn.state is not State.HEURISTIC for txn in coordinator.core._book.live.values()):
            return False
        if any(client.pending or client.asking or client.stream is None for client in self.clients):
            return False
        return all(
            one.alive and one.serving and all(state in _FORCED for _, state in one.core.states())
            for one in self.participants.values()
        )

    # ---- after it

    def clear_up(self) -> None:
        """Operators look at what they have done, and forget it when they have."""
        world = self.world
        self.network.renew()
        world.run_until(world.now + 1.0)
        for process in self.processes:
            if world.random.random() < 0.4:
                process.crash("to see what is kept")
        self.come_to_rest()
        self.operators.see()
        world.run_until(world.now + 0.5)
        self.scene.outcomes = dict(self.operators.told)
        self.scene.expected = _expected(self.history)
        self.scene.witness.violations.extend(checkers.judge_only(self.scene, BEFORE_FORGETTING))
        for _ in range(FORGETTING_ROUNDS):
            if not self.operators.open_heuristics():
                break
            self.operators.forget()
            world.run_until(world.now + 0.5)
            self.network.renew()  # whoever still has something to tell tells it in his next Hello
            world.run_until(world.now + 1.0)
            self.operators.see()
            world.run_until(world.now + 0.5)

    def age(self) -> None:
        """The retention passes. Keys are tried again on its way; then some work is done, and all is looked at."""
        retention = SETTINGS.retention_seconds
        self._sleep(retention + 50)
        for attempt in [one for one in self.workload.attempts if one.key][:4]:
            self.world.reach("key retried behind the retention")
            again = self.workload.again(attempt)
            again.age = again.age or "perhaps old"
            self.workload.attempt(again, retries=3)
        self.world.run_until(self.world.now + 2.0)
        self._sleep(retention + SETTINGS.skew_seconds + 100)
        self.world.run_until(self.world.now + 2.0)
        self._sleep(100)
        self.scene.witness.violations.extend(checkers.judge_only(self.scene, BEFORE_RESTARTING))
        # What participants remember of branches whose order they never learnt, only the next epoch covers.
        self.coordinator.crash("for a newer epoch")
        self.come_to_rest()
        self._sleep(100)
        self.world.run_until(self.world.now + 2.0)
        self.scene.aged = True

    def _sleep(self, seconds: float) -> None:
        until = self.coordinator.core.now_ms + seconds * 1000
        for _ in range(200):
            if not self.coordinator.alive or self.coordinator.core.now_ms >= until:
                return
            self.world.leap(NAP_SECONDS)
            self.world.run_until(self.world.now + 0.35)

    def judge(self) -> list[str]:
        """All violations."""
        for process in self.processes:
            if not process.alive:
                return [f"AC5 nothing left: {process.name} is down after all faults have ended"]
        self.scene.expected = _expected(self.history)
        causes = [done.cause.reason for done in self.coordinator.core._book.finished.values() if done.cause is not None]
        if "CLIENT_GONE" in causes:
            self.world.reach("client that never came back")
        found = checkers.judge(self.scene, CHECKERS)
        found += [*self.prefixes.violations, *sorted(self.limits.violations)]
        return found or (list(replay.recovery_repeats(self.scene)) if self.seed % 4 == 0 else [])


_FORCED = (BranchState.FORCED_COMMIT, BranchState.FORCED_ABORT)


def _limits(*, narrow: bool, forgetful: bool) -> tuple[CoreSettings, Config]:
    settings, config = SETTINGS, CONFIG
    if narrow:
        settings = replace(settings, open_transactions_max=4, keys_max=4, unseen_answers_max=6)
        config = replace(config, open_branches_max=2, calls_waiting_max=3)
    if forgetful:
        settings = replace(settings, retained_transactions_max=1)
    return settings, config


def _expected(history: History) -> dict[str, dict[str, int]]:
    return {name: changes_owed(attempt.work) for name, attempt in history.attempts.items()}


def changes_owed(work: Work) -> dict[str, int]:
    """What a transaction changes at each participant, where it changes anything."""
    changes: dict[str, int] = {}
    for participant, operations in work.items():
        for op in operations:
            sign = sign_of(op.name)
            if sign:
                changes[participant] = changes.get(participant, 0) + sign * arguments_of(op.arguments)[1]
    return changes


def run(seed: int, *, tracing: bool = False, transactions: int | None = None, keep: Iterable[str] | None = None) -> Result:
    """Run one seed; with `keep` only those of its items."""
    one = Run(seed, tracing=tracing, keep=keep)
    violations: list[str] = []
    try:
        one.go(transactions)
        violations = one.judge()
    except Exception as error:  # whatever is raised here, somebody has a bug; the sweep goes on and says where
        where = traceback.extract_tb(error.__traceback__)[-1]
        violations.append(f"{type(error).__name__}: {error} at {where.name}:{where.lineno}")
    crashes = sum(process.crashes for process in one.processes)
    world = one.world
    return Result(
        seed, one.workload.started, crashes, one.faults.count, violations, world.reached, world.trace, one.plan.items
    )
