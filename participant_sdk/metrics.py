"""Prometheus in a service: what its participant does. It needs the extra `metrics`.

    from prometheus_client import REGISTRY
    from participant_sdk.metrics import ParticipantCollector

    REGISTRY.register(ParticipantCollector(bank))

The service serves its registry as it serves its other metrics. Scrapes read counters and change nothing, from whatever thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from participant_sdk.health import Condition
from participant_sdk.invariants import Standing
from participant_sdk.participant import Participant
from troth import __version__


class Family(NamedTuple):
    """One metric of a participant."""

    name: str
    kind: str
    says: str


FAMILIES = (
    Family("troth_sdk_build_info", "gauge", "1; the version is in the label `version`"),
    Family("troth_sdk_connected", "gauge", "1 while it has a session with its coordinator"),
    Family("troth_sdk_failed", "gauge", "1 when it serves no more, and only a restart helps"),
    Family("troth_sdk_unfinished", "gauge", "branches that have no outcome yet, or have not carried it out"),
    Family("troth_sdk_in_doubt", "gauge", "those of them that voted YES, and hold their locks until they hear how it ended"),
    Family("troth_sdk_lock_holders", "gauge", "transactions and local work that hold locks"),
    Family("troth_sdk_lock_waiters", "gauge", "those that wait for some"),
    Family("troth_sdk_records_total", "counter", "records written"),
    Family("troth_sdk_forced_records_total", "counter", "of these, records that a promise hangs on"),
    Family("troth_sdk_syncs_total", "counter", "syncs of its log"),
    Family("troth_sdk_protocol_errors_total", "counter", "events that its core refused"),
    Family("troth_sdk_invariant_violated", "gauge", "1 while an invariant does not hold, 0 while it does; of each by name"),
    Family("troth_sdk_invariant_unchecked", "gauge", "1 while an invariant cannot be checked; of each by name"),
    Family("troth_sdk_invariant_age_seconds", "gauge", "how long ago an invariant was checked last; of each by name"),
    Family("troth_sdk_sync_seconds", "histogram", "how long a write to its log with its sync took"),
    Family("troth_sdk_batch_records", "histogram", "records of one write to its log"),
)
"""Each has the label `participant`; `build_info` also `version`, and those of invariants `invariant`.
Those of the engine are absent before the start, and those of an invariant before it was checked."""


class ParticipantCollector(Collector):
    """Tells Prometheus of some participants of this process."""

    def __init__(self, *participants: Participant) -> None:
        self._participants = participants

    def describe(self) -> Iterable[Metric]:
        """Nothing is read when this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Everything, as it is now."""
        made = {family.name: _made(family) for family in FAMILIES}
        for participant in self._participants:
            for name, values in _samples(participant):
                made[name].add_metric((participant.name,), **values)
            for name, invariant, value in _of_invariants(participant):
                made[name].add_metric((participant.name, invariant), value=value)
            made["troth_sdk_build_info"].add_metric((participant.name, __version__), value=1)
        return made.values()


def _made(family: Family) -> Any:
    more = "version" if family.name.endswith("_info") else "invariant" if "_invariant_" in family.name else ""
    labels = ("participant", more) if more else ("participant",)
    kinds = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}
    return kinds[family.kind](family.name, family.says, labels=labels)


def _of_invariants(participant: Participant) -> Iterator[tuple[str, str, float]]:
    for invariant, finding in participant.findings.items():
        yield "troth_sdk_invariant_violated", invariant, int(finding.standing is Standing.VIOLATED)
        yield "troth_sdk_invariant_unchecked", invariant, int(finding.standing is Standing.UNCHECKED)
    for invariant, age in participant.ages.items():
        yield "troth_sdk_invariant_age_seconds", invariant, age


def _samples(participant: Participant) -> Iterator[tuple[str, dict[str, Any]]]:
    health = participant.health
    yield "troth_sdk_connected", {"value": int(health.condition is Condition.CONNECTED)}
    yield "troth_sdk_failed", {"value": int(health.condition is Condition.FAILED)}
    for name in ("unfinished", "in_doubt", "lock_holders", "lock_waiters"):
        yield f"troth_sdk_{name}", {"value": getattr(health, name)}
    if health.condition is Condition.NEW:
        return
    counters = participant.counters
    for name in ("records", "forced_records", "syncs", "protocol_errors"):
        yield f"troth_sdk_{name}_total", {"value": getattr(counters, name)}
    for name in ("sync_seconds", "batch_records"):
        histogram = getattr(counters, name)
        yield f"troth_sdk_{name}", {"buckets": histogram.cumulative(), "sum_value": histogram.total}
