"""What renews the leases of logs, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from troth.errors import LogError, LogFailed, Reason
from troth.log import owned
from troth.log.owned import Claim, Leases

SECONDS = 30.0


class Swallowing(Leases):
    """Renews over a driver whose wait loses a cancel, as `asyncio.wait_for` of Python 3.11 does when it comes together with the
    answer."""

    def __init__(self) -> None:
        super().__init__("", 0.03, "test")
        self.renewing = asyncio.Event()
        self.swallowed = 0

    async def _renewed(self, claims: Sequence[Claim]) -> set[Claim]:
        self.renewing.set()
        try:
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            self.swallowed += 1
        return set(claims)

    async def _connect(self) -> Any:
        raise NotImplementedError

    def _shut(self, connection: Any) -> None:
        raise NotImplementedError

    def _kinds(self) -> tuple[type[Exception], ...]:
        return ()

    def _error(self, what: str, error: Any, doing: str) -> LogError:
        return LogFailed(Reason.LOG_FAILED, what)


class Holding:
    """Has a log."""

    claim = Claim(1, 1, "me")

    def renewed(self, until: float) -> None:
        """It has it still."""

    def fenced(self) -> None:
        """It has it no more."""


async def test_who_renews_ends_when_it_is_told_to_even_if_the_driver_did_not_hear_it() -> None:
    leases = Swallowing()
    leases.add(Holding())
    await leases.renewing.wait()
    async with asyncio.timeout(SECONDS):
        await leases.close()
    assert leases.swallowed == 1


async def test_the_loop_asks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without a cancel: Python 3.11 shows no tracer what runs after one was swallowed, so coverage sees it here."""
    answers = iter([False, True])
    monkeypatch.setattr(owned, "is_cancelling", lambda: next(answers))
    leases = Swallowing()
    leases.add(Holding())
    leases._holders.clear()
    renewing = leases._renewing
    assert renewing is not None
    async with asyncio.timeout(SECONDS):
        await renewing
    assert leases.swallowed == 0
