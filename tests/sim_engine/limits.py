"""Limits and clocks, drawn at random: small ones, ones that leave no room for each other, and machines that boot on any day.

What contradicts itself must be refused at the start, in words; what is not refused must keep every promise, however little room it
leaves. So limits are drawn, shown to production's own check, and drawn again in part until it takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from coordinator.config import Config, load
from participant_sdk.limits import Limits
from tests.sim.roles import SETTINGS
from tests.sim.world import EPOCH_MS
from troth.errors import ConfigError

NARROW_CHANCE = 0.35
ODD_CLOCKS_CHANCE = 0.25

HOUR_MS = 3_600_000
BOOT_SKEWS_MS = (0, -HOUR_MS, 2 * HOUR_MS, -EPOCH_MS, 20_000 * 24 * HOUR_MS)
"""What a machine's clock says when it boots, beside what it is: an hour behind, two ahead, 1970, a date in 2078."""

_COORDINATOR: Mapping[str, Sequence[Any]] = {
    "open_transactions_max": (1, 2, 5), "questions_max": (1, 2), "open_bytes_max": (200, 1_000, 5_000),
    "participants_max": (1, 2, 3), "operations_max": (1, 2), "payload_bytes_max": (10, 40, 400), "key_bytes_max": (1, 2),
    "timeout_ms_max": (100, 1_000), "retention_seconds": (1.0, 10.0), "retained_transactions_max": (0, 1, 3), "keys_max": (1, 3),
    "skew_seconds": (0.0, 1.0), "session_linger_seconds": (0.1, 5.0), "sessions_max": (4, 6), "unseen_answers_max": (1, 3),
    "unseen_bytes_max": (1, 100, 1_000), "resend_first_seconds": (0.01, 1.0), "resend_cap_seconds": (0.02, 1.0),
    "settle_answer_seconds": (0.01, 0.5), "watermark_interval_seconds": (0.01, 3.0), "reports_max": (1, 6, 1_010),
    "reports_bytes_max": (1, 400, 3_000), "operation_names_bytes_max": (1, 100), "late_heuristics_max": (1, 3),
    "known_participants_max": (3, 5), "frame_bytes_max": (65_537, 70_000), "frame_messages_max": (1, 2, 5),
    "outbox_items_max": (100,), "outboxes_bytes_max": (65_536,), "calls_max": (20,), "unary_calls_max": (1,), "watches_max": (1,),
    "hello_seconds": (0.5,), "goodbye_seconds": (0.1,),
}  # fmt: skip
"""No fewer sessions, calls and names than there are processes: less is a machine that is too small, and refuses some for ever."""
_PARTICIPANT: Mapping[str, Sequence[Any]] = {
    "open_branches_max": (1, 2, 5), "calls_waiting_max": (1, 2), "operations_max": (1, 2), "lock_wait_seconds": (0.01, 2.0),
    "local_wait_seconds": (0.01, 3.0), "enlist_wait_seconds": (0.05, 3.0),
}  # fmt: skip
_MORE_OF_COORDINATOR: Mapping[str, Sequence[Any]] = {
    "proving_max": (1, 2), "transaction_watches_max": (1,), "hearing_seconds": (0.0, 0.1, 3.0),
    "recovery_grace_seconds": (0.0, 0.5, 5.0), "key_results_bytes_max": (1, 60, 1_000),
}
_MORE_OF_PARTICIPANT: Mapping[str, Sequence[Any]] = {"calls_bytes_max": (1, 100, 1_000), "enlist_after_seconds": (0.001, 0.5)}
ELSEWHERE = {
    "connections_max": "connections are of gRPC: tests/fuzz/test_floods.py",
    "connection_calls_max": "the same",
    "connection_idle_seconds": "the same",
    "connection_watches_max": "the same, and tests/coordinator_shell/test_shell_bounds.py",
    "answer_seconds": "the same: nobody here leaves an answer unread",
    "keepalive_seconds": "pings are of gRPC: tests/coordinator_shell/test_shell_bounds.py",
    "keepalive_timeout_seconds": "the same",
    "owner_transactions_max": "needs a policy: tests/identity",
    "identity_calls_max": "the same",
    "identity_connections_max": "the same",
    "review_seconds": "the same: tests/identity/test_reviews.py",
    "audit_retention_seconds": "the same: tests/identity/test_audit.py",
    "history_seconds": "tests/history",
    "history_rows_max": "tests/history",
    "history_bytes_max": "tests/history",
    "lease_seconds": "of a store: tests/sim_cell, tests/log",
    "drain_seconds": "how long an orderly end takes; every run here ends by itself",
}
"""Limits that are not drawn, and where they are tried, or why not."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The limits of a run."""

    config: Config
    participants: Limits
    narrow: frozenset[str]
    """The names of those that were drawn."""
    refused: int
    """How often what was drawn contradicted itself."""


def draw(seed: int, shell: Mapping[str, Any]) -> Drawn:
    """The limits of a seed, around what all runs have."""
    random = Random(f"limits {seed}")
    common = {**asdict(SETTINGS), "timeout_ms_max": 600_000, **shell}
    limits = Limits(lock_wait_seconds=0.3, local_wait_seconds=1.0, enlist_wait_seconds=1.0)
    if random.random() >= NARROW_CHANCE:
        return Drawn(load(environment={}, flags=common).config, limits, frozenset(), 0)
    chosen = _some(random, _COORDINATOR)
    theirs = _some(random, _PARTICIPANT)
    more = Random(f"more limits {seed}")  # of their own, so that the seeds of before draw what they drew
    chosen.update(_some(more, _MORE_OF_COORDINATOR))
    theirs.update(_some(more, _MORE_OF_PARTICIPANT))
    limits = replace(limits, **theirs)
    refused = 0
    while True:
        try:
            config = load(environment={}, flags={**common, **chosen}).config
            return Drawn(config, limits, frozenset(chosen) | frozenset(theirs), refused)
        except ConfigError:
            if not chosen:
                raise
            refused += 1
            del chosen[random.choice(sorted(chosen))]


def _some(random: Random, of: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    density = random.choice([0.1, 0.3, 0.8])
    return {name: random.choice(values) for name, values in of.items() if random.random() < density}


def drawn_names() -> tuple[set[str], set[str]]:
    """The limits of a coordinator and of a participant that may be drawn."""
    return {*_COORDINATOR, *_MORE_OF_COORDINATOR}, {*_PARTICIPANT, *_MORE_OF_PARTICIPANT}


def boots(seed: int) -> Callable[[], int] | None:
    """How far the clock of a machine is off that boots; `None` where all boot with the right time."""
    random = Random(f"clocks {seed}")
    if random.random() >= ODD_CLOCKS_CHANCE:
        return None
    odd = random.choice([0.2, 1.0])
    return lambda: random.choice(BOOT_SKEWS_MS) if random.random() < odd else 0
