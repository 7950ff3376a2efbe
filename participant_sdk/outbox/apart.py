"""Topics that go apart from the others: those whose destination is away, and those where it is slow.

Each has batches of its own, so nobody waits for it. One that is away is tried with few messages, after a wait that doubles; one
that has answered in time goes with the others again. Each relay finds out by itself: what it knows ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace

from troth.backoff import Backoff

VAIN_MAX = 40
"""Batches in a row in which nothing was tried; by then all has been due that one relay put off, or given back that one had."""


@dataclass(frozen=True, slots=True)
class TopicAway:
    """What a relay knows of a topic that goes apart."""

    failures: int
    """How often in a row nobody was reached; 0 where it only takes long."""
    wait_seconds: float
    """The back-off: how long it is left alone."""
    until: float
    """When it is tried again, by the loop's clock."""
    error: str


class Apart:
    """The topics that go apart."""

    def __init__(self) -> None:
        self._topics: dict[str, TopicAway] = {}
        self._vain: dict[str, int] = {}
        """How often in a row nothing was tried there."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._topics)

    def known(self) -> dict[str, TopicAway]:
        """All of them."""
        return dict(self._topics)

    def is_away(self, topic: str) -> bool:
        """Whether nobody was reached there."""
        return topic in self._topics and self._topics[topic].failures > 0

    def wait_seconds(self, topic: str) -> float:
        """Its back-off; 0 where somebody was reached."""
        return self._topics[topic].wait_seconds if self.is_away(topic) else 0.0

    def ready(self) -> list[str]:
        """Those whose time has come, the longest due first."""
        now = asyncio.get_running_loop().time()
        return sorted((topic for topic, one in self._topics.items() if one.until <= now), key=lambda one: self._topics[one].until)

    def next_seconds(self, busy: Container[str]) -> float:
        """Until the time of the next one comes that is not among these; for ever, where there is none."""
        now = asyncio.get_running_loop().time()
        waits = (one.until - now for topic, one in self._topics.items() if topic not in busy)
        return max(0.0, min(waits, default=float("inf")))

    def away(self, topic: str, error: str, backoff: Backoff) -> TopicAway:
        """Nobody was reached: it is left alone for longer than the last time."""
        self._vain.pop(topic, None)
        failures = self._topics[topic].failures if topic in self._topics else 0
        self._topics[topic] = TopicAway(failures + 1, backoff.delay_seconds(failures, topic), float("inf"), error)
        return self._topics[topic]

    def counts(self, topic: str) -> None:
        """Its wait begins now: what failed has been recorded."""
        if topic in self._topics:  # another batch of it may have been answered meanwhile
            self._leave_alone(topic, self._topics[topic].wait_seconds)

    def slow(self, topic: str) -> None:
        """It takes long, and may answer yet."""
        self._vain.pop(topic, None)
        if self.is_away(topic):
            return
        self._topics[topic] = TopicAway(0, 0.0, asyncio.get_running_loop().time(), "")

    def well(self, topic: str) -> None:
        """It goes with the others."""
        self._topics.pop(topic, None)
        self._vain.pop(topic, None)

    def in_vain(self, topic: str, wait_seconds: float) -> None:
        """Nothing was tried: nothing is due, or another relay has it, and nobody has answered. It is forgotten in the end: maybe
        nothing is left of it."""
        self._vain[topic] = self._vain.get(topic, 0) + 1
        if self._vain[topic] >= VAIN_MAX:
            self.well(topic)
        elif topic in self._topics:
            self._leave_alone(topic, wait_seconds)

    def _leave_alone(self, topic: str, seconds: float) -> None:
        self._topics[topic] = replace(self._topics[topic], until=asyncio.get_running_loop().time() + seconds)
