"""A cluster under traffic, of which one process is killed at one failpoint after the other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import shop_pb2
import shop_pb2_grpc
from catalog import Line, Order
from check import Facts, Report, judge, read
from demo import settle
from front import Diary, Front, Told
from processes import Cluster, Process

from participant_sdk.client import Aborted, Client, OutcomeUnknown, RequestError, call
from troth.errors import Reason

POINT_SECONDS = 25.0
"""How long a process may take to come by a point."""
STORM_SECONDS = 1200.0
"""How long a storm may last."""
STIR_SECONDS = 0.7
VICTIMS = {"coordinator": "coordinator", "participant": "payments"}
# What brings a process to a point that plain traffic does not reach.
RESTART_A_SERVICE = {"participant_bound", "reports", "reports_complete", "welcome"}
RESTART_THE_COORDINATOR = {"epoch_seen", "welcome", "reports", "reports_complete"}
STOP_THE_COORDINATOR = {"goodbye"}
FREEZE_A_SERVICE = {"inquiries"}
ASK_ABOUT_THE_PAST = {"gets", "got", "settles", "settlements"}
LINGER = {"begins", "begun", "enlists", "enlisted", "aborts", "branch_active"}
LINGER_SECONDS = 0.2
"""Longer than a branch is active before it announces itself."""


@dataclass
class Quiet:
    """A watcher that only counts."""

    finished: int = 0

    def done(self, told: Told) -> None:
        """One more order is done."""
        self.finished += 1

    def retried(self, told: Told) -> None:
        """One more attempt follows."""


@dataclass
class Storm:
    """Traffic, kills, and what came of it."""

    directory: Path
    orders: list[Order] = field(default_factory=list)
    solos: dict[str, str] = field(default_factory=dict)
    """What was told about transactions of one participant."""
    missed: list[str] = field(default_factory=list)
    """Points that the process did not come by."""
    at: str = ""
    """The point that the storm has come to."""
    _past: str = ""
    """A session of the coordinator's first life."""
    _asked: int = 0
    _over: bool = False

    async def run(self, points: list[str]) -> Report:
        """Kill at each point in turn, under traffic; then stop everything and check the files."""
        self.cluster = Cluster(self.directory)
        try:
            async with asyncio.timeout(STORM_SECONDS):
                await self.cluster.start()
                await self._live_once()
                await self._rage(points)
                await self.cluster.stop()
        except Exception as error:
            error.add_note(f"the last point was {self.at}; the logs are in {self.directory}")
            raise
        finally:
            self.cluster.kill()
        facts = read(self.directory)
        self._check_solos(facts)
        return judge(facts, self.orders)

    async def _live_once(self) -> None:
        """Of a life that its log never began the coordinator asks nobody anything: so it has one, and then the next."""
        async with Client(self.cluster.coordinator.address) as client:
            charge = call("payments", "charge", order="solo-first", customer="c001", amount_cents=0)
            done = await client.run(charge, timeout=30.0)
        self.solos["solo-first"] = "COMMITTED"
        self._past = done.transaction_id.rpartition(".")[0]
        await self._restart(self.cluster.coordinator)

    async def _rage(self, points: list[str]) -> None:
        services = {name: service.address for name, service in self.cluster.services.items()}
        with closing(Diary(self.directory / "told.csv")) as diary:
            # While a process dies at each first message of a kind nothing goes through, which takes minutes on a busy machine.
            async with Front(self.cluster.coordinator.address, services, diary, Quiet(), STORM_SECONDS) as front:
                traffic = [asyncio.create_task(front.place_all(self._endless())), asyncio.create_task(self._solos())]
                try:
                    await self._kill_at(points, traffic)
                    self._over = True
                    self.at = "(over: waiting for the last orders)"
                    await asyncio.gather(*traffic)
                finally:
                    for task in traffic:
                        task.cancel()
        self.at = "(over: waiting for the last acknowledgements)"
        await settle(self.cluster.coordinator.address)

    # ---- kills

    async def _kill_at(self, points: list[str], traffic: list[asyncio.Task[None]]) -> None:
        victim = self.cluster.processes[VICTIMS[points[0].partition(":")[0]]]
        await self._kill_at_each(victim, points, traffic)
        # On a busy machine what brings the victim to a point may have come too late.
        missed, self.missed = self.missed, []
        await self._kill_at_each(victim, missed, traffic)
        victim.kill()
        await victim.ended()
        await self._revive(victim)

    async def _kill_at_each(self, victim: Process, points: list[str], traffic: list[asyncio.Task[None]]) -> None:
        for self.at in points:
            victim.kill()
            await victim.ended()
            await self._until_killed(victim, self.at)
            for task in traffic:
                assert not task.done(), task.result()

    async def _until_killed(self, victim: Process, point: str) -> None:
        """Start the victim with the point armed, and see it killed there."""
        passed = asyncio.Event()
        stirring = asyncio.create_task(self._stir(victim, point.rpartition(":")[2], passed))
        try:
            async with asyncio.timeout(POINT_SECONDS):
                # Nobody waits until it is ready: what stirs it may have ended it before anybody looked.
                while True:
                    await victim.spawn(f"{point}=kill")
                    status = await victim.ended()
                    if status == -signal.SIGKILL:
                        break
                    # It was stopped before anybody had connected to whom it could say Goodbye: once more.
                    assert status in (0, -signal.SIGTERM) and point.endswith("goodbye"), victim.unexpected_end(status)
        except TimeoutError:
            self.missed.append(point)
        finally:
            # Never interrupted half-way: a process that is being stopped would be neither running nor revived.
            passed.set()
            await stirring
        for process in self.cluster.processes.values():
            if process is not victim and not process.running:
                await self._revive(process)

    async def _stir(self, victim: Process, what: str, passed: asyncio.Event) -> None:
        """Let happen what brings the victim to the point."""
        inventory, orders = self.cluster.services["inventory"], self.cluster.services["orders"]
        coordinator = self.cluster.coordinator
        while not passed.is_set():
            await asyncio.sleep(STIR_SECONDS)
            if what in ASK_ABOUT_THE_PAST:
                await self._ask_about_the_past()
            if what in LINGER:
                await self._linger()
            if what in RESTART_A_SERVICE and victim is coordinator:
                await self._restart(orders)
            if what in RESTART_THE_COORDINATOR and victim is not coordinator:
                await self._restart(coordinator)
            if what in STOP_THE_COORDINATOR:
                await self._end_in_order(coordinator, victim)
            if what in FREEZE_A_SERVICE:
                await self._freeze(inventory)

    async def _restart(self, process: Process) -> None:
        process.kill()
        await process.ended()
        await self._revive(process)

    async def _end_in_order(self, process: Process, victim: Process) -> None:
        """With SIGTERM, so that it says Goodbye; the victim itself does not survive that."""
        if process is victim:
            if process.serving:  # before that it knows no order
                process.signal(signal.SIGTERM)
        else:
            await process.stop()
            await self._revive(process)

    async def _freeze(self, process: Process) -> None:
        """Long enough for the others to become impatient."""
        process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(4)
        finally:
            process.signal(signal.SIGCONT)

    async def _revive(self, process: Process) -> None:
        assert await process.start(), f"{process.name} was killed without a failpoint"

    # ---- traffic

    def _endless(self) -> Iterator[Order]:
        """Orders until the storm is over; some cannot succeed."""
        chance = random.Random(1)
        for number in itertools.count():
            if self._over:
                return
            products = chance.sample(range(1, 101), 2)
            lines = [Line(f"p{product:03}", 1, 1) for product in products]
            if number % 10 == 3:
                lines.append(Line("p999", 1, 1))
            self.orders.append(Order(f"o{number:05}", f"c{chance.randrange(1, 201):03}", lines))
            yield self.orders[-1]

    async def _solos(self) -> None:
        """Transactions of one participant, with a key and without, some refused; and questions about forgotten ones."""
        async with Client(self.cluster.coordinator.address) as client:
            for number in itertools.count():
                if self._over:
                    return
                name = f"solo-{number:05}"
                customer = "nobody" if number % 4 == 3 else f"c{number % 200 + 1:03}"
                charge = call("payments", "charge", order=name, customer=customer, amount_cents=0)
                self.solos[name] = await self._solo(client, charge, f"key-{name}" if number % 2 else None)
                if number % 5 == 0:
                    await self._ask_about_the_past()

    async def _solo(self, client: Client, charge: object, key: str | None) -> str:
        first_attempt_ms = time.time_ns() // 1_000_000
        while True:
            try:
                await client.run(charge, timeout=5.0, key=key, first_attempt_ms=first_attempt_ms)  # type: ignore[arg-type]  # made by call()
                return "COMMITTED"
            except Aborted as aborted:
                if not aborted.retryable:
                    return "ABORTED"
            except RequestError as refused:
                assert refused.reason.retryable, refused
            except OutcomeUnknown as unknown:
                told = await self._ask(client, unknown)
                if told and (told != "UNKNOWN" or key is None):
                    return told
            await asyncio.sleep(0.05)

    async def _ask(self, client: Client, unknown: OutcomeUnknown) -> str:
        """The outcome of what may have happened, UNKNOWN when nobody can tell any more; empty when it can be tried again."""
        if not unknown.transaction_id:
            return ""  # it was never sent; an earlier attempt under the key may have been, and the key sees to that
        while True:
            try:
                await client.get(
                    unknown.transaction_id,
                    participants=unknown.participants,
                    first_attempt_ms=unknown.first_attempt_ms,
                    key=unknown.key,
                    body_hash=unknown.body_hash,
                )
                return "COMMITTED"
            except Aborted as aborted:
                return "" if aborted.retryable else "ABORTED"
            except OutcomeUnknown as still:
                if still.reason is Reason.EXPIRED:
                    return "UNKNOWN"
            except RequestError as refused:
                assert refused.reason.retryable, refused
            await asyncio.sleep(0.05)

    async def _ask_about_the_past(self) -> None:
        """A transaction of a life long gone, of which nobody knows: the coordinator can only settle it."""
        self._asked += 1
        try:
            async with Client(self.cluster.coordinator.address, grace_seconds=0.1) as client:
                await client.get(
                    f"{self._past}.{1000 + self._asked}",
                    participants=["payments"],
                    first_attempt_ms=time.time_ns() // 1_000_000,
                    timeout=1.0,
                )
        except (Aborted, OutcomeUnknown, RequestError):
            return
        raise AssertionError("a transaction that never was is committed")

    async def _linger(self) -> None:
        """Work that takes its time before it is rolled back: its branch is not announced with the commit."""
        self._asked += 1
        name = f"solo-lingers-{self._asked}"
        self.solos[name] = "ABORTED"
        async with Client(self.cluster.coordinator.address, grace_seconds=0.1) as client:
            payments = self.cluster.services["payments"].address
            async with grpc.aio.insecure_channel(payments, interceptors=client.interceptors()) as channel:
                with contextlib.suppress(Aborted, OutcomeUnknown, RequestError, grpc.aio.AioRpcError, TimeoutError):
                    async with asyncio.timeout(5.0), client.transaction(timeout=2.0):
                        request = shop_pb2.ChargeRequest(order=name, customer="c001", amount_cents=0)
                        await shop_pb2_grpc.PaymentsStub(channel).Charge(request)
                        await asyncio.sleep(LINGER_SECONDS)
                        raise TimeoutError("and changes its mind")

    # ---- afterwards

    def _check_solos(self, facts: Facts) -> None:
        """Take the charges of single transactions out of the facts, and check them by themselves."""
        charged = [row[0] for row in facts.charges if row[0].startswith("solo-")]
        facts.charges = [row for row in facts.charges if not row[0].startswith("solo-")]
        for name, told in self.solos.items():
            times = charged.count(name)
            assert times <= 1 if told == "UNKNOWN" else times == (told == "COMMITTED"), (
                f"{name}: told {told}, charged {times} times"
            )
