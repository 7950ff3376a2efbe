"""What goes wrong in a run: drawn from the seed, and over when the network heals."""

from __future__ import annotations

from tests.sim_engine.client import ClientProcess
from tests.sim_engine.loop import EngineWorld
from tests.sim_engine.network import Network
from tests.sim_engine.process import Process
from tests.sim_engine.resource import Ledger
from tests.sim_engine.roles import CoordinatorProcess, ParticipantProcess

KINDS = ("crash", "crash", "pause", "cut", "cut both", "break", "disk", "clock", "everything", "stop", "slow disk", "absence")


class Faults:
    """Draws a climate for the run, and the blows within it."""

    def __init__(self, world: EngineWorld, network: Network, processes: list[Process]) -> None:
        self.world = world
        self.network = network
        self.processes = processes
        self.count = 0
        self.over = False

    def begin(self, seconds: float) -> None:
        """Let things go wrong for a while."""
        random = self.world.random
        self.world.after(seconds, self.end)
        if random.random() < 0.05:
            return
        if random.random() < 0.6:
            self.network.mean_delay = random.choice([0.0002, 0.002, 0.02])
            self.network.break_chance = random.choice([0.0, 0.01, 0.05])
        for process in self.processes:
            self._climate(process)
        for _ in range(random.randint(0, 8)):
            self.world.after(random.uniform(0.0, seconds), self._blow)

    def _climate(self, process: Process) -> None:
        random = self.world.random
        if random.random() < 0.5:
            process.crash_mean_steps = random.choice([60.0, 200.0, 600.0])
        if random.random() < 0.2:
            process.slow_mean_steps = random.choice([5.0, 30.0])
        process.skew_ms = random.choice([0, 0, -200, 200])
        for disk in process.disks:
            disk.mean_latency = random.choice([0.0002, 0.001, 0.02])
        if isinstance(process, ClientProcess):
            process.crash_mean_steps *= 4 if random.random() < 0.5 else 0
            process.cancel_chance = random.choice([0.0, 0.2, 0.6])
        if isinstance(process, ParticipantProcess) and isinstance(process.bank, Ledger):
            process.bank.failure_chance = random.choice([0.0, 0.3])
        if process.life is not None:
            process._plan(process.life)

    def _blow(self) -> None:
        if self.over:
            return
        self.count += 1
        random = self.world.random
        process = random.choice(self.processes)
        kind = random.choice(KINDS)
        self.world.reach(f"fault {kind}")
        self.world.say("*", f"FAULT {kind} {process.name}")
        if kind in ("cut", "cut both", "break"):
            self._network(kind, process)
        elif kind == "everything":
            for each in self.processes:
                each.crash("with everything")
        elif kind in ("crash", "absence"):
            process.crash("by a blow")
            if kind == "absence":
                process.down_until = self.world.now + random.uniform(5.0, 40.0)
        else:
            self._within(kind, process)

    def _network(self, kind: str, process: Process) -> None:
        random, network = self.world.random, self.network
        if kind == "break":
            for stream in list(network.streams):
                if process.name in (stream.dialler.name, stream.address.partition(":")[0]):
                    stream.break_()
            return
        seconds = random.uniform(0.05, 2.0)
        pairs = [("C:1", process.name), (process.name, "C:1")]
        for source, target in pairs if kind == "cut both" else [random.choice(pairs)]:
            network.cut(source, target, seconds)

    def _within(self, kind: str, process: Process) -> None:
        random = self.world.random
        if kind == "pause":
            process.pause(random.choice([0.1, 1.0, 3.0]))
        elif kind == "stop" and isinstance(process, CoordinatorProcess | ParticipantProcess):
            process.stop()
        elif kind == "disk" and process.disks:
            random.choice(process.disks).fail_soon(random.choice(["input/output error", "no space left on device"]))
            if random.random() < 0.5:
                # A machine whose disk fails often goes down soon after: what the process took for written shows then.
                self.world.after(random.uniform(0.0, 0.3), lambda: process.crash("after its disk failed"))
        elif kind == "slow disk" and process.disks:
            random.choice(process.disks).mean_latency = 0.3
        else:
            process.skew_ms += random.choice([-3_600_000, -1000, 1000, 250_000])

    def watch(self) -> None:
        """Restart what is down, after a while; called again and again."""
        for process in self.processes:
            if not process.alive and process.down_until <= self.world.now:
                process.start()
        self.world.after(self.world.random.uniform(0.05, 0.4), self.watch)

    def end(self) -> None:
        """Faults stop: from here on there must be progress."""
        self.world.say("*", "PEACE")
        self.over = True
        self.network.heal()
        for process in self.processes:
            process.calm()
            if isinstance(process, ClientProcess):
                process.cancel_chance = 0.0
            if isinstance(process, ParticipantProcess) and isinstance(process.bank, Ledger):
                process.bank.failure_chance = 0.0
