"""What peers that mean no good cost others: each kind of them beside a few honest callers, one after the other.

The abuser is a process of its own, as fast as it can be on the same two cores, so part of what others lose is the machine. It is
judged by three figures: the honest callers' rate and p99, and the coordinator's memory, against those without an abuser.

python -m bench.abuse --directory DIR --address HOST:PORT --kind KIND
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import measure
from bench.processes import Process, memory_kib, write_address
from tests.fuzz import http2
from tests.fuzz.http2 import END_STREAM, GREETING, NO_WINDOW, SETTINGS_TAKEN, frame, opened

if TYPE_CHECKING:
    from bench.stages import Bench

CALLERS = 16
CONNECTIONS = 10_000
STATUS = "/troth.v1.AdminService/GetStatus"
RESETS_A_CONNECTION, FLOOD_FRAMES, READERS, CALLS_A_READER = 5_000, 50_000, 100, 100
BETWEEN_CONNECTIONS_SECONDS = 0.0005
"""So that the kernel's queue of connections does not overflow, which would say nothing of the coordinator."""


@dataclass(frozen=True, slots=True)
class Abuse:
    """What one abuser has done to others."""

    kind: str
    rate: float
    p99_ms: float
    memory_mib: float
    """Of the coordinator, at the end."""


async def abuse(bench: Bench) -> None:
    """Honest callers alone, then beside each kind of abuser."""
    from bench.cluster import Cluster
    from bench.stages import PAIR, one_shot

    async with Cluster(bench.directory / "abuse", PAIR) as cluster:
        once = one_shot(cluster.client, ["left", "right"])
        pids = {**bench.pids, **cluster.pids}
        for kind in ("nobody", *KINDS, "nobody again"):
            directory = bench.directory / f"abuse-{kind}".replace(" ", "-")
            command = ["-m", "bench.abuse", "--directory", str(directory), "--address", cluster.coordinator.address, "--kind", kind]
            abuser = Process(kind, directory, command)
            if kind in KINDS:
                await abuser.start()
            try:
                result = await measure(f"abuse: {kind}", CALLERS, once, bench.span, pids)
                memory = memory_kib(cluster.coordinator.pid, "VmRSS") / 1024
            finally:
                await abuser.stop()
            bench.add(result)
            bench.abuses.append(Abuse(kind, result.rate, result.p99_ms, memory))


# ---- the abuser


def connection(address: str, said: bytes) -> socket.socket:
    """One that has said something."""
    host, _, port = address.rpartition(":")
    one = socket.create_connection((host, int(port)), 60)
    with contextlib.suppress(OSError):
        one.sendall(said)
    return one


def held(said: bytes, count: int) -> Callable[[str], Iterator[None]]:
    """Many connections that say so much and no more; those that are closed are opened again."""

    def abuser(address: str) -> Iterator[None]:
        all_of_them = []
        for _ in range(count):
            all_of_them.append(connection(address, said))
            time.sleep(BETWEEN_CONNECTIONS_SECONDS)
        yield
        for at in itertools.cycle(range(count)):
            one = all_of_them[at]
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                try:
                    over = not one.recv(65_536)
                except ConnectionError:
                    over = True
                if over:
                    one.close()
                    all_of_them[at] = connection(address, said)
            time.sleep(BETWEEN_CONNECTIONS_SECONDS)
            yield

    return abuser


def again_and_again(make: Callable[[], bytes]) -> Callable[[str], Iterator[None]]:
    """One connection after the other that is sent as much as it takes, and of which nothing is read."""

    def abuser(address: str) -> Iterator[None]:
        said = make()
        while True:
            with connection(address, GREETING + SETTINGS_TAKEN) as one, contextlib.suppress(OSError):
                one.settimeout(1.0)
                one.sendall(said)
            yield

    return abuser


def asked(stream: int, **more: str) -> bytes:
    """A whole call."""
    return opened(STATUS, stream, **more) + frame(http2.DATA, END_STREAM, stream, http2.NO_MESSAGE)


def streams(count: int) -> range:
    """The numbers of so many calls."""
    return range(1, 2 * count, 2)


KINDS: dict[str, Callable[[str], Iterator[None]]] = {
    "10,000 idle connections": held(GREETING + SETTINGS_TAKEN, CONNECTIONS),
    "10,000 half handshakes": held(GREETING[:10], CONNECTIONS),
    "rapid reset": again_and_again(
        lambda: b"".join(asked(one) + frame(http2.RESET, 0, one, http2.CANCEL) for one in streams(RESETS_A_CONNECTION))
    ),
    "pings": again_and_again(lambda: frame(http2.PING, 0, 0, b"12345678") * FLOOD_FRAMES),
    "settings": again_and_again(lambda: frame(http2.SETTINGS, 0, 0, b"\x00\x03\x00\x00\x00\x64") * FLOOD_FRAMES),
    "metadata": again_and_again(lambda: b"".join(asked(one, **{"x-much": "x" * 15_000}) for one in streams(1_000))),
    "10,000 answers unread": held(NO_WINDOW + SETTINGS_TAKEN + b"".join(map(asked, streams(CALLS_A_READER))), READERS),
}


def main() -> None:
    """Be one abuser until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ("--directory", "--address", "--kind"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    steps = KINDS[options.kind](options.address)
    next(steps)
    write_address(Path(options.directory), options.address)
    for _ in steps:
        if ended:
            return


if __name__ == "__main__":
    main()
