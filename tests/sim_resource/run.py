"""One run: a service on a real SQLite file, a coordinator on paper, crashes; then peace, and judgement."""

from __future__ import annotations

import asyncio
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from participant_sdk.core.branches import State
from participant_sdk.resources import sqlite_file
from tests.sim.run import Result
from tests.sim.world import World
from tests.sim_resource.author import CLEAR, Author, Operations
from tests.sim_resource.checkers import CHECKPOINT_PAGES, Checkers
from tests.sim_resource.drawn import Variant
from tests.sim_resource.files import Files
from tests.sim_resource.paper import ABORT, COMMIT, Paper
from tests.sim_resource.service import Service
from tests.sim_resource.shadow import Shadow
from troth import logs
from troth.errors import TrothError
from troth.log.offline import append_offline
from troth.v1 import common_pb2, record_pb2

FAULT_SECONDS = 3.0
PEACE_SECONDS = 60.0
MUST_REACH = (
    "checkpoint", "crash after sync", "crash before write", "crash between effects", "died", "drawn rows committed",
    "drawn rows undone", "fault commit", "fault crash",
    "hazard", "keys found", "one phase", "order written offline", "power failure", "refused CONFLICT", "refused CONSTRAINT",
    "refused FORBIDDEN_SQL", "refused GROUP_LOST", "refused OPERATION_FAILED", "refused REFUSED", "refused UNCAPTURED_TABLE",
    "schema changed", "schema changed behind", "schema script", "schema script refused", "undo does not apply", "undone",
)  # fmt: skip
REACH_SEEDS = 600
_DIRECTORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Faults:
    """What goes wrong."""

    def __init__(self, world: World, service: Service, paper: Paper) -> None:
        self.world, self.service, self.paper = world, service, paper
        self.count = 0

    def begin(self) -> None:
        """Let things go wrong for a while."""
        roll = self.world.random
        self.service.crash_chance = roll.choice([0.0, 0.002, 0.01])
        for _ in range(roll.choice([0, 1, 2, 4])):
            self.world.after(roll.uniform(0.0, FAULT_SECONDS), self._blow)
        self.world.after(FAULT_SECONDS, self._end)
        self.world.after(0.1, self._watch)

    def _end(self) -> None:
        self.service.crash_chance = 0.0

    def _blow(self) -> None:
        self.count += 1
        kind = self.world.random.choice(["crash", "crash", "crash", "commit", "stranger"])
        self.world.reach(f"fault {kind}")
        self.world.say("*", f"FAULT {kind}")
        if kind == "crash":
            self.service.crash("by a blow")
        elif self.service.alive and kind == "commit":
            self.service.disk.lose_next_commit = True
            self.service.checkers.lost_commits += 1
        elif self.service.alive:
            who = self.service.disk.stranger_gets_in(self.world.random)
            if who:
                self.service.checkers.violate("exclusive", who)

    def _watch(self) -> None:
        if not self.service.alive:
            if self.world.now < FAULT_SECONDS:
                self._between_lives()
            self.service.start()
        self.world.after(self.world.random.uniform(0.05, 0.3), self._watch)

    # ---- between two lives

    def _between_lives(self) -> None:
        chance = self.world.random.random()
        if chance < 0.15:
            self._change_schema_behind()
        elif chance < 0.3:
            self._order()
        elif chance < 0.5 and "scratch" not in self._touched():
            self.service.disk.new_script = CLEAR

    def _touched(self) -> set[str]:
        """Tables that undecided branches have changed, or may have again after a power failure."""
        shadow = self.service.shadow
        branches = [*shadow.undecided.values(), *shadow.undone.values()]
        return {table for branch in branches for entry in branch for table, _ in entry.rows}

    def _change_schema_behind(self) -> None:
        """Somebody changes a table without the SDK; best one that has undecided rows."""
        table = self.world.random.choice(sorted({"plain", "doc"} & self._touched()) or ["plain", "doc"])
        number = self.paper.author.fresh()
        # Of a new column the undo itself takes notice; of an index only the fingerprint does.
        column, index = f"ALTER TABLE {table} ADD COLUMN behind{number}", f"CREATE INDEX behind{number} ON {table} (owner)"
        sql = self.world.random.choice([column, index])
        self.world.reach("schema changed behind")
        self.service.disk.change_behind(sql)
        self.service.shadow.run_schema(sql)
        self.service.altered.add(table)

    def _order(self) -> None:
        """An operator writes an order for a branch in doubt while the service does not run (`troth log resolve`)."""
        for name in sorted(self.service.checkers.yes - self.service.checkers.done):
            txn = self.paper.transactions[name]
            if name not in self.service.shadow.undecided or txn.decision or txn.parked:
                continue
            txn.decision = self.world.random.choice([COMMIT, ABORT])
            outcome = common_pb2.OUTCOME_COMMITTED if txn.decision == COMMIT else common_pb2.OUTCOME_ABORTED
            order = record_pb2.ForceOrdered(transaction_id=name, outcome=outcome, who="ann", why="cannot wait")
            self.world.reach("order written offline")
            append_offline(self.service.disk.path, record_pb2.ParticipantRecord(force_ordered=order).SerializeToString())
            self.service.disk.all_synced()
            self.service.ordered.add(name)
            self.service.ordered_now.add(name)
            self.service.checkers.give_up(name)
            return


