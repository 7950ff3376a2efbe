"""Retrying what is safe to retry: aborted transactions, of which certainly nothing happened.

Every attempt of one business action carries the time of the first one. That is its age for wait-die (Rosenkrantz, Stearns &
Lewis, TODS 1978): it grows older with each retry, and in the end nobody kills it any more.
`OutcomeUnknown` is retried only under an idempotency key: without one that could do the work twice.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from troth.backoff import Backoff
from troth.errors import Aborted, OutcomeUnknown, Reason

RETRY = Backoff(first_seconds=0.02, cap_seconds=2.0)
"""The wait between two attempts."""
ATTEMPTS = 5
"""How often `Client.run` and `@transactional` try when they are not told."""

Result = TypeVar("Result")


Keyed = Callable[[OutcomeUnknown], bool]
"""Whether what is not known of is what was run under a key, which commits at most once however often it is run."""


def unkeyed(failed: OutcomeUnknown) -> bool:
    """There is no key."""
    return False


class Retries:
    """Whether what failed is tried again: what aborted for a reason that may pass, at most `attempts` times, none of which begins
    later than `until`. What is `keyed` is run again as well when its outcome is not known."""

    def __init__(self, attempts: int, until: float, keyed: Keyed = unkeyed) -> None:
        self._number = 0
        self._attempts = attempts
        self._until = until
        self._keyed = keyed

    def pause(self, failed: Aborted | OutcomeUnknown, now: float) -> float | None:
        """Seconds to wait before the next attempt; `None` when there is none."""
        if self._number + 1 >= self._attempts:
            return None
        if not failed.retryable and not (isinstance(failed, OutcomeUnknown) and self._is_asked_by_running(failed)):
            return None
        delay = RETRY.delay_seconds(self._number, failed.transaction_id)
        self._number += 1
        return None if now + delay >= self._until else delay

    def _is_asked_by_running(self, failed: OutcomeUnknown) -> bool:
        """Whether running it again under its key is a way to learn its outcome; what is too old is refused for ever."""
        return failed.reason is not Reason.EXPIRED and self._keyed(failed)


async def retried(
    attempts: int, attempt: Callable[[], Awaitable[Result]], *, keyed: Keyed = unkeyed, seconds: float = math.inf
) -> Result:
    """Call `attempt` as often as `Retries` says, all within so many seconds, and wait in between."""
    clock = asyncio.get_running_loop().time
    retries = Retries(attempts, clock() + seconds, keyed)
    while True:
        try:
            return await attempt()
        except (Aborted, OutcomeUnknown) as failed:
            delay = retries.pause(failed, clock())
            if delay is None:
                raise
        await asyncio.sleep(delay)


def retried_in_thread(attempts: int, attempt: Callable[[], Result], *, keyed: Keyed = unkeyed) -> Result:
    """The same for code that is not asynchronous."""
    retries = Retries(attempts, math.inf, keyed)
    while True:
        try:
            return attempt()
        except (Aborted, OutcomeUnknown) as failed:
            delay = retries.pause(failed, time.monotonic())
            if delay is None:
                raise
        time.sleep(delay)
