"""One run: three nodes, four shards, three services in two processes each, two clients; troubles; then peace, and judgement."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

from coordinator.core.model import State
from participant_sdk.core.branches import State as BranchState
from tests.sim import checkers, heuristics, key_results, keys
from tests.sim.clients import History
from tests.sim.network import Network, Weather
from tests.sim.plan import Plan
from tests.sim.roles import CONFIG, SETTINGS
from tests.sim.run import ACCOUNTS, BALANCE, FAULT_SECONDS, Result, _expected
from tests.sim.scene import Scene
from tests.sim.world import World
from tests.sim_cell.clients import CallerOf, CellWorkload, Door
from tests.sim_cell.nodes import Cell, Node, ShardProcess
from tests.sim_cell.operators import CellOperators
from tests.sim_cell.owned import Host
from tests.sim_cell.services import Service, Worker
from tests.sim_cell.store import CELL, OwnedLog, Store
from tests.sim_cell.told import Told
from troth.cell import Places, shard_names
from troth.ids import service_of
from troth.ready import Append
from troth.v1 import participant_pb2, record_pb2

SHARDS, NODES, SERVICES, WORKERS, CLIENTS = 4, 3, ("p1", "p2", "p3"), 2, 2
PEACE_SECONDS = 40.0
TROUBLES = ("die", "die", "die", "pause", "pause", "pause", "drain", "cut", "away", "fail over", "all die")
CHECKERS = (
    checkers.agreement, checkers.never_reversed, checkers.all_voted, checkers.told_is_true, checkers.exactly_once,
    checkers.conservation, keys.told_is_true_of_keys, key_results.results_are_their_commits, checkers.history_is_true,
)  # fmt: skip
"""Those of the level `core` that look at what clients, banks and disks say."""
BEFORE_FORGETTING = (heuristics.heuristics_told, heuristics.outcomes_true, heuristics.nothing_in_doubt)
"""Those that look when all is decided, and before operators have forgotten what they have seen."""
FORGETTING_ROUNDS = 5
RARE = (
    ("lost log 1", "lose a log", 0.25), ("lost log 2", "lose a log", 0.1), ("review 1", "review", 0.3), ("review 2", "review", 0.3),
)  # fmt: skip
"""Orders of operators, and what makes them needed, by their names in the plan, and how often."""
FORCED = (BranchState.FORCED_COMMIT, BranchState.FORCED_ABORT)

MUST_REACH = (
    "an append was fenced", "an append landed behind its owner's end", "an owner woke past its lease", "an owner stepped down",
    "a claim was refused", "a claim was unclear", "a log was taken over from who lives", "a shard was given away",
    "crash half-way through a hand-over", "a slot was adopted", "a dialler was sent on", "a key came to another shard",
    "a failover lost records", "who wrote it refused what a failover had left", "a start on an older copy was refused",
    "the store was away", "key joined while running", "client asked and was told",
    "operator ordered a branch to end", "operator aborted a transaction", "operator abandoned a participant",
    "heuristic outcome forgotten", "operator drained a node", "operator listed a cell", "a key was looked up",
    "operator was told that a participant is forgotten", "operator was told that a log is let in",
    "operator was told that it is forgotten", "an operator asked a node that was losing the shard",
    "an operator's request was passed on", "a stale directory sent an operator to who had the shard no more",
    "an answer to an operator was lost", "an order was asked again, of another node", "an order was asked again, and refused",
    "forced as decided", "forced abort against the decision", "forced commit against the decision",
    "forced branch reported to the coordinator", "an order was taken, and its owner was fenced",
    "a branch that was ended by hand was read by the next owner",
    "the log of a slot was lost", "operator named the log that takes a name over", "a question stays in doubt, since a log is lost",
    "operator was told that an order waits", "a second person took an order that waited",
)  # fmt: skip
REACH_SEEDS = 1000


class CellRun:
    """What one seed makes."""

    def __init__(self, seed: int, *, tracing: bool, keep: Iterable[str] | None) -> None:
        self.seed = seed
        self.plan = plan = Plan(seed, keep)
        self.world = world = World(seed, tracing=tracing)
        self.network = network = Network(world)
        self.loses = plan.coin(0.15)
        self.store = store = Store(world)
        shards = tuple(shard_names(CELL, SHARDS))
        store.logs = {name: OwnedLog(name) for name in shards}
        settings = replace(SETTINGS, hearing_seconds=0.3, recovery_grace_seconds=2.0)
        self.cell = cell = Cell(world, network, store, settings, shards)
        cell.nodes = {f"n{number}": Node(cell, f"n{number}") for number in range(NODES)}
        self.services = {name: self._service(name) for name in SERVICES}
        self.hosts: list[Host] = [*cell.nodes.values(), *(one for each in self.services.values() for one in each.workers)]
        self.history = History()
        self.clients = [one for number in range(CLIENTS) for one in self._client(f"k{number}")]
        accounts = {name: sorted(service.accounts) for name, service in self.services.items()}
        self.workload = CellWorkload(world, self.clients, accounts, steady=False)
        self.workload.cell = cell
        self.scene = self._scene()
        self.operators = CellOperators(cell, self.services, Told(cell, self.history, loses=self.loses), self._stir)
        cell.is_for_good = self.operators.replacing.is_for_good
        self.scene.operators = self.operators  # type: ignore[assignment]  # a cell's
        self.troubles = 0
        self.found: list[str] = []
        for shard in shards:
            store.logs[shard].disk.forced = partial(self._forced, shard)

    def _forced(self, shard: str, append: Append) -> None:
        self.scene.witness.forced_record(shard, append)
        self.operators.judge.recorded(shard, append)

    def _service(self, name: str) -> Service:
        accounts = {f"{name}/{number}": BALANCE for number in range(ACCOUNTS)}
        service = Service(self.cell, name, accounts, replace(CONFIG, participant=name, keeps_identity=True))
        service.workers = [Worker(service, number) for number in range(WORKERS)]
        service.on_slot = lambda log: setattr(log.disk, "forced", partial(self.scene.witness.forced_record, name))
        return service

    def _client(self, name: str) -> list[CallerOf]:
        places = Places()
        made = {shard: CallerOf(Door(self.cell, shard, places), name, self.services, self.history) for shard in self.cell.shards}
        for one in made.values():
            one.siblings = made
        return list(made.values())

    def _scene(self) -> Scene:
        speaker: Any = AllShards(self.world, self.store, self.cell.shards)
        services: Any = self.services
        scene = Scene(speaker, services, self.history, len(SERVICES) * ACCOUNTS * BALANCE, {})
        witness = scene.witness
        witness.coordinator, witness.history = speaker, self.history

        def handed_over(source: str, target: str, field: str, message: Any) -> None:
            if field == "got":
                witness.told_client(message[1].transaction_id, message[1].outcome)
            else:
                witness.handed_over(service_of(source), service_of(target), field, message)

        self.network.handed_over = handed_over
        self.cell.on_made = self._made
        return scene

    def _made(self, process: ShardProcess) -> None:
        scene = self.scene
        shard, known = process.shard, process.host.acknowledged.get(process.shard, 0)
        if known > process.disk.known:
            text = f"{process.name} had written {shard} to {known}, and serves {process.disk.known}"
            self.found.append(f"what went back is found out: {text}")

        def answered(attempt: str, answer: Any) -> None:
            made = self.history.attempts.get(attempt)
            if made is None or not made.key or self.cell.of_key(made.key) == shard:
                scene.keys.answered(attempt, answer, self.world.now)

        process.on_answered = answered
        process.on_over = scene.witness.was_over
        process.on_begun = lambda session, response: scene.keys.begun(session, response, self.world.now)
        process.welcomed = self._welcomed  # type: ignore[assignment]  # a shard's

    def _welcomed(self, process: ShardProcess, hello: participant_pb2.Hello) -> None:
        """Nobody is welcomed who has heard more of a log than it has (in a run that loses)."""
        if process.disk.generation < self.store.generation:
            return  # it has been there since before: it knows what the store has lost
        cut, nonces = self.store.lost.get(process.shard, (0, frozenset[str]()))
        for heard in hello.heard:
            if heard.coordinator == process.shard and heard.nonce in nonces and heard.position > cut:
                text = f"{hello.participant} had heard {process.shard} to {heard.position}, not {cut}"
                self.found.append(f"what went back is found out: {text}")

    # ---- the run

    def go(self, transactions: int | None) -> None:
        """Troubles, then peace."""
        world, plan = self.world, self.plan
        for host in self.hosts:
            host.start()
        for client in self.clients:
            client.connect()
        world.run_until(1.0)
        self._plan_troubles()
        self.workload.schedule(plan, transactions or plan.count(8, 20), FAULT_SECONDS)
        self._plan_rare_orders()
        world.run_until(1.0 + FAULT_SECONDS)
        self._end_troubles()
        if self.loses:
            world.run_until(world.now + 4.0)
            return
        self.come_to_rest()
        self.operators.over = True
        if self.operators.forced or self.operators.abandoned or self.operators.judge.replaced:
            self.clear_up()
            self.come_to_rest()

    def come_to_rest(self) -> None:
        """Let time pass until nobody waits for anything, and a second more; a shard that is given away in it has to begin."""
        world = self.world
        end = world.now + PEACE_SECONDS
        for after in (1.0, 0.0):
            while world.now < end and not self.is_at_rest():
                world.run_until(world.now + 0.5)
            world.run_until(world.now + after)

    def clear_up(self) -> None:
        """Operators look at what they have done, and forget it when they have: by any node, and over takeovers."""
        world, operators, own = self.world, self.operators, Random(self.seed)
        for node in self.cell.nodes.values():
            if own.random() < 0.3:
                node.die("to see what is kept")
        self.network.renew()
        world.run_until(world.now + 1.0)
        self.come_to_rest()
        self._see(own)
        self.scene.expected = _expected(self.history)
        self.scene.outcomes = dict(operators.told)
        self.found += checkers.judge_only(self.scene, BEFORE_FORGETTING)
        self.scene.outcomes = {name: told for name, told in operators.told.items() if name not in operators.judge.forgotten}
        self.found += checkers.judge_only(self.scene, (heuristics.forced_kept,))
        for _ in range(FORGETTING_ROUNDS):
            if not operators.forget_all(own):
                break
            world.run_until(world.now + 0.5)
            self.network.renew()  # whoever still has something to tell tells it in his next Hello
            world.run_until(world.now + 1.5)
            self.come_to_rest()
            self._see(own)

    def _see(self, own: Random) -> None:
        self.operators.see(own)
        self.world.run_until(self.world.now + 2.0)

    def _stir(self, what: str, name: str, own: Random) -> None:
        """Trouble for one host, and no other: just when somebody asks it for something."""
        if not self.store.calm:
            self.troubles += 1
            self._make(what, next(host for host in self.hosts if host.name == name), self.cell.nodes[name], own)

    def _plan_troubles(self) -> None:
        plan, network = self.plan, self.network
        own = plan.chance("weather", 0.5)
        if own is not None:
            chances = ([0.0, 0.02], [0.0, 0.05], [0.001, 0.01], [0.0, 0.01])
            network.weather = Weather(*(own.choice(each) for each in chances))
        for host in self.hosts:
            own = plan.chance(f"deaths:{host.name}", 0.3)
            if own is not None:
                host.dice, host.chance = own, own.choice([0.002, 0.01])
                for core in host.cores.values():
                    core.be_mortal(own, host.chance)
        for number in range(1, plan.count(1, 6) + 1):
            own = plan.draw(f"trouble{number}")
            if own is not None:
                self.world.after(own.uniform(0.0, FAULT_SECONDS), self._trouble, own.choice(TROUBLES), own)
        own = plan.draw("loss") if self.loses else None
        if own is not None:
            self.world.after(own.uniform(0.5, FAULT_SECONDS), self._trouble, "lose", own)
        self._plan_operators()

    def _plan_operators(self) -> None:
        """In every other run people are at work; where messages are lost, much is in doubt."""
        plan = self.plan
        if not plan.coin(0.5):
            return
        own = plan.draw("lossy weather")
        if own is not None:
            self.network.weather = Weather(own.choice([0.02, 0.1]), 0.02, own.choice([0.001, 0.01]), own.choice([0.0, 0.01]))
        for number in range(1, plan.count(2, 8) + 1):
            own = plan.draw(f"operator{number}")
            if own is not None:
                self.operators.plan(own, FAULT_SECONDS)

    def _plan_rare_orders(self) -> None:
        """What was added later is drawn last, so that every other item of a seed stays what it was."""
        for name, kind, chance in RARE:
            own = self.plan.chance(name, chance)
            if own is not None:
                self.operators.plan(own, FAULT_SECONDS, kind)

    def _trouble(self, what: str, own: Random) -> None:
        if self.store.calm:
            return
        self.troubles += 1
        host, node = own.choice(self.hosts), own.choice(list(self.cell.nodes.values()))
        self._make(what, host, node, own)

    def _make(self, what: str, host: Host, node: Node, own: Random) -> None:
        self.world.say("*", f"TROUBLE {what} {host.name} {node.name}")
        if what == "die":
            host.die("by a blow")
        elif what == "all die":
            for each in self.hosts:
                each.die("by a blow")
        elif what == "pause":
            host.pause(own.choice([0.3, 1.0, 2.0]))
        elif what == "drain":
            node.draining = True
            self.world.after(own.uniform(0.5, 2.0), setattr, node, "draining", False)
        elif what == "cut":
            for one, other in ((host.name, node.name), (node.name, host.name)):
                self.network.cut(one, other, own.uniform(0.1, 1.5))
        elif what == "away":
            self.store.away_until = self.world.now + own.uniform(0.1, 1.5)
        else:
            self.store.fail_over(own, lose=what == "lose", shards=self.cell.shards)

    def _end_troubles(self) -> None:
        self.store.calm = True
        self.network.heal()
        for host in self.hosts:
            host.dice = None
            for core in host.cores.values():
                core.be_immortal()
        for node in self.cell.nodes.values():
            node.draining = False

    def is_at_rest(self) -> bool:
        """Whether nobody waits for anything."""
        waiting = self.workload.waiting or any(client.pending or client.asking for client in self.clients)
        stopped = any(host.paused_until > self.world.now for host in self.hosts)  # it may wake as an owner of before
        return not waiting and not stopped and self.operators.replacing.are_let_in() and not list(self._left(forced=True))

    # ---- judging

    def result(self, transactions: int | None) -> Result:
        """Go, and judge."""
        try:
            self.go(transactions)
            violations = self.judge()
        except Exception as error:  # whatever is raised here, somebody has a bug; the sweep goes on and says where
            where = traceback.extract_tb(error.__traceback__)[-1]
            violations = [f"{type(error).__name__}: {error} at {where.filename}:{where.name}:{where.lineno}"]
        crashes = sum(host.crashes for host in self.hosts)
        world = self.world
        return Result(
            self.seed, self.workload.started, crashes, self.troubles, violations, world.reached, world.trace, self.plan.items
        )

    def judge(self) -> list[str]:
        """All violations."""
        found = [*self.store.violations, *self.found, *self.operators.judge.violations]
        if self.loses:
            return found
        self.scene.expected = _expected(self.history)
        found += checkers.judge(self.scene, CHECKERS)
        found += self.operators.judge.judge(self.scene, self.operators.kept)
        found += self.operators.reviewing.judge()
        found += self._left()
        for client in self.clients:
            for attempt in [*client.pending.values(), *client.asking.values()]:
                found.append(f"AC5 everyone answered: {client.name} was never told of {attempt.transaction_id}")
        return found

    def _left(self, *, forced: bool = False) -> Iterator[str]:
        """What is not served, not shared evenly, not decided, or not adopted; with `forced` but for what operators have ended."""
        counts = [len(node.cores) for node in self.cell.nodes.values()]
        if sum(counts) != SHARDS or max(counts) - min(counts) > 1:
            yield f"AC5 all shards are served: the nodes have {counts}"
        for node in self.cell.nodes.values():
            for core in node.cores.values():
                live = [one for one in core.core._book.live.values() if not (forced and one.state is State.HEURISTIC)]
                if not core.serving or live:
                    text = [f"{one.id} {one.state.value}" for one in live]
                    yield f"AC5 nothing left: {core.shard} on {node.name}, serving {core.serving}, has {text}"
        for service in self.services.values():
            for log in service.slots():
                left = [one for one in service.states_of(log) if not (forced and one[1] in FORCED)]
                if left:
                    yield f"AC5 everything in doubt is adopted: {log.name}, owner {log.owner or 'none'}, has {left}"
            if service.row_locks:
                yield f"AC5 nothing left: {service.name} holds {service.row_locks}"


class AllShards:
    """All coordinators of a cell, as checkers look at one."""

    name, stale = "C", None

    def __init__(self, world: World, store: Store, shards: tuple[str, ...]) -> None:
        self.world, self._store, self._shards = world, store, shards

    @property
    def disk(self) -> Any:
        """What the logs of all shards say, of services in whichever slot."""
        records = [record for shard in self._shards for record in self._store.logs[shard].disk.durable]
        return SimpleNamespace(durable=[(seq, _of_service(body)) for seq, body in records])


def _of_service(body: bytes) -> bytes:
    record = record_pb2.CoordinatorRecord.FromString(body)
    if record.HasField("heuristic"):
        record.heuristic.participant = service_of(record.heuristic.participant)
    return record.SerializeToString()


def run(seed: int, *, tracing: bool = False, transactions: int | None = None, keep: Iterable[str] | None = None) -> Result:
    """Run one seed; with `keep` only those of its items."""
    return CellRun(seed, tracing=tracing, keep=keep).result(transactions)
