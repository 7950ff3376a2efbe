"""One node of a cell: it serves the shards that it owns, shares the others out, and knows where they are.

Its port is open from the moment in which it has read the cell in the store, whatever it owns: unary calls for other shards are
passed on, and streams are told where to go. At each beat it says that it lives, looks at the cell, and does its part of the sharing
(`sharing`). A shard that it loses (it was fenced, or its connection or the store failed) says nothing more, and its peers are sent
on; the others go on. A store that is away is waited for, at the start as later: what is wrong with it for good ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
import time
from collections.abc import Callable, Collection

from coordinator import descriptors
from coordinator.cell import agreeing, sharing
from coordinator.cell.forwarding import Forward
from coordinator.cell.routing import Routes
from coordinator.cell.store import ROLE
from coordinator.config import Config
from coordinator.core.core import CoordinatorCore
from coordinator.history.history import History, bounds_of
from coordinator.history.postgres import PostgresHistory
from coordinator.observing import Observing
from coordinator.port import SHARD_HEALTH, Port
from coordinator.reloading import Read, Reloading
from coordinator.services import fills, status
from coordinator.services.context import Common
from coordinator.shard import Shard
from troth import features
from troth.address import split_address
from troth.cell import CellSeen
from troth.errors import LogError, LogLocked, Reason, TrothError
from troth.log.postgres import PostgresLog
from troth.log.postgres_cell import CellStore
from troth.log.postgres_leases import Leases
from troth.logs import get_logger
from troth.seals import SECRET_BYTES
from troth.v1 import admin_pb2, common_pb2

log = get_logger("troth.cell")

Tell = Callable[[str], None]

BEATS = 3
"""Beats in the time of a lease, while everybody has what is his."""
BEATS_UNSETTLED = 12
"""The same, while shards move."""
REST_LEASES = 2.0
"""How long, in leases, shards that a canary leaves to others may be nobody's."""
UNABLE_SECONDS = 30.0
"""How long a shard that could not be served here, for a reason that lasts, is left to others."""
PASSES = frozenset({Reason.LOG_FENCED, Reason.LOG_FAILED, Reason.LOG_AWAY, Reason.LOG_LOCKED})
"""Why a shard may be lost, or not be had, without anything being wrong with its log."""
WILDCARDS = frozenset({"0.0.0.0", "[::]", "[::0]"})
"""Hosts to listen at that nobody can dial."""


