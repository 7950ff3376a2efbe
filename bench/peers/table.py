"""What was measured of Troth and its peers, turn by turn, as ratios to Troth's one-shot of the same turn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table

from bench.measure import Result

CALLERS = (1, 16, 128)
ONE_SHOT = "troth one-shot"
INTERACTIVE = "troth interactive"


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a row is about, and how far it can be believed."""

    name: str
    turns: int = 0
    """In how many turns it was measured."""
    seen: str = ""
    """How its durability was looked at in this run; or why it was not measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """A peer at a number of callers. Ratios and figures are medians over the turns; nan where one was not measured."""

    name: str
    callers: int
    ratio: float
    """Its rate to that of Troth's one-shot in the same turn."""
    lowest: float
    highest: float
    rate: float
    p50_ms: float
    cpu_us: float
    """CPU of all its processes, the callers' too, a transaction in microseconds."""
    failed: int
    """Transactions that did not commit, in all turns together."""


def key(name: str, callers: int, turn: int) -> str:
    """Under which name a result is kept."""
    return f"{name} {callers} turn {turn}"


def rows(results: Mapping[str, Result], peers: list[Peer]) -> list[Row]:
    """A row for each peer and number of callers of which something was measured."""
    made = (_row(results, peer, callers) for peer in peers for callers in CALLERS)
    return [row for row in made if row is not None]


def _row(results: Mapping[str, Result], peer: Peer, callers: int) -> Row | None:
    turns = {turn: results[name] for turn in range(peer.turns) if (name := key(peer.name, callers, turn)) in results}
    if not turns:
        return None
    bases = {turn: results.get(key(ONE_SHOT, callers, turn)) for turn in turns}
    ratios = [one.rate / base.rate for turn, one in turns.items() if (base := bases[turn]) is not None and base.rate]
    ratios = ratios or [math.nan]
    found = list(turns.values())
    return Row(
        peer.name, callers, statistics.median(ratios), min(ratios), max(ratios),
        rate=statistics.median(one.rate for one in found),
        p50_ms=statistics.median(one.p50_ms for one in found),
        cpu_us=statistics.median(sum(one.cpu_us.values()) for one in found),
        failed=sum(one.other for one in found),
    )  # fmt: skip


def table(results: Mapping[str, Result], peers: list[Peer]) -> Table:
    """The rows on a terminal, each peer with how its durability was looked at."""
    shown = Table(
        "peer", "callers", "to one-shot", "lowest", "highest", "rate/s", "p50 ms", "CPU µs", "failed", "durable, as seen",
        title="Beside the peers: ratios within one turn, medians of the turns",
    )  # fmt: skip
    measured = rows(results, peers)
    for peer in peers:
        own = [row for row in measured if row.name == peer.name]
        if not own:
            shown.add_row(peer.name, *[""] * 8, f"not measured: {peer.seen}")
        for row in own:
            shown.add_row(
                row.name, str(row.callers), f"{row.ratio:.2f}", f"{row.lowest:.2f}", f"{row.highest:.2f}", f"{row.rate:,.0f}",
                f"{row.p50_ms:.2f}", f"{row.cpu_us:,.0f}", str(row.failed), peer.seen if row is own[0] else "",
            )  # fmt: skip
    return shown
