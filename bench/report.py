"""The results on a terminal, as JSON, and as the last line that the issue asks for."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import closed, hot, observed
from bench.measure import Result
from bench.stages import Bench


def table(bench: Bench, console: Console) -> None:
    """Everything that was measured."""
    shown = Table("stage", *_NUMBERS, "CPU µs by process", title="One run, one machine: compare ratios, not rates")
    for name in _NUMBERS:
        shown.columns[1 + _NUMBERS.index(name)].justify = "right"
    for result in bench.results.values():
        shown.add_row(*_row(result, echo_rate(bench)))
    console.print(shown)


def abuses(bench: Bench, console: Console) -> None:
    """What abusers have done to others."""
    if not bench.abuses:
        return
    alone = bench.abuses[0]
    shown = Table("beside", "honest rate/s", "of alone", "p99 ms", "coordinator MiB")
    for one in bench.abuses:
        shown.add_row(
            one.kind, f"{one.rate:,.0f}", f"{one.rate / alone.rate:.2f}", f"{one.p99_ms:.1f}", f"{one.memory_mib:.0f}"
        )  # fmt: skip
    console.print(shown)


_NUMBERS = (
    "rate/s", "/echo", "p50 ms", "p99", "p99.9", "other", "messages", "forced", "syncs", "CPU µs", "peak MiB",
)  # fmt: skip


def _row(result: Result, echo: float) -> list[str]:
    counts = [f"{result.counts[name]:.2f}" if name in result.counts else "" for name in ("messages", "forced_records", "syncs")]
    parts = " ".join(f"{name} {value:.0f}" for name, value in result.cpu_us.items())
    return [
        result.name, f"{result.rate:,.0f}", f"{result.rate / echo:.2f}", f"{result.p50_ms:.2f}", f"{result.p99_ms:.2f}",
        f"{result.p999_ms:.2f}", str(result.other), *counts, f"{sum(result.cpu_us.values()):.0f}",
        f"{max(result.memory_mib.values()):.0f}", parts,
    ]  # fmt: skip


def line(result: Result) -> str:
    """One result while the benchmark goes on."""
    return f"{result.name:18} {result.rate:9,.0f}/s  p50 {result.p50_ms:8.2f} ms  p99 {result.p99_ms:8.2f} ms"


def echo_rate(bench: Bench) -> float:
    """The median of the echoes of this run; 1 when there was none, so that a part of the benchmark can be run alone."""
    return statistics.median(bench.echoes) if bench.echoes else 1.0


def figures(bench: Bench) -> dict[str, float]:
    """The figures that have targets."""
    echo = echo_rate(bench)
    rates = {name: result.rate for name, result in bench.results.items()}
    cpu = {name: sum(result.cpu_us.values()) for name, result in bench.results.items()}
    nan = float("nan")

    def rate(name: str) -> float:
        return rates.get(name, nan)

    def p50(name: str) -> float:
        return bench.results[name].p50_ms if name in bench.results else nan

    def share(name: str) -> float:
        crowd, alone = (bench.results.get(f"{name} {callers}") for callers in (hot.CALLERS, 1))
        return hot.useful(crowd) / hot.useful(alone) if crowd is not None and alone is not None else nan

    return {
        "echo": echo,
        "naive": rate("textbook 128"),
        "c1_p50_ms": p50("one-shot 1"),
        "tps16": rate("one-shot 16"),
        "tps128": rate("one-shot 128"),
        "tps1024": rate("one-shot 1024"),
        "ratio128": rate("one-shot 128") / echo,
        "ratio1024": rate("one-shot 1024") / echo,
        "sqlite128": rate("sqlite 128") / echo,
        "over_textbook": rate("one-shot 128") / rate("textbook 128"),
        "c1_over_echo": p50("one-shot 1") / p50("echo c1"),
        "branch_cpu_64_over_2": (cpu.get("participants 64", nan) / 64) / (cpu.get("participants 2", nan) / 2),
        "interactive_share": rate("interactive 128") / rate("plain calls 128"),
        "hot_share": share("hot"),
        "hot_unfairness": bench.fairness.get("hot", nan),
        "hot_sqlite_share": share("hot sqlite"),
        "hot_sqlite_unfairness": bench.fairness.get("hot sqlite", nan),
        "store_share": rate("cell store") / rate("cell file"),
        "shards_share": rate("cell 1 nodes") / rate("cell 1 shard"),
        "nodes_cpu": max(cpu.get("cell 2 nodes", nan), cpu.get("cell 4 nodes", nan)) / cpu.get("cell 1 nodes", nan),
        "slots_cpu": cpu.get("cell 2 slots", nan) / cpu.get("cell 1 slots", nan),
        "takeover_seconds": statistics.median(bench.takeovers) if bench.takeovers else nan,
        "postgres_share": rate("postgres troth") / ((rate("postgres floor") + rate("postgres floor again")) / 2),
        "sqlalchemy_share": rate("sqlalchemy troth") / rate("sqlalchemy floor"),
        "closed_share128": closed.share(bench.results, 128),
        "closed_share1024": closed.share(bench.results, 1024),
        **{f"{kind}_cpu": observed.share(bench.results, kind) for kind in observed.LOOKED_AT},
        "floor_ratio128": rate("floor 128") / echo,
        "floor_ratio1024": rate("floor 1024") / echo,
        "floor_c1_over_echo": p50("floor 1") / p50("echo c1"),
    }


TARGETS = {
    "ratio128": (">=", 3.5),
    "ratio1024": (">=", 5.0),
    "over_textbook": (">=", 12.0),
    "c1_over_echo": ("<=", 5.0),
    "sqlite128": (">=", 1.5),
    "branch_cpu_64_over_2": ("<=", 1.2),
    "interactive_share": (">=", 0.6),
    "hot_share": (">=", 0.7),
    "hot_unfairness": ("<=", 3.0),
    "hot_sqlite_share": (">=", 0.7),
    "hot_sqlite_unfairness": ("<=", 3.0),
    "store_share": (">=", 0.6),
    "shards_share": (">=", 0.9),
    "nodes_cpu": ("<=", 1.15),
    "takeover_seconds": ("<=", 5.0),
    "postgres_share": (">=", 0.8),
    "sqlalchemy_share": (">=", 0.8),
    "closed_share128": (">=", 0.85),
    "closed_share1024": (">=", 0.85),
    "observed_cpu": (">=", 0.9),
}


def targets(bench: Bench, console: Console) -> None:
    """Each target, and whether this run reached it."""
    measured = figures(bench)
    shown = Table("target", "wanted", "measured", "reached")
    for name, (sign, wanted) in TARGETS.items():
        value = measured[name]
        reached = value >= wanted if sign == ">=" else value <= wanted
        shown.add_row(name, f"{sign} {wanted:g}", f"{value:.2f}", "yes" if reached else "no")
    console.print(shown)


def last_line(bench: Bench) -> str:
    """What scripts read."""
    digits = {"echo": 0, "naive": 0, "tps16": 0, "tps128": 0, "tps1024": 0}
    names = ("echo", "naive", "c1_p50_ms", "tps16", "tps128", "tps1024", "ratio128", "ratio1024", "sqlite128")
    measured = figures(bench)
    return "bench: " + " ".join(f"{name}={measured[name]:.{digits.get(name, 2)}f}" for name in names)


def write_json(bench: Bench, path: Path) -> None:
    """Everything, for programs."""
    document = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        "figures": figures(bench),
        "abuses": [asdict(one) for one in bench.abuses],
        "peers": [asdict(one) for one in bench.peers],
        "results": [asdict(result) for result in bench.results.values()],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
