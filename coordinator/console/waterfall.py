"""One transaction as a waterfall: a row for it and one for each branch, a bar for each phase, long pauses folded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from troth.v1 import admin_pb2

WIDTH = 640.0
"""Of all bars together, in the drawing's units."""
LEFT = 150.0
ROW = 26.0
FOLDED = 6.0
"""A pause is folded when it is so many times as long as the typical one, and is then drawn as that."""
NARROWEST = 2.0

_PHASES = {
    "ACTIVE": "work", "PREPARING": "vote", "OPENING": "decide", "DECIDING": "decide", "COMMITTING": "commit",
    "HANDED_OVER": "vote", "SETTLING": "settle", "PROVING": "settle",
}  # fmt: skip
LEGEND = {
    "work": "work before the commit", "vote": "asked for the vote", "decide": "the sync of the decision",
    "commit": "told, until it acknowledged", "settle": "asked what became of it",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """One phase."""

    x: float
    width: float
    kind: str
    says: str


@dataclass(frozen=True, slots=True)
class Row:
    """The transaction, or one branch."""

    name: str
    y: float
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on the axis, or a pause that is folded there."""

    x: float
    says: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    """What the template draws."""

    rows: Sequence[Row]
    marks: Sequence[Mark]
    folds: Sequence[Mark]
    repeats: Sequence[Mark]
    height: float
    width: float = LEFT + WIDTH + 20


class _Axis:
    """From milliseconds to the drawing, with long pauses folded."""

    def __init__(self, moments: Sequence[float]) -> None:
        self._at = sorted({0.0, *moments})
        lengths = [after - before for before, after in pairwise(self._at)]
        longest = FOLDED * median(lengths) if len(lengths) > 2 else float("inf")
        self.folded = [length > longest for length in lengths]
        drawn = [min(length, longest) for length in lengths]
        scale = WIDTH / (sum(drawn) or 1.0)
        self._x = [0.0]
        for length in drawn:
            self._x.append(self._x[-1] + length * scale)

    def x(self, ms: float) -> float:
        """Where a moment is drawn."""
        place = min(max(bisect_right(self._at, ms) - 1, 0), len(self._at) - 1)
        if place == len(self._at) - 1 or ms <= self._at[place]:
            return LEFT + self._x[place]
        share = (ms - self._at[place]) / (self._at[place + 1] - self._at[place])
        return LEFT + self._x[place] + share * (self._x[place + 1] - self._x[place])

    def folds(self) -> Iterator[Mark]:
        """The pauses that are folded."""
        for place, folded in enumerate(self.folded):
            if folded:
                x = LEFT + (self._x[place] + self._x[place + 1]) / 2
                yield Mark(x, duration(self._at[place + 1] - self._at[place]))


def duration(ms: float) -> str:
    """A duration for people."""
    if ms < 1:
        return f"{ms:.2f} ms" if ms else "0 ms"
    if ms < 1_000:
        return f"{ms:.1f} ms" if ms < 100 else f"{ms:.0f} ms"
    seconds = ms / 1_000
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def draw(timeline: admin_pb2.Timeline) -> Waterfall:
    """The drawing of a timeline."""
    steps = [(step.state, step.at_ms) for step in timeline.steps]
    moments = [at for _, at in steps] + [timeline.took_ms]
    moments += [at for branch in timeline.branches for at in (branch.voted_ms, branch.over_ms) if at >= 0]
    axis = _Axis(moments)
    ends = [*(at for _, at in steps[1:]), timeline.took_ms]
    phases = [_bar(axis, at, end, _PHASES[state]) for (state, at), end in zip(steps, ends, strict=False) if state in _PHASES]
    rows = [Row("transaction", 0.0, phases)]
    for number, branch in enumerate(timeline.branches, 1):
        rows.append(Row(branch.participant, number * ROW, list(_bars_of(axis, branch, dict(steps), timeline.took_ms))))
    places = sorted({0.0, timeline.took_ms, *(at for _, at in steps)})
    marks = [Mark(axis.x(at), duration(at)) for at in _apart(places, axis)]
    repeats = [Mark(axis.x(at), f"repeated after {duration(at)}") for at in timeline.repeated_ms]
    return Waterfall(rows, marks, list(axis.folds()), repeats, len(rows) * ROW)


def _bars_of(axis: _Axis, branch: admin_pb2.BranchTimes, steps: dict[str, float], took: float) -> Iterator[Bar]:
    asked = min((steps[state] for state in ("PREPARING", "HANDED_OVER") if state in steps), default=None)
    if asked is not None:
        voted = branch.voted_ms if branch.voted_ms >= 0 else steps.get("DECIDING", steps.get("ABORTED", took))
        yield _bar(axis, asked, max(asked, voted), "vote")
    told = steps.get("COMMITTING")
    if told is not None:
        yield _bar(axis, told, max(told, branch.over_ms if branch.over_ms >= 0 else took), "commit")


def _bar(axis: _Axis, begins: float, ends: float, kind: str) -> Bar:
    x = axis.x(begins)
    return Bar(round(x, 1), round(max(axis.x(ends) - x, NARROWEST), 1), kind, f"{LEGEND[kind]}: {duration(ends - begins)}")


def _apart(places: Sequence[float], axis: _Axis) -> Iterator[float]:
    """Those of some places whose words have room beside each other; always the last."""
    last = -1_000.0
    for place in places[:-1]:
        if axis.x(place) - last > 70 and axis.x(places[-1]) - axis.x(place) > 70:
            last = axis.x(place)
            yield place
    yield places[-1]
