"""What the services share: the settings, the identity of this boot, the counters, and the way into the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

from coordinator.config import Config
from troth.ready import Core, Event


class CoreCounters(Protocol):
    """What the core counts."""

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""


class CoordinatorCoreView(Core, Protocol):
    """What the shell reads from the coordinator's core, beyond what the engine needs. Valid after `recover`."""

    @property
    def epoch(self) -> int:
        """The epoch of this boot."""

    @property
    def counters(self) -> CoreCounters:
        """What was done since the start."""

    @property
    def is_draining(self) -> bool:
        """Whether new work is refused."""

    @property
    def unary_session(self) -> str:
        """The session of unary calls."""

    def undecided(self) -> int:
        """Transactions without a decision."""


@dataclass(slots=True)
class ShellCounters:
    """What the services did since the start."""

    unary_calls: int = 0
    participant_streams: int = 0
    client_streams: int = 0
    sessions_resumed: int = 0
    malformed_frames: int = 0
    overloaded_streams: int = 0
    internal_errors: int = 0

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(slots=True)
class Context:
    """Shared by all services of one daemon."""

    config: Config
    core: CoordinatorCoreView
    nonce: str
    submit: Callable[[Event], None]
    submit_all: Callable[[Sequence[Event]], None]
    counters: ShellCounters = field(default_factory=ShellCounters)
    stream_ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a stream is over."""

    @property
    def session_prefix(self) -> str:
        """What the session names of this boot begin with."""
        return f"{self.config.shell.name}.{self.core.epoch}.{self.nonce}"

    def now_ms(self) -> int:
        """This machine's wall clock, for peers that compare it with theirs."""
        return time.time_ns() // 1_000_000
