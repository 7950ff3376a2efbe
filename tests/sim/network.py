"""Streams between processes: ordered within one stream, and unreliable in every other way.

A stream carries messages both ways until it breaks. Messages in flight when it breaks may still arrive, long after both ends have a
newer stream: they carry the old stream's number. Either end learns of the break at its own time, or never (half-open), until the
other end is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.sim.world import World


@dataclass
class Weather:
    """How bad the network is now."""

    loss: float = 0.0
    repetition: float = 0.0
    mean_delay: float = 0.001
    break_chance: float = 0.0


class Network:
    """Makes streams, and knows which pairs are cut."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.weather = Weather()
        self.cuts: set[tuple[str, str]] = set()
        """Directed pairs between which nothing passes."""
        self.streams: dict[Stream, None] = {}
        self.handed_over: Callable[[str, str, str, Any], None] = lambda source, target, field, message: None
        """Hears every message that a process hands to an open stream: what is said, whether it arrives or not."""

    def cut(self, source: str, target: str, seconds: float) -> None:
        """Let nothing pass in one direction for a while."""
        self.cuts.add((source, target))
        self.world.after(seconds, self.cuts.discard, (source, target))

    def heal(self) -> None:
        """Good weather from now on."""
        self.weather = Weather()
        self.cuts.clear()

    def delay(self) -> float:
        """How long one message takes."""
        return self.world.random.expovariate(1 / self.weather.mean_delay)

    def renew(self) -> None:
        """Break every stream once. Messages that were lost alone count as lost with their stream: both ends meet anew."""
        for stream in list(self.streams):
            stream.break_()


class End:
    """One end of a stream: what the peer sends arrives at `receive`, and a break at `lost`."""

    def __init__(self, name: str, receive: Callable[..., None], lost: Callable[[], None]) -> None:
        self.name = name
        self.receive = receive
        self.lost = lost
        self.last_arrival = 0.0
        self.late_until = 0.0


HANDSHAKE = frozenset({"reports", "complete", "welcome"})
"""Never lost or repeated alone: a transport that keeps order loses them only with their stream."""


class Stream:
    """One stream between two ends."""

    def __init__(self, network: Network, one: End, other: End, *, reliable: bool = False) -> None:
        self.network = network
        self.reliable = reliable
        """Whether messages are lost only with the stream, as on TCP; the protocol between participants and the coordinator must
        bear more than that, a client need not."""
        self.ends = (one, other)
        self.broken = False
        network.streams[self] = None

    def send(self, sender: int, field: str, message: object, *position: int) -> None:
        """Send from one end (0 or 1) to the other; between the coordinator and participants with how far the sender's log is."""
        network, world = self.network, self.network.world
        source, target = self.ends[sender], self.ends[1 - sender]
        if self.broken:
            return
        network.handed_over(source.name, target.name, field, message)
        weather = network.weather
        if weather.break_chance and world.random.random() < weather.break_chance:
            self.break_()
            return
        if (source.name, target.name) in network.cuts:
            # What a cut swallows of an ordered stream is the end of that stream, for the side that misses it.
            self.break_()
            return
        sure = self.reliable or field in HANDSHAKE
        if weather.loss and not sure and world.random.random() < weather.loss:
            world.reach("message lost")
            return
        self._carry(target, field, message, *position)
        if weather.repetition and not sure and world.random.random() < weather.repetition:
            world.reach("message repeated")
            self._carry(target, field, message, *position)

    def _carry(self, target: End, *what: object) -> None:
        """Later than everything sent before it on this stream; a broken stream's messages still arrive."""
        world = self.network.world
        at = max(target.last_arrival, world.now + self.network.delay())
        target.last_arrival = at + 1e-9
        world.after(at - world.now, self._deliver, target, *what)

    def _deliver(self, target: End, *what: object) -> None:
        """Hand a message over. What was in flight when the stream broke may take long: the peer has a newer stream by then. What
        was sent behind it comes behind it all the same."""
        world = self.network.world
        if self.broken and target.late_until <= world.now and world.random.random() < 0.5:
            target.late_until = world.now + world.random.uniform(0.0, 1.0)
        if target.late_until > world.now:
            world.reach("message of an earlier stream")
            target.late_until += 1e-9
            world.after(target.late_until - world.now, target.receive, *what)
        else:
            target.receive(*what)

    def break_(self) -> None:
        """Break it; each end learns of it at its own time."""
        if self.broken:
            return
        self.broken = True
        self.network.streams.pop(self, None)
        self.network.world.reach("stream broken")
        for end in self.ends:
            slow = self.network.world.random.random() < 0.1
            self.network.world.after(self.network.world.random.uniform(0.0, 2.0 if slow else 0.02), end.lost)
