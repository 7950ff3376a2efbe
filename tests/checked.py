"""What the tests of invariants have in common, whatever the participant keeps its data in."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from participant_sdk import Participant
from participant_sdk.client import Client, call
from participant_sdk.invariants import Standing
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.errors import Aborted

LOOK_SECONDS = 0.005


async def found(bank: Participant, name: str, standing: Standing | None) -> str:
    """Wait until an invariant stands so; returns its detail."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            finding = bank.findings.get(name)
            if (None if finding is None else finding.standing) is standing:
                return "" if finding is None else finding.detail
            await asyncio.sleep(LOOK_SECONDS)


async def found_that(bank: Participant, name: str, words: str) -> None:
    """Wait until an invariant cannot be checked for this reason. (On a busy machine a check may be over before it begins.)"""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while words not in (detail := await found(bank, name, Standing.UNCHECKED)):
            assert detail, name
            await asyncio.sleep(LOOK_SECONDS)


async def checked_again(bank: Participant, name: str) -> None:
    """Wait until a check that begins now has ended: the second one that ends."""
    for _ in range(2):
        before = bank.ages[name]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while bank.ages[name] >= before:
                before = bank.ages[name]
                await asyncio.sleep(LOOK_SECONDS)


class Sums:
    """Money moves between `north` and `south`, by their operations `pay`; an invariant of one of them reads both, by `total`."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        """What both had together, at each check."""
        self._client: Client | None = None

    def declare(self, bank: Participant, every_seconds: float) -> None:
        """Have the bank check that both together have nothing."""

        @bank.invariant(every_seconds=every_seconds)
        async def sums_agree() -> str | None:
            assert self._client is not None
            done = await self._client.run(call("north", "total"), call("south", "total"), hold_read_locks=True)
            (there,), (here,) = done.results["north"], done.results["south"]
            self.seen.append(there + here)
            return f"north has {there}, and south {here}" if there + here else None

    async def move_money(self, client: Client, checks: int) -> None:
        """Three accounts pay all the time, until so many checks have ended."""
        self._client = client

        async def payer(account: str) -> None:
            while len(self.seen) < checks:
                pair = call("north", "pay", account=account, amount=-1), call("south", "pay", account=account, amount=1)
                with suppress(Aborted):  # others had the keys for too long
                    await client.run(*pair, wait="logged")

        async with asyncio.timeout(2 * PATIENCE_SECONDS):
            await asyncio.gather(*(payer(account) for account in "abc"))
