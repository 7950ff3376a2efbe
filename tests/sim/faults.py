"""What goes wrong in a run: drawn from the seed, and over when the network heals."""

from __future__ import annotations

from tests.sim.network import Network, Weather
from tests.sim.process import Process
from tests.sim.world import World


class Faults:
    """Draws a climate for the run, and the blows within it."""

    def __init__(self, world: World, network: Network, processes: list[Process]) -> None:
        self.world = world
        self.network = network
        self.processes = processes
        self.count = 0
        self.over = False

    def begin(self, seconds: float) -> None:
        """Let things go wrong for a while."""
        random = self.world.random
        if random.random() < 0.05:
            return  # some runs have no faults at all: there AC4 is judged
        if random.random() < 0.6:
            self.network.weather = Weather(
                loss=random.choice([0.0, 0.02, 0.1]),
                repetition=random.choice([0.0, 0.05, 0.2]),
                mean_delay=random.choice([0.001, 0.005, 0.05]),
                break_chance=random.choice([0.0, 0.01, 0.05]),
            )
        for process in self.processes:
            if random.random() < 0.6:
                process.crash_chance = random.choice([0.002, 0.01, 0.05])
            process.skew_ms = random.choice([0, 0, -200, 200])
        for _ in range(random.randint(0, 8)):
            self.world.after(random.uniform(0.0, seconds), self._blow)
        self.world.after(seconds, self.end)

    def _blow(self) -> None:
        if self.over:
            return
        self.count += 1
        random = self.world.random
        process = random.choice(self.processes)
        kind = random.choice(["crash", "crash", "pause", "cut", "cut both", "disk", "clock", "everything", "absence"])
        self.world.reach(f"fault {kind}")
        self.world.say("*", f"FAULT {kind} {process.name}")
        if kind == "crash":
            self.crash(process)
        elif kind == "absence":
            self.crash(process)
            process.long_absence = True
            process.down_until = self.world.now + random.uniform(20.0, 80.0)
        elif kind == "everything":
            for each in self.processes:
                self.crash(each)
        elif kind == "pause":
            process.pause(random.choice([0.1, 1.0, 3.0]))
        elif kind == "cut":
            pair = random.choice([("C", process.name), (process.name, "C")])
            self.network.cut(*pair, random.uniform(0.05, 2.0))
        elif kind == "cut both":
            seconds = random.uniform(0.05, 2.0)
            self.network.cut("C", process.name, seconds)
            self.network.cut(process.name, "C", seconds)
        elif kind == "disk":
            process.disk.fail_next = True
        else:
            process.skew_ms += random.choice([-3_600_000, -1000, 1000, 250_000])

    def crash(self, process: Process) -> None:
        """Kill a process; it is restarted by `watch`."""
        process.crash("by a blow")

    def watch(self) -> None:
        """Restart what is down, after a while; called again and again."""
        for process in self.processes:
            if not process.alive and process.down_until <= self.world.now:
                process.start()
                process.long_absence = False
        self.world.after(self.world.random.uniform(0.05, 0.4), self.watch)

    def end(self) -> None:
        """Faults stop: from here on there must be progress."""
        self.over = True
        self.network.heal()
        for process in self.processes:
            process.crash_chance = 0.0
            process.disk.fail_next = False
