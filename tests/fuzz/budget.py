"""How long the fuzzing goes on: a fixed number of examples, or as `TROTH_FUZZ_FACTOR` says.

Without it the examples are the same at each run, so that continuous integration fails only for a change; with it
(`scripts/fuzz` sets it) they are new ones, so many times as many, and a failure is printed with the code that replays it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

FACTOR = float(os.environ.get("TROTH_FUZZ_FACTOR", "0"))


def budget(examples: int) -> Callable[[Any], Any]:
    """The settings of one property."""
    return settings(
        max_examples=max(1, int(examples * (FACTOR or 1))),
        derandomize=not FACTOR,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
