"""Serves what `families` names, in Prometheus's formats, on an address of its own.

The server (`endpoint`) runs in a thread of its own; what it tells is collected in the coordinator's loop, which owns it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from coordinator.attention import KINDS, attention
from coordinator.cell.routing import Routes
from coordinator.inside import Inside
from coordinator.metrics.endpoint import Endpoint
from coordinator.metrics.families import COUNTERS, FAMILIES, GAUGES, PARTICIPANTS_MAX
from coordinator.metrics.outcomes import Outcomes
from troth import __version__
from troth.address import split_address
from troth.errors import ConfigError, RequestError
from troth.histogram import Histogram
from troth.logs import get_logger
from troth.v1 import admin_pb2

log = get_logger("troth.metrics")

SCRAPE_SECONDS = 10.0
"""How long a scrape waits for the coordinator's loop."""

_KINDS: dict[str, Callable[..., Metric]] = {
    "counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily,
}  # fmt: skip

Samples = Iterator[tuple[str, tuple[str, ...], Any]]
"""A family, the values of its labels, and a number or a histogram."""


class Exporter(Collector):
    """One endpoint."""

    def __init__(self, listen: str, routes: Routes, outcomes: Outcomes) -> None:
        self._listen = listen
        self._routes = routes
        self._inside = Inside(routes)
        self.outcomes = outcomes
        """What it has counted."""
        self._began = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._server: Endpoint | None = None
        self.address = ""

    def start(self) -> None:
        """Listen. Raises `ConfigError` for an address that cannot be had."""
        host, port = split_address(self._listen)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server = Endpoint(host.strip("[]"), port, registry, self._is_ready)
        except OSError as error:
            text = f"metrics_listen is {self._listen!r}: {error.strerror}"
            raise ConfigError(text, hint="Name an address that is free.") from error
        self.address = f"{host}:{self._server.port}"
        log.info("metrics are served", address=f"http://{self.address}/metrics")

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            await asyncio.to_thread(self._server.close)

    # ---- in the server's thread

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked of the coordinator when this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Everything, as it is now."""
        samples = asyncio.run_coroutine_threadsafe(self._collect(), self._loop).result(SCRAPE_SECONDS)
        yield from families_of(samples)

    def _is_ready(self) -> bool:
        return asyncio.run_coroutine_threadsafe(self._ready(), self._loop).result(SCRAPE_SECONDS)

    # ---- in the coordinator's loop

    async def _ready(self) -> bool:
        return self._routes.common.ready

    async def _collect(self) -> list[tuple[str, tuple[str, ...], Any]]:
        samples = [*self._of_process(), *self._of_shards()]
        for read in (self._of_limits, self._of_participants, self._of_attention):
            try:
                samples += await read()
            except RequestError as error:
                log.debug("a part of the metrics cannot be read now", why=error.message)
        return samples

    def _of_process(self) -> Samples:
        yield "troth_build_info", (__version__,), 1
        yield "troth_uptime_seconds", (), time.monotonic() - self._began
        for (outcome, reason), count in self.outcomes.over.items():
            yield "troth_over_total", (outcome, reason), count
        for (reason, fault), count in self.outcomes.refused.items():
            yield "troth_refusals_total", (reason, fault), count
        for result, count in self.outcomes.objective.items():
            yield "troth_objective_total", (result,), count
        for phase, histogram in self.outcomes.phases.items():
            yield "troth_phase_seconds", (phase,), histogram
        history = self._routes.common.history
        if history is not None:
            yield "troth_history_written_total", (), history.written
            yield "troth_history_missing_total", (), history.dropped
            yield "troth_history_waiting", (), history.waiting
        for name, count in self._routes.common.counters.as_dict().items():
            yield f"troth_{name}_total", (), count

    def _of_shards(self) -> Samples:
        of_the_node = self._routes.common.counters.as_dict()
        for shard in self._routes.here:
            name = (shard.name,)
            for counter, count in shard.counters().items():
                if counter not in of_the_node:
                    yield f"troth_{counter}" if counter in GAUGES else f"troth_{counter}_total", name, count
            engine = shard.engine_counters
            yield "troth_sync_seconds", name, engine.sync_seconds
            yield "troth_batch_records", name, engine.batch_records
            yield "troth_epoch", name, shard.epoch
            yield "troth_draining", name, int(not shard.ready)
            yield "troth_log_backlog", name, shard.context.backlog()
            size = shard.log_bytes()
            if size is not None:
                yield "troth_log_bytes", name, size

    async def _of_limits(self) -> list[Any]:
        status = await self._inside.look("GetStatus", admin_pb2.GetStatusRequest())
        used = [("troth_limit_used", (fill.limit,), fill.used) for fill in status.fills]
        return [*used, *(("troth_limit_max", (fill.limit,), fill.max) for fill in status.fills)]

    async def _of_participants(self) -> list[Any]:
        page = await self._inside.look("ListParticipants", admin_pb2.ListParticipantsRequest(limit=PARTICIPANTS_MAX))
        found: list[Any] = []
        for row in page.participants:
            name = (row.participant,)
            found += [
                ("troth_participant_connected", name, int(row.connected)),
                ("troth_participant_votes_owed", name, row.votes_owed),
                ("troth_participant_acknowledgements_owed", name, row.acknowledgements_owed),
                ("troth_participant_oldest_owed_seconds", name, row.oldest_owed_seconds),
                ("troth_participant_stranded", name, row.stranded_total),
            ]
        return found

    async def _of_attention(self) -> list[Any]:
        kinds = [item.kind for item in await attention(self._inside)]
        return [("troth_attention", (kind,), kinds.count(kind)) for kind in KINDS]


def buckets_of(histogram: Histogram) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """Its buckets, with a trace to look at where there is one; only OpenMetrics tells of that."""
    plain = histogram.cumulative()
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = list(plain)
    for place, (trace, value, at_seconds) in histogram.exemplars.items():
        border, count = plain[place]
        buckets[place] = (border, count, Exemplar({"trace_id": trace}, value, at_seconds))
    return buckets


def families_of(samples: Iterable[tuple[str, tuple[str, ...], Any]]) -> Iterable[Metric]:
    """Samples under the names and with the words of `families`. What is not named there is a mistake, and raises `KeyError`."""
    made: dict[str, Any] = {}
    for name, labels, value in samples:
        if name not in made:
            made[name] = _family(name, len(labels))
        if isinstance(value, Histogram):
            made[name].add_metric(labels, buckets=buckets_of(value), sum_value=value.total)
        else:
            made[name].add_metric(labels, value)
    return made.values()


def _family(name: str, labels: int) -> Metric:
    for family in FAMILIES:
        if family.name == name:
            return _KINDS[family.kind](name, family.says, labels=family.labels)
    short = name.removeprefix("troth_").removesuffix("_total")
    of_shard = ("coordinator",)[:labels]
    if short in GAUGES:
        return GaugeMetricFamily(name, GAUGES[short], labels=of_shard)
    return CounterMetricFamily(name, COUNTERS[short], labels=of_shard)
