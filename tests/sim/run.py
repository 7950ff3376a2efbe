"""One run: a coordinator, three participants, two clients; faults; then peace, and judgement."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from tests.sim import checkers
from tests.sim.bank import keys_of
from tests.sim.clients import Client, History, Workload
from tests.sim.faults import Faults
from tests.sim.network import Network
from tests.sim.roles import CoordinatorProcess, ParticipantProcess
from tests.sim.world import World

ACCOUNTS = 4
BALANCE = 40
FAULT_SECONDS = 3.0
PEACE_SECONDS = 120.0


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


def run(seed: int, *, tracing: bool = False, transactions: int | None = None) -> Result:
    """Run one seed."""
    world = World(seed, tracing=tracing)
    network = Network(world)
    coordinator = CoordinatorProcess(world, network)
    names = ["p1", "p2", "p3"]
    accounts = {name: [f"{name}/{i}" for i in range(ACCOUNTS)] for name in names}
    participants = {name: ParticipantProcess(world, name, dict.fromkeys(accounts[name], BALANCE), coordinator) for name in names}
    history, witness = History(), checkers.Witness()
    for participant in participants.values():
        participant.on_send = witness.participant_said
    coordinator.on_answer = lambda answer: witness.told(answer.transaction_id, answer.outcome)
    clients = [Client(world, f"k{i}", coordinator, participants, history) for i in range(2)]
    faults = Faults(world, network, [coordinator, *participants.values()])
    for process in faults.processes:
        process.start()
    for client in clients:
        client.connect()
    world.run_until(0.5)
    faults.watch()
    faults.begin(FAULT_SECONDS)
    workload = Workload(world, clients, accounts)
    workload.schedule(transactions or world.random.randint(4, 12), FAULT_SECONDS * 0.8)
    violations: list[str] = []
    try:
        world.run_until(world.now + FAULT_SECONDS)
        faults.end()
        _come_to_rest(world, clients, coordinator, participants)
        violations = _judge(coordinator, participants, clients, history, witness)
    except AssertionError as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        violations.append(f"assertion: {error} at {where.name}:{where.lineno}")
    crashes = sum(process.crashes for process in faults.processes)
    return Result(seed, workload.started, crashes, faults.count, violations, world.reached, world.trace)


def _come_to_rest(
    world: World, clients: list[Client], coordinator: CoordinatorProcess, participants: dict[str, ParticipantProcess]
) -> None:
    """Peace: let time pass until nothing is open, or until it is clear that something never will be closed."""
    end = world.now + PEACE_SECONDS
    quiet = 0
    while world.now < end:
        world.run_until(world.now + 2.0)
        open_work = any(client.pending or client.asking for client in clients)
        busy = any(not process.alive or process.core.states() for process in participants.values())
        rests = not (open_work or busy) and coordinator.alive and not coordinator.core.open_transactions()
        quiet = quiet + 1 if rests else 0
        if quiet == 2:  # a client may have been about to try again
            return


def _judge(
    coordinator: CoordinatorProcess,
    participants: dict[str, ParticipantProcess],
    clients: list[Client],
    history: History,
    witness: checkers.Witness,
) -> list[str]:
    expected = {}
    for name, attempt in history.attempts.items():
        changes: dict[str, int] = {}
        for participant, operations in attempt.work.items():
            for op in operations:
                _, amount = json.loads(op.arguments)
                sign = {"credit": 1, "debit": -1, "read": 0}[op.name]
                if sign:
                    changes[participant] = changes.get(participant, 0) + sign * amount
        expected[name] = changes
    money = len(participants) * ACCOUNTS * BALANCE
    scene = checkers.Scene(coordinator, participants, history, money, expected)
    checks = [
        witness.violations, checkers.agreement(scene), checkers.never_reversed(scene, witness), checkers.all_voted(scene, witness),
        checkers.told_is_true(scene), checkers.exactly_once(scene), checkers.conservation(scene), checkers.nothing_left(scene),
        checkers.nothing_expires(scene), checkers.isolation(scene), checkers.everyone_answered(scene, clients),
        checkers.nobody_broke_the_protocol(scene),
    ]  # fmt: skip
    found = [text for check in checks for text in check]
    if not found:
        found.extend(checkers.recovery_repeats(scene))
    return found


__all__ = ["Result", "keys_of", "run"]