@contextmanager
def _small_write_ahead_log() -> Iterator[None]:
    """It is moved into the file so often that a run sees it."""
    pages, sqlite_file._CHECKPOINT_PAGES = sqlite_file._CHECKPOINT_PAGES, CHECKPOINT_PAGES
    try:
        yield
    finally:
        sqlite_file._CHECKPOINT_PAGES = pages


def run(seed: int, *, tracing: bool = False, transactions: int | None = None) -> Result:
    """Run one seed."""
    world = World(seed, tracing=tracing)
    scratch = tempfile.TemporaryDirectory(dir=_DIRECTORY, prefix="troth-sim-")
    with logs.quiet(), _small_write_ahead_log(), scratch as directory:
        variant = Variant(world.random)
        shadow = Shadow(variant)
        files = Files(Path(directory).resolve(), Operations(), variant)
        checkers = Checkers(shadow)
        service = Service(world, files, shadow, checkers)
        paper = Paper(world, service, Author(world.random, variant.statement))
        faults = Faults(world, service, paper)
        try:
            service.start()
            paper.schedule(transactions or world.random.randint(8, 30), FAULT_SECONDS * 0.9)
            faults.begin()
            world.run_until(FAULT_SECONDS)
            _come_to_rest(world, service, paper)
            _judge(service, paper)
        except TrothError as error:
            checkers.violate("goes on", f"the service stops: {error}")
        except AssertionError as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            checkers.violate("assertion", f"{error} at {where.name}:{where.lineno}")
        except (SystemExit, asyncio.CancelledError) as error:
            checkers.violate("slips", f"an author's {type(error).__name__} was taken in by nobody")
        except Exception:
            if not checkers.violations:  # what has gone wrong before may lead to anything
                raise
        finally:
            files.close()
            shadow.close()
    world.reached["power failure"] += files.power_failures
    world.reached["drawn rows committed"] += shadow.drawn_committed
    world.reached["drawn rows undone"] += shadow.drawn_undone
    violations = checkers.violations + [f"protocol: {text}" for text in service.violations]
    return Result(seed, paper.started, service.crashes, faults.count, violations, world.reached, world.trace)


def _come_to_rest(world: World, service: Service, paper: Paper) -> None:
    paper.peace = True
    end = world.now + PEACE_SECONDS
    while world.now < end:
        world.run_until(world.now + 1.0)
        if service.alive and not service.core.states() and all(txn.finished for txn in paper.transactions.values()):
            return


def _judge(service: Service, paper: Paper) -> None:
    checkers = service.checkers
    if not service.alive:
        checkers.violate("AC5", "the service does not come to life again")
        return
    service.compare("everything")
    left: list[Any] = [txn.id for txn in paper.transactions.values() if not txn.finished]
    if left or service.core.states():
        checkers.violate("AC5", f"{left} were never finished, the service has {service.core.states()}")
        return
    machine = service.core._m
    owners = list(machine.locks.owners())
    if len(service.disk.log.locks) or owners or machine.locks.waiting():
        checkers.violate("nothing left", f"{len(service.disk.log.locks)} row locks and the owners {owners} are left")
    kept = [name for name, branch in machine.branches.items() if branch.works or branch.state is State.PARKED]
    if kept or service.shadow.undecided:
        checkers.violate("nothing left", f"{kept} keep their undo, the shadow has {sorted(service.shadow.undecided)}")
    for name in sorted(service.ordered - checkers.parked):
        committed = name in service.shadow.committed
        if committed != (paper.transactions[name].decision == COMMIT):
            checkers.violate("orders", f"the order for {name} was not carried out")
