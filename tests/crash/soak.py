"""Transfers between three banks under random kill -9, stops past every timeout, and partitions; then everything is checked.

Ends with `soak: ok transactions=… kills=… partitions=… violations=0`. Faults come at random moments of real time: the seed gives
the same faults again, not the same run. Everything is kept in the directory, for inspection.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from bank_check import Verdict, check
from bank_cluster import BankCluster
from chaos_monkey import Monkey
from demo import settle
from processes import ROOT, ProcessFailed
from transfers import Clerks

PROGRESS_SECONDS = 5.0
CLERKS_END_SECONDS = 240.0
"""How long transfers may take to end once all faults are over."""
EPILOG = """\
examples:
  scripts/soak --minutes 10
  scripts/soak --minutes 480 --directory var/night

exit status: 0 all is as it must be, 1 something is not (it says what), 2 wrong usage
"""


class Soak:
    """One run, in an empty directory."""

    def __init__(self, directory: Path, seconds: float, seed: int, committed: int = 0, *, loud: bool = True) -> None:
        self._directory = directory
        self._seconds = seconds
        self._seed = seed
        self._committed = committed
        self._loud = loud
        self._began = time.monotonic()
        self._events = (directory / "events.log").open("w", encoding="utf-8", buffering=1)
        self.kills = self.stops = self.partitions = 0

    async def run(self) -> Verdict:
        """Raises `ProcessFailed` or `TimeoutError`; whatever is left of the processes is killed then."""
        try:
            async with BankCluster(self._directory) as cluster:
                await self._rage(cluster)
                await settle(cluster.coordinator.address)
                await cluster.stop()
        finally:
            self._events.close()
        return check(self._directory)

    async def _rage(self, cluster: BankCluster) -> None:
        monkey = Monkey(cluster, self._seed, self._note)
        monkey.watch()
        addresses = {name: bank.address for name, bank in cluster.banks.items()}
        async with Clerks(cluster.clients_address, addresses, self._directory / "told.jsonl", self._seed) as clerks:
            working = asyncio.create_task(clerks.work())
            raging = asyncio.create_task(monkey.rage())
            try:
                await self._wait(monkey, clerks, working, raging)
                raging.cancel()
                await asyncio.gather(raging, return_exceptions=True)
                clerks.over.set()
                self._note("peace")
                await monkey.peace()
                async with asyncio.timeout(CLERKS_END_SECONDS):
                    await working
                await monkey.stop()
            finally:
                for task in (working, raging):
                    task.cancel()
                await asyncio.gather(working, raging, return_exceptions=True)
                self.kills, self.stops = monkey.counts["kills"], monkey.counts["stops"]
                self.partitions = monkey.counts["partitions"]

    async def _wait(self, monkey: Monkey, clerks: Clerks, *tasks: asyncio.Task[None]) -> None:
        """Until the time is over and enough has happened, or something failed."""
        until = time.monotonic() + self._seconds
        while (left := until - time.monotonic()) > 0 or not self._is_enough(monkey, clerks):
            wanted = (monkey.failed, *tasks)
            wait = min(left, PROGRESS_SECONDS) if left > 0 else PROGRESS_SECONDS
            done, _ = await asyncio.wait(wanted, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
            if self._loud:
                counts = " ".join(f"{name}={count}" for name, count in sorted((clerks.counts + monkey.counts).items()))
                sys.stderr.write(f"soak: {max(0.0, left):.0f} s left  {counts}\n")

    def _is_enough(self, monkey: Monkey, clerks: Clerks) -> bool:
        """Where a number of commits is wanted, on a machine of any speed: so many, and faults."""
        happened = clerks.counts["COMMITTED"] >= self._committed and monkey.counts["kills"] and monkey.counts["partitions"]
        return not self._committed or bool(happened)

    def _note(self, what: str) -> None:
        self._events.write(f"{time.monotonic() - self._began:9.3f} {what}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, report; returns the exit status."""
    options = _options(arguments)
    directory: Path = options.directory.resolve()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    with _alone(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        sys.stderr.write(f"soak: seed {seed}; everything is kept below {directory}\n")
        return _run(directory, options.minutes * 60, seed, options.committed)


def _run(directory: Path, seconds: float, seed: int, committed: int) -> int:
    async def run() -> tuple[Verdict, Soak]:
        soak = Soak(directory, seconds, seed, committed)
        return await soak.run(), soak

    try:
        verdict, soak = asyncio.run(run())
    except (ProcessFailed, TimeoutError, KeyboardInterrupt) as error:
        sys.stderr.write(f"soak: {type(error).__name__}: {error}\nsoak: seed {seed}; everything is in {directory}\n")
        sys.stdout.write("soak: failed\n")
        return 1
    for wrong in verdict.wrong[:50]:
        sys.stderr.write(f"WRONG  {wrong}\n")
    ok = not verdict.wrong
    if not ok:
        sys.stderr.write(f"soak: seed {seed}; everything is in {directory}\n")
    sys.stdout.write(
        f"soak: {'ok' if ok else 'failed'} transactions={verdict.transfers} kills={soak.kills} stops={soak.stops} "
        f"partitions={soak.partitions} committed={verdict.committed} unknown={verdict.unknown} violations={len(verdict.wrong)}\n"
    )
    return 0 if ok else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0, metavar="M", help="how long faults are made (default: 1)")
    parser.add_argument("--committed", type=int, default=0, metavar="N", help="and until so many have committed (default: 0)")
    parser.add_argument("--seed", type=int, metavar="S", help="of the faults and the transfers (default: any)")
    parser.add_argument(
        "--directory", type=Path, default=ROOT / "var" / "soak", metavar="DIR",
        help="where everything is kept, emptied at the start (default: var/soak)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error("--minutes must be more than 0")
    return options


def _alone(directory: Path) -> IO[str]:
    """Two soaks at once would empty each other's directory."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    file = directory.with_name(f"{directory.name}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"soak: another soak is running in {directory}: let it finish, or use --directory")
    return file


if __name__ == "__main__":
    sys.exit(main())
