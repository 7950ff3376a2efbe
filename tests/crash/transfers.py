"""Transfers between banks, one after the other by each of many clerks; what each was told is written down."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from bank_terms import ACCOUNTS, METHOD

from participant_sdk.client import Aborted, AlreadyCommitted, Client, HeuristicOutcome, OutcomeUnknown, RequestError, call
from troth.backoff import Backoff

CLERKS = 12
ATTEMPTS_MAX = 4
"""A clerk gives up a transfer that aborted so often: told ABORTED, it must not be there."""
ASK_SECONDS = 60.0
RETRY = Backoff(first_seconds=0.02, cap_seconds=0.5)
CHANNEL_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))
KINDS = ("pair", "triple", "solo", "look", "interactive", "given up")


@dataclass(frozen=True, slots=True)
class Leg:
    """One movement at one bank."""

    bank: str
    account: str
    amount: int


@dataclass(slots=True)
class Transfer:
    """One transfer, and what its clerk was told."""

    name: str
    kind: str
    key: str | None
    timeout: float
    legs: list[Leg]
    told: str = "UNKNOWN"
    """COMMITTED, ABORTED, UNKNOWN or HEURISTIC."""
    code: str = ""
    transactions: list[str] = field(default_factory=list)
    first_attempt_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def line(self) -> str:
        """As it stands in the file."""
        legs = [(leg.bank, leg.account, leg.amount) for leg in self.legs]
        return json.dumps([self.name, self.kind, self.key, self.told, self.code, self.transactions, legs]) + "\n"


class _GivenUp(Exception):
    """Leaves the block of an interactive transaction."""


class Clerks:
    """Makes transfers until `over` is set. Use it as an async context manager."""

    def __init__(
        self, coordinator: str, banks: Mapping[str, str], told: Path, seed: int, kinds: tuple[str, ...] = KINDS, past: str = "c1"
    ) -> None:
        """`past` names the coordinator that a transaction of long ago would have had."""
        self._client = Client(coordinator, grace_seconds=2.0)
        self._banks = dict(banks)
        self._chance = random.Random(seed)
        self._kinds = kinds
        self._past = past
        self._file = told.open("w", encoding="utf-8", buffering=1)
        self._stack = AsyncExitStack()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._made = 0
        self.over = asyncio.Event()
        self.counts: Counter[str] = Counter()

    async def __aenter__(self) -> Clerks:
        self._stack.callback(self._file.close)
        await self._stack.enter_async_context(self._client)
        for name, address in self._banks.items():
            channel = grpc.aio.insecure_channel(address, CHANNEL_OPTIONS, interceptors=self._client.interceptors())
            self._channels[name] = await self._stack.enter_async_context(channel)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def work(self) -> None:
        """Until it is over; then every transfer that was begun is finished first."""
        async with asyncio.TaskGroup() as clerks:
            for _ in range(CLERKS):
                clerks.create_task(self._clerk())

    async def _clerk(self) -> None:
        while not self.over.is_set():
            await self.make(self._invent())
            if self._made % 10 == 0:
                await self._ask_about_the_past()

    async def _ask_about_the_past(self) -> None:
        """About a transaction of a life long gone that never was: the coordinator can only settle it with the banks."""
        name = f"{self._past}.1.00000000.1.{self._made}"
        first_attempt_ms = time.time_ns() // 1_000_000
        try:
            await self._client.get(name, participants=tuple(self._banks), first_attempt_ms=first_attempt_ms, timeout=1.0)
        except (Aborted, OutcomeUnknown, RequestError):
            return
        raise AssertionError("a transaction that never was is committed")

    async def make(self, transfer: Transfer) -> None:
        """Make one transfer: try, ask, try again; and write down what was told."""
        for attempt in range(ATTEMPTS_MAX):
            if not await self._attempt(transfer) or self.over.is_set():
                break
            await asyncio.sleep(RETRY.delay_seconds(attempt, transfer.name))
        self.counts[transfer.told] += 1
        self._file.write(transfer.line())

    def _invent(self) -> Transfer:
        self._made += 1
        name = f"t{self._made:06}"
        kind = self._chance.choice(self._kinds)
        amount = self._chance.randrange(1, 20)
        banks = self._chance.sample(sorted(self._banks), len(self._banks))
        a, b, c = (f"a{self._chance.randrange(ACCOUNTS):02}" for _ in range(3))
        if kind == "triple" and len(banks) > 2:
            legs = [Leg(banks[0], a, -2 * amount), Leg(banks[1], b, amount), Leg(banks[2], c, amount)]
        elif kind in ("solo", "look"):
            legs = [Leg(banks[0], a, -amount), Leg(banks[0], b, amount)]
        else:
            legs = [Leg(banks[0], a, -amount), Leg(banks[1], b, amount)]
        # Everybody takes accounts in one order, so few wait for each other.
        legs.sort(key=lambda leg: (leg.bank, leg.account))
        key = f"key-{name}" if self._chance.random() < 0.7 else None
        return Transfer(name, kind, key, self._chance.choice((0.5, 1.0, 2.0)), legs)

    # ---- one attempt

    async def _attempt(self, transfer: Transfer) -> bool:
        """Returns whether another attempt may help."""
        try:
            if transfer.kind in ("interactive", "given up"):
                await self._interactive(transfer)
            else:
                await self._one_shot(transfer)
        except (AlreadyCommitted, Aborted, HeuristicOutcome, RequestError, grpc.aio.AioRpcError, _GivenUp) as error:
            return self._take(transfer, error)
        except OutcomeUnknown as unknown:
            return await self._ask(transfer, unknown)
        transfer.told = "COMMITTED"
        return False

    def _take(self, transfer: Transfer, error: Exception) -> bool:
        if isinstance(error, AlreadyCommitted):
            transfer.told = "COMMITTED"
            transfer.transactions.append(error.outcome.transaction_id)
            return False
        if isinstance(error, HeuristicOutcome):
            transfer.told, transfer.code = "HEURISTIC", str(error)
            return False
        transfer.told = "ABORTED"
        if isinstance(error, Aborted):
            transfer.code = error.code or error.reason.name
            transfer.transactions.append(error.transaction_id)
            return error.retryable
        if isinstance(error, RequestError):
            transfer.code = error.reason.name
            return error.reason.retryable
        transfer.code = type(error).__name__
        return not isinstance(error, _GivenUp)

    async def _one_shot(self, transfer: Transfer) -> None:
        calls = [call(leg.bank, "move", transfer=transfer.name, account=leg.account, amount=leg.amount) for leg in transfer.legs]
        if transfer.kind == "look":
            calls += [call(bank, "look", account="a00") for bank in self._banks if bank != transfer.legs[0].bank]
        done = await self._client.run(
            *calls, timeout=transfer.timeout, key=transfer.key, first_attempt_ms=transfer.first_attempt_ms
        )
        transfer.transactions.append(done.transaction_id)

    async def _interactive(self, transfer: Transfer) -> None:
        tx = self._client.transaction(timeout=transfer.timeout, key=transfer.key, first_attempt_ms=transfer.first_attempt_ms)
        async with tx:
            for leg in transfer.legs:
                body = {"transfer": transfer.name, "account": leg.account, "amount": leg.amount}
                move = self._channels[leg.bank].unary_unary(METHOD)
                await move(json.dumps(body).encode(), timeout=transfer.timeout + 1)
            if transfer.kind == "given up":
                raise _GivenUp
        assert tx.outcome is not None
        transfer.transactions.append(tx.outcome.transaction_id)

    async def _ask(self, transfer: Transfer, unknown: OutcomeUnknown) -> bool:
        """Never try again what may have happened: ask until it is known."""
        transfer.told = "UNKNOWN"
        if not unknown.transaction_id:  # with a key, and never sent: it may be run again
            return True
        transfer.transactions.append(unknown.transaction_id)
        participants = unknown.participants or tuple({leg.bank for leg in transfer.legs})
        until = time.monotonic() + ASK_SECONDS
        while time.monotonic() < until:
            self.counts["asked"] += 1
            try:
                await self._client.get(
                    unknown.transaction_id,
                    participants=participants,
                    first_attempt_ms=unknown.first_attempt_ms,
                    key=unknown.key,
                    body_hash=unknown.body_hash,
                    timeout=5.0,
                )
            except (Aborted, HeuristicOutcome) as error:
                return self._take(transfer, error)
            except (OutcomeUnknown, RequestError) as error:
                transfer.code = f"{error.reason.name}: {error.message}"
                await asyncio.sleep(0.1)
            else:
                transfer.told = "COMMITTED"
                return False
        return False
