"""One run: a coordinator, three participants, two clients; faults; then peace, and judgement."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from coordinator.core.model import State
from coordinator.core.settings import CoreSettings
from participant_sdk.core.branches import Config
from participant_sdk.core.branches import State as BranchState
from tests.sim import bounds, checkers, costs, going_back, heuristics, key_results, keys, leftovers, replay
from tests.sim.bank import arguments_of, sign_of
from tests.sim.clients import Client, History, Work
from tests.sim.faults import Faults
from tests.sim.going_back import GoingBack
from tests.sim.network import Network
from tests.sim.operators import Operators
from tests.sim.plan import Plan
from tests.sim.process import Process
from tests.sim.roles import CONFIG, SETTINGS, CoordinatorProcess, ParticipantProcess
from tests.sim.scene import Scene
from tests.sim.workload import Workload
from tests.sim.world import World
from troth.engine import COMPANY_SECONDS
from troth.v1 import participant_pb2

ACCOUNTS = 4
BALANCE = 40
FAULT_SECONDS = 2.2
HEARING_SECONDS = 0.3
GRACE_SECONDS = 2.0
PEACE_SECONDS = 120.0
QUIET_SECONDS = 2 * COMPANY_SECONDS + 0.5
"""How long a run goes on when nobody waits for anything: an end and the watermark behind it have looked for company by then."""
NAP_SECONDS = 50.0
FORGETTING_ROUNDS = 4

CHECKERS = (
    *checkers.PROMISES, checkers.history_is_true, checkers.commits_without_faults, checkers.ages, checkers.stale_epochs,
    checkers.everyone_answered, checkers.nobody_broke_the_protocol, costs.costs, bounds.nothing_grows,
    keys.told_is_true_of_keys, key_results.results_are_their_commits, leftovers.nothing_left_at_the_coordinator,
)  # fmt: skip
"""The checkers that look at a run when it is over. `replay.recovery_repeats` comes last, when nothing else was found."""
BEFORE_FORGETTING = (heuristics.heuristics_told, heuristics.forced_kept, heuristics.outcomes_true, heuristics.nothing_in_doubt)
"""Those that look when all is decided, and operators have not forgotten anything yet."""
BEFORE_RESTARTING = (bounds.nothing_waits, bounds.nothing_unlearnt, leftovers.counters_agree)
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
        self.aged = plan.coin(0.1)
        settings, config = _limits(Random(seed) if narrow else None, forgetful=forgetful, hears=seed % 2 == 0)
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
        if not self.calm and seed % STRANGER_EVERY == 0:
            self.coordinator.echo = partial(_echoed, Random(seed))
        self.faults = Faults(world, self.network, self.processes, self.clients)
        self.workload = Workload(world, self.clients, self.accounts, steady=self.calm)
        self.operators = Operators(world, self.coordinator, self.participants)
        self.scene = self._scene(forgetful)
        self.going_back: GoingBack | None = None
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
        self.coordinator.welcomed = witness.welcomed
        self.coordinator.on_over = witness.was_over
        self.coordinator.on_answered = lambda attempt, answer: scene.keys.answered(attempt, answer, self.world.now)
        self.coordinator.on_begun = lambda session, response: scene.keys.begun(session, response, self.world.now)
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
        own = None if self.calm else plan.chance("going back", 0.1)
        if own is not None:
            self._let_a_log_go_back(own)
        while world.now < 0.3 + FAULT_SECONDS:
            world.run_until(world.now + 0.2)
            self.limits.look()
        self.faults.end()
        if self.going_back is not None:
            world.run_until(world.now + going_back.SECONDS_AFTER)
            return
        self.come_to_rest()
        self.operators.over = True
        if self.operators.forced or self.operators.abandoned:
            self.clear_up()
            self.come_to_rest()  # callers may have tried again meanwhile
        if self.aged:
            self.age()

    def _let_a_log_go_back(self, own: Random) -> None:
        """From now on this run is judged by what is found out: what was lost is lost."""
        one = self.going_back = GoingBack(self.world, self.coordinator, self.participants, own)
        self.network.handed_over = lambda source, target, field, message: one.handed_over(source, field, message)
        self.coordinator.welcomed = one.welcomed
        one.plan(FAULT_SECONDS)

    def come_to_rest(self) -> None:
        """Let time pass until nothing is open, or until it is clear that something never will be closed."""
        end = self.world.now + PEACE_SECONDS
        while self.world.now < end:
            self.world.run_until(self.world.now + 0.25)
            if self.is_at_rest():
                # Whoever has been answered may still hold a branch of which he is told a moment later; and ends look for company,
                # also that of a retry which began meanwhile (seed 9083).
                begun = self.coordinator.core.counters.started
                self.world.run_until(self.world.now + QUIET_SECONDS)
                if self.is_at_rest() and self.coordinator.core.counters.started == begun:
                    return

    def is_at_rest(self) -> bool:
        """Whether nothing is open but what waits for an operator."""
        coordinator = self.coordinator
        if not coordinator.alive or coordinator.paused or not coordinator.serving or self.workload.waiting:
            return False
        if any(txn.state is not State.HEURISTIC for txn in coordinator.core._book.live.values()):
            return False
        if any(client.pending or client.asking or client.stream is None for client in self.clients):
            return False
        return all(
            one.alive and one.serving and all(state in _FORCED for _, state in one.core.states())
            for one in self.participants.values()
        )

    def result(self, transactions: int | None) -> Result:
        """Go, and judge."""
        violations: list[str] = []
        try:
            self.go(transactions)
            violations = self.judge()
        except Exception as error:  # whatever is raised here, somebody has a bug; the sweep goes on and says where
            where = traceback.extract_tb(error.__traceback__)[-1]
            violations.append(f"{type(error).__name__}: {error} at {where.name}:{where.lineno}")
        crashes, world = sum(process.crashes for process in self.processes), self.world
        return Result(
            self.seed, self.workload.started, crashes, self.faults.count, violations, world.reached, world.trace, self.plan.items
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
        # Those first whose clients' clocks were ahead: their keys have to be kept for longest.
        keyed = sorted((one for one in self.workload.attempts if one.key), key=lambda one: -one.first_attempt_ms)
        for attempt in keyed[:6]:
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
        if self.going_back is not None:
            return list(self.going_back.judge())
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


STRANGER_EVERY = 5
"""In one of so many runs somebody says what others say, who has no part in it."""


def _echoed(random: Random, heard: Any, live: Sequence[str]) -> Any:
    """The same of the same transaction, or of another one. Not everything: what an operator has forced is told of branches that the
    coordinator may know nothing of, and whoever enlists has a part from then on."""
    forced = isinstance(heard, participant_pb2.Acknowledgement) and heard.kind != participant_pb2.ACKNOWLEDGEMENT_KIND_DONE
    if forced or isinstance(heard, participant_pb2.Enlist) or random.random() < 0.7:
        return None
    message = type(heard)()
    message.CopyFrom(heard)
    if live and random.random() < 0.5:
        message.transaction_id = random.choice(live)
    return message


def _limits(narrow: Random | None, *, forgetful: bool, hears: bool) -> tuple[CoreSettings, Config]:
    """Where limits are narrow, each is drawn by itself, and so one may contradict another."""
    settings, config = replace(SETTINGS, hearing_seconds=0.0, recovery_grace_seconds=0.0), CONFIG
    if hears:
        settings = replace(settings, hearing_seconds=HEARING_SECONDS, recovery_grace_seconds=GRACE_SECONDS)
    if narrow is not None:
        settings = replace(
            settings, open_transactions_max=narrow.randint(1, 6), keys_max=narrow.randint(1, 6), reports_max=narrow.randint(4, 8),
            unseen_answers_max=narrow.randint(2, 8), questions_max=narrow.randint(1, 4),
            open_bytes_max=narrow.choice([300, 1_000, 5_000]), unseen_bytes_max=narrow.choice([100, 1_000, 100_000]),
            operation_names_bytes_max=narrow.choice([1, 1_000]),
        )  # fmt: skip
        config = replace(
            config, open_branches_max=narrow.randint(1, 4), calls_waiting_max=narrow.randint(1, 4),
            lock_waiters_max=narrow.randint(1, 4), tombstones_max=narrow.randint(2, 9),
        )  # fmt: skip
        settings = replace(settings, key_results_bytes_max=narrow.choice([10, 100, 1_000]))
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
    return Run(seed, tracing=tracing, keep=keep).result(transactions)