class Tenure:
    """One shard, for the time that this node has it."""

    def __init__(self, log: PostgresLog) -> None:
        self.log = log
        self.shard: Shard | None = None
        self.giving = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class CellNode:
    """A node of the cell in the store of `config`. `tell` says to people what it does, `serving` that it has its place; `read`
    reads its settings again."""

    def __init__(self, config: Config, tell: Tell, serving: Tell, read: Read | None = None) -> None:
        shell = config.shell
        self._config = config
        self._tell, self._serving = tell, serving
        self._common = Common(shell)
        if read is not None:
            self._common.reloading = Reloading(config, read, self._use, self._common.auditing)
        self._leases = Leases(shell.store, shell.lease_seconds, shell.node or shell.name)
        self._store = CellStore(shell.store, shell.name, self._leases)
        if shell.history_seconds:
            self._common.keep_history(History(PostgresHistory(shell.store, shell.name), bounds_of(config)))
        self._forward = Forward(self._address_of, shell.tls, self._features_of)
        self._routes: Routes | None = None
        self._observing: Observing | None = None
        self._port: Port | None = None
        self._name = shell.node
        self._tenures: dict[str, Tenure] = {}
        self._acknowledged: dict[str, int] = {}
        """Of each shard the last record that this process knows to be durable."""
        self._unable: dict[str, tuple[float, str]] = {}
        """Shards that cannot be served here: until when they are left alone, in monotonic time, and why."""
        self._seen: CellSeen | None = None
        self._address = ""
        self._stopping = asyncio.Event()
        self._draining = False
        self._wake = asyncio.Event()
        self._told = ""
        self._free_since: float | None = None
        """Since when nobody has had the shards that this node, a canary, leaves to others; in monotonic time."""
        self._takes_all = False
        """They are of a version that knows of no canaries, so there is none."""
        self._describe()

    # ---- life

    def stop(self) -> None:
        """End: give all shards away, and then stop. A second call does not wait for undecided transactions."""
        if self._stopping.is_set():
            for tenure in self._tenures.values():
                if tenure.shard is not None:
                    tenure.shard.hurry.set()
        self._stopping.set()
        self._wake.set()

    def reload(self) -> None:
        """Read the settings again, because a signal asks for it; the log tells what came of it."""
        if self._common.reloading is not None:
            self._common.reloading.on_signal()

    def _use(self, config: Config) -> None:
        self._config = config
        self._takes_all, self._free_since = False, None
        self._wake.set()
        self._common.use(config)
        for shard in self._routes.here if self._routes is not None else ():
            shard.use(config.of_shard(shard.name, len(self._store.shards)))

    async def run(self) -> TrothError | None:
        """Serve until `stop`; a lost shard ends nothing, so no error ends it. Raises `TrothError` for what is wrong for good."""
        watching = asyncio.create_task(descriptors.watch(self._common))
        try:
            if await self._patiently(self._store.open):
                if self._common.history is not None:
                    await self._common.history.start()
                await self._open_port()
                if await self._patiently(self._join):
                    await self._beat_until_stopped()
            return None
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._close()

    async def _patiently(self, ask: Callable[[], object]) -> bool:
        """Ask the store for as long as it is away; returns whether it answered before we were stopped."""
        asked = 0
        while not self._stopping.is_set():
            asked += 1
            try:
                await ask()  # type: ignore[misc]  # a coroutine function
            except LogLocked:
                if asked > 2 * BEATS:
                    raise
            except LogError as error:
                if error.reason not in PASSES:
                    raise
                self._say(f"waiting for the store: {error.message} ({error.hint})")
            else:
                return True
            await self._pause(BEATS)
        return False

    async def _open_port(self) -> None:
        shell = self._config.shell
        routes = self._routes = Routes(shell.name, self._store.shards, self._common, self._forward)
        routes.drain, routes.cell_status = self._drain, self._cell_status
        port = self._port = Port(self._config, routes)
        port.open()
        self._address = shell.advertise or advertised(port.address)
        self._name = shell.node or self._address
        self._common.auditing.begin(self._name)
        self._observing = Observing(self._config, routes)
        await self._observing.start()
        await port.start()
        await port.show(False)
        await port.show(False, [SHARD_HEALTH + name for name in self._store.shards])

    def _describe(self) -> None:
        """What the store is told of this node with its place, and with each beat."""
        shell = self._config.shell
        self._store.canary = 1.0 if self._takes_all else shell.canary
        self._store.features = features.used(shell.features_held_back)
        self._store.settings = agreeing.told(self._config, self._common.gate)

    async def _join(self) -> None:
        await self._store.join(self._name, self._address)

    async def _close(self) -> None:
        for tenure in self._tenures.values():
            assert tenure.task is not None
            tenure.task.cancel()
        await asyncio.gather(*(tenure.task for tenure in self._tenures.values() if tenure.task), return_exceptions=True)
        if self._observing is not None:
            await self._observing.stop()
        with contextlib.suppress(LogError):
            if self._seen is not None:
                await self._store.leave()
        if self._port is not None:
            await self._port.close()
        await self._forward.close()
        await self._leases.close()
        if self._common.history is not None:
            await self._common.history.stop()
        with contextlib.suppress(TrothError):
            self._common.auditing.end()

    # ---- beats

    async def _beat_until_stopped(self) -> None:
        while not (self._stopping.is_set() and not self._tenures):
            beats = BEATS_UNSETTLED
            try:
                beats = BEATS if await self._beat() else BEATS_UNSETTLED
            except LogError as error:
                if error.reason not in PASSES:
                    raise
                self._say(f"the store does not answer: {error.message} ({error.hint})")
                if self._stopping.is_set():
                    self._give(list(self._tenures))
            await self._pause(beats)

    async def _pause(self, beats: int) -> None:
        seconds = self._config.shell.lease_seconds / beats * random.uniform(0.7, 1.0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    async def _beat(self) -> bool:
        """One look at the cell, and what follows; returns whether everybody has what is his."""
        draining = self._draining or self._stopping.is_set()
        leaving = [name for name, tenure in self._tenures.items() if tenure.giving.is_set()]
        self._describe()
        seen = self._seen = await self._store.beat(self._address, draining=draining, leaving=leaving)
        self._take(seen)
        self._compare(seen)
        now = time.monotonic()
        self._unable = {name: (until, why) for name, (until, why) in self._unable.items() if until > now}
        had = [name for name, tenure in self._tenures.items() if not tenure.giving.is_set()]
        plan = sharing.plan(seen, self._name, had=had, unable=self._unable)
        for name in plan.claim:
            if name not in self._tenures:
                self._claim(name)
        self._give(plan.give)
        self._look_after_the_rest(seen, plan.claim, now)
        self._say_what_is_served()
        return plan.settled and not leaving

    def _look_after_the_rest(self, seen: CellSeen, claims: tuple[str, ...], now: float) -> None:
        """A canary leaves shards to others. Those of a version that knows of none leave them free: then it takes its fair share."""
        free = self._store.canary < 1 and not claims and any(not shard.held for shard in seen.shards)
        if not free or len(self._unable) == len(seen.shards):
            self._free_since = None
        elif self._free_since is None:
            self._free_since = now
        elif now - self._free_since > REST_LEASES * self._config.shell.lease_seconds:
            self._takes_all = True
            part = self._store.canary
            log.warning("nobody takes the shards that a canary leaves, so this node takes its fair share", canary=part)

    def _compare(self, seen: CellSeen) -> None:
        """Tell once when another node that lives has settings that it should not have, or has them no more."""
        before, own = self._common.otherwise, self._store.settings
        others = {node.name: agreeing.differing(own, node.settings) for node in seen.nodes if node.lives}
        self._common.otherwise = {name: names for name, names in others.items() if names}
        for name, names in self._common.otherwise.items():
            if before.get(name) != names:
                log.warning("another node has other settings than this one", node=name, settings=", ".join(names))
        for name in before.keys() - self._common.otherwise.keys():
            log.info("another node has the same settings again, or is gone", node=name)

    def _take(self, seen: CellSeen) -> None:
        """Know where shards are, and tell every peer when that has changed."""
        addresses = {node.name: node.address for node in seen.nodes}
        assert self._routes is not None
        places = []
        for shard in seen.shards:
            tenure = self._tenures.get(shard.name)
            serving = tenure is not None and shard.name in self._routes
            if tenure is not None and (serving or tenure.giving.is_set()):
                claim, address, leaving = tenure.log.claim[1], self._address if serving else "", tenure.giving.is_set()
            else:
                claim, address, leaving = shard.claim, addresses.get(shard.owner, ""), shard.leaving
            places.append(common_pb2.ShardPlace(coordinator=shard.name, address=address, claim=claim, leaving=leaving))
        directory = common_pb2.Directory(cell=self._store.cell, shards=places)
        if directory != self._common.directory:
            self._common.directory = directory
            for one in self._routes.here:
                one.tell_directory()

    def _news(self) -> None:
        """What is served here has changed: say so now, and look at the cell soon."""
        if self._seen is not None:
            self._take(self._seen)
        self._wake.set()

    def _address_of(self, shard: str) -> str:
        directory = self._common.directory
        address = next((one.address for one in directory.shards if one.coordinator == shard), "") if directory else ""
        return "" if address == self._address else address

    def _features_of(self, address: str) -> Collection[str]:
        nodes = self._seen.nodes if self._seen is not None else ()
        return next((node.features for node in nodes if node.address == address), ())

    # ---- shards

    def _claim(self, name: str) -> None:
        shell = self._config.shell
        tenure = self._tenures[name] = Tenure(PostgresLog(
            shell.store, role=ROLE, name=name, lease_seconds=shell.lease_seconds, leases=self._leases, owner=self._name,
            acknowledged=self._acknowledged.get(name, 0),
        ))  # fmt: skip
        tenure.task = asyncio.create_task(self._hold(name, tenure), name=f"troth-shard-{name}")

    def _give(self, names: list[str] | tuple[str, ...]) -> None:
        for name in names:
            tenure = self._tenures.get(name)
            if tenure is not None and not tenure.giving.is_set():
                undecided = tenure.shard.undecided if tenure.shard else 0
                log.info("giving a shard away", coordinator=name, undecided=undecided)
                tenure.giving.set()
                self._wake.set()

    async def _hold(self, name: str, tenure: Tenure) -> None:
        """Have one shard, from its claim to its end."""
        try:
            await self._serve(name, tenure)
        except TrothError as error:
            self._lost(name, error)
        except Exception as error:
            log.critical("a shard ended by a bug of ours", coordinator=name, exc_info=error)
            self._unable[name] = (time.monotonic() + UNABLE_SECONDS, repr(error))
        finally:
            self._acknowledged[name] = max(self._acknowledged.get(name, 0), tenure.log.acknowledged)
            if self._tenures.get(name) is tenure:
                del self._tenures[name]
            self._news()

    def _lost(self, name: str, error: TrothError) -> None:
        if error.reason is Reason.LOG_LOCKED:
            return  # somebody was faster
        if error.reason in PASSES:
            log.warning("a shard was lost, or could not be had", coordinator=name, reason=error.reason.name, error=error.message)
            return
        log.critical("a shard cannot be served here", coordinator=name, error=error.message, hint=error.hint)
        self._unable[name] = (time.monotonic() + UNABLE_SECONDS, str(error))

    async def _serve(self, name: str, tenure: Tenure) -> None:
        nonce = secrets.token_hex(4)
        config = self._config.of_shard(name, len(self._store.shards))
        core = CoordinatorCore(config.core, name, nonce, secrets.token_bytes(SECRET_BYTES))
        shard = Shard(config, core, tenure.log, nonce, self._common)
        await shard.begin()
        assert self._routes is not None
        try:
            # Participants are heard before the epoch begins, so they have to find it now; clients wait until then.
            self._routes.add(shard)
            shard.use(self._config.of_shard(name, len(self._store.shards)))  # it may be another than when it began
            self._news()
            await shard.epoch_durable()
            shard.on_readiness = lambda: self._show(shard)
            tenure.shard = shard
            log.info("serving a shard", coordinator=name, epoch=shard.epoch)
            self._show(shard)
            self._news()
            await self._until_over(shard, tenure)
        finally:
            self._routes.remove(shard)
            shard.gone.set()
            shard.context.begun.set()
            if shard.failed.done():
                shard.end_streams(status.cause(Reason.WRONG_NODE, f"the shard {name} was lost to another node"))
            await shard.close()
            await self._show_all(shard)

    async def _until_over(self, shard: Shard, tenure: Tenure) -> None:
        """Serve until the shard is lost, which raises, or given away."""
        giving = asyncio.ensure_future(self._give_away(shard, tenure))
        watching = asyncio.ensure_future(fills.watch(shard.context))
        try:
            await asyncio.wait((giving, shard.failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (giving, watching):
                task.cancel()
            await asyncio.gather(giving, watching, return_exceptions=True)
        if shard.failed.done():
            raise shard.failed.result()

    async def _give_away(self, shard: Shard, tenure: Tenure) -> None:
        """Once it is to be given away: tell everybody, finish what is undecided, and let its peers go."""
        await tenure.giving.wait()
        self._news()
        await shard.drain()
        assert self._routes is not None
        self._routes.remove(shard)
        await shard.say_goodbye()

    # ---- what others see

    def _show(self, shard: Shard) -> None:
        task = asyncio.create_task(self._show_all(shard))
        shard.context.common.tasks.add(task)
        task.add_done_callback(shard.context.common.tasks.discard)

    async def _show_all(self, shard: Shard) -> None:
        assert self._port is not None and self._routes is not None
        here = self._routes.here
        await self._port.show(shard in here and shard.ready, [SHARD_HEALTH + shard.name])
        await self._port.show(not self._draining and not self._stopping.is_set() and self._seen is not None)

    async def _drain(self) -> None:
        """Give everything away, and go on as a node that only passes on."""
        self._draining = True
        self._wake.set()

    async def _cell_status(self) -> admin_pb2.GetCellResponse:
        """The cell as it was seen last, with what this node knows of its own shards."""
        response = admin_pb2.GetCellResponse(cell=self._store.cell, node=self._name)
        seen = self._seen
        if seen is None:
            return response
        batches: dict[str, int] = {}
        with contextlib.suppress(LogError):
            batches = await self._store.batches()
        for node in seen.nodes:
            count = sum(shard.held and shard.owner == node.name for shard in seen.shards)
            response.nodes.add(
                node=node.name, address=node.address, lease_seconds=node.lease_seconds if node.lives else -abs(node.lease_seconds),
                draining=node.draining, shards=count, canary=node.canary, other_settings=self._common.otherwise.get(node.name, ()),
            )  # fmt: skip
        for one in seen.shards:
            tenure = self._tenures.get(one.name)
            shard = tenure.shard if tenure else None
            response.shards.add(
                coordinator=one.name, node=one.owner if one.held else "", epoch=one.claim, lease_seconds=one.lease_seconds,
                leaving=one.leaving, batches=batches.get(one.name, 0), trouble=self._unable.get(one.name, (0.0, ""))[1],
                backlog=shard.context.backlog() if shard else 0, undecided=shard.undecided if shard else 0,
            )  # fmt: skip
        return response

    # ---- what people are told

    def _say(self, what: str, tell: Tell | None = None) -> None:
        if what != self._told:
            self._told = what
            (tell or self._tell)(what)

    def _say_what_is_served(self) -> None:
        assert self._routes is not None
        here, shards = self._routes.here, len(self._store.shards)
        if any(tenure.shard is None for tenure in self._tenures.values()):
            return
        if not here:
            self._say(f"standing by on {self._address}: no shard of {self._store.cell} is on this node", self._serving)
        elif shards == 1:
            self._say(f"serving on {self._address} (coordinator {here[0].name}, epoch {here[0].epoch})", self._serving)
        else:
            self._say(f"serving on {self._address} ({len(here)} of {shards} shards of {self._store.cell})", self._serving)


def advertised(address: str) -> str:
    """Where others reach a node that listens at an address: there, or by this machine's name when it listens everywhere."""
    host, port = split_address(address)
    return f"{socket.gethostname()}:{port}" if host in WILDCARDS else address
