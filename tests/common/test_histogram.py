"""How values are counted by their size."""

from __future__ import annotations

from troth.histogram import Histogram


def test_a_histogram_counts_up_to_each_border() -> None:
    histogram = Histogram((1, 5))
    for value in (0.5, 1, 3, 9):
        histogram.add(value)
    assert histogram.cumulative() == [("1.0", 2), ("5.0", 3), ("+Inf", 4)]
    assert (histogram.count, histogram.total) == (4, 13.5)
