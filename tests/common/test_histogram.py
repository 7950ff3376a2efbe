"""How values are counted by their size."""

from __future__ import annotations

from troth.histogram import Histogram


def test_a_histogram_counts_up_to_each_border() -> None:
    histogram = Histogram((1, 5))
    for value in (0.5, 1, 3, 9):
        histogram.add(value)
    assert histogram.cumulative() == [("1.0", 2), ("5.0", 3), ("+Inf", 4)]
    assert (histogram.count, histogram.total) == (4, 13.5)


def test_the_last_traced_value_of_each_bucket_is_remembered() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.add(0.5)
    for value, trace in ((0.25, "a"), (0.75, "b"), (9.0, "c")):
        histogram.add_traced(value, trace, 5.0)
    assert histogram.exemplars == {0: ("b", 0.75, 5.0), 2: ("c", 9.0, 5.0)}
    assert histogram.counts == [3, 0, 1] and histogram.total == 10.5
