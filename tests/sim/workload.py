"""What is to be done: transfers, orders over several participants, reads, one-participant work, and keys that come again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from coordinator.core import events as into
from tests.sim.bank import operation
from tests.sim.clients import ABORTED, COMMITTED, Attempt, Client, Work
from tests.sim.plan import Plan
from tests.sim.roles import CoordinatorProcess
from tests.sim.world import EPOCH_MS, World
from troth.v1 import common_pb2

AHEAD_MS = 200_000
"""A client's clock that is ahead by less than the allowed skew."""
REFUSED_AHEAD_MS = 4_000_000
REFUSED_OLD_MS = -1_500_000
"""First attempts that must be refused, whatever the clocks of a run do."""


def draw_work(random: random.Random, accounts: dict[str, list[str]]) -> Work:
    """What one transaction does."""
    kind = random.random()
    names = sorted(accounts)
    if kind < 0.45:
        source, target = random.sample(names, 2)
        amount = random.randint(1, 30)
        debit = operation("debit", random.choice(accounts[source]), amount)
        return {source: [debit], target: [operation("credit", random.choice(accounts[target]), amount)]}
    if kind < 0.6:
        return _order(random, names, accounts)
    if kind < 0.8:
        name = random.choice(names)
        one, other = random.sample(accounts[name], 2)
        amount = random.randint(1, 30)
        return {name: [operation("debit", one, amount), operation("credit", other, amount)]}
    return {name: [operation("read", random.choice(accounts[name]))] for name in random.sample(names, 2)}


def _order(random: random.Random, names: list[str], accounts: dict[str, list[str]]) -> Work:
    payer, *others = random.sample(names, len(names))
    amounts = [random.randint(1, 10) for _ in others]
    work: Work = {payer: [operation("debit", random.choice(accounts[payer]), sum(amounts))]}
    for name, amount in zip(others, amounts, strict=True):
        work[name] = [operation("credit", random.choice(accounts[name]), amount)]
    return work


def varied(random: random.Random, work: Work, accounts: dict[str, list[str]]) -> Work:
    """Now and then with somebody who is only asked: alone, or beside those who change something."""
    if random.random() < 0.8:
        return work
    names = sorted(accounts)
    if len(work) < 2:
        name = random.choice(names)
        return {name: [operation("read", random.choice(accounts[name]))]}
    others = [name for name in names if name not in work]
    if not others:
        return work
    reader = random.choice(others)
    return {**work, reader: [operation("read", random.choice(accounts[reader]))]}


class Workload:
    """Draws transactions from the plan, and gives them to clients."""

    def __init__(self, world: World, clients: Sequence[Client], accounts: dict[str, list[str]], *, steady: bool) -> None:
        self.world = world
        self.clients = clients
        self.accounts = accounts
        self.steady = steady
        """Whether clients do nothing but wait, and long enough."""
        self.started = 0
        self.waiting = 0
        """Attempts that will begin."""
        self.attempts: list[Attempt] = []
        self._keys = 0
        for client in clients:
            client.on_orphan = self._orphaned

    def schedule(self, plan: Plan, count: int, seconds: float) -> None:
        """Spread transactions over a time."""
        for number in range(1, count + 1):
            own = plan.draw(f"w{number}")
            if own is not None:
                self._later(own.uniform(0.0, seconds), self._one, own)

    def _later(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        self.waiting += 1
        self.world.after(delay, self._begin, action, arguments)

    def _begin(self, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.waiting -= 1
        action(*arguments)

    def _one(self, own: random.Random) -> None:
        work = varied(own, draw_work(own, self.accounts), self.accounts)
        key = ""
        if own.random() < (0.6 if len(work) == 1 else 0.4):
            self._keys += 1
            key = f"k{self._keys}"
        timeout_ms = 5000 if self.steady else own.choice([50, 400, 2000])
        first_attempt_ms, age = EPOCH_MS + int(self.world.now * 1000), ""
        unusual = own.random()
        if unusual < 0.02:
            first_attempt_ms, age = first_attempt_ms + REFUSED_OLD_MS, "old"
        elif unusual < 0.03:
            first_attempt_ms, age = first_attempt_ms + REFUSED_AHEAD_MS, "ahead"
        elif unusual < 0.1:
            first_attempt_ms += AHEAD_MS
        attempt = Attempt("", 0, work, key, own.random() < 0.4, first_attempt_ms, timeout_ms, random=own, age=age)
        attempt.steady = self.steady
        self.attempt(attempt, retries=0)

    def again(self, attempt: Attempt) -> Attempt:
        """The same once more: what a client does that wants it done."""
        same = Attempt(
            "", 0, attempt.work, attempt.key, attempt.interactive, attempt.first_attempt_ms, attempt.timeout_ms,
            random=attempt.random, age=attempt.age, steady=attempt.steady,
        )  # fmt: skip
        return same

    def attempt(self, attempt: Attempt, retries: int) -> None:
        """Let a client try it, and what follows from the answer."""
        own = attempt.random
        client = self.pick(attempt)
        if not client.start(attempt):
            return
        self.started += 1
        self.attempts.append(attempt)
        client.on_end[attempt.transaction_id] = partial(self._ended, attempt, retries)
        if own.random() < 0.1:
            self._later(own.uniform(0.0, 0.05), self._watch, client, attempt)
        if attempt.key and not attempt.interactive and own.random() < 0.3:
            self.world.reach("key joined while running")
            self._later(own.uniform(0.0, 0.05), self.attempt, self.again(attempt), 3)

    def pick(self, attempt: Attempt) -> Client:
        """Whose attempt it is."""
        return attempt.random.choice(self.clients)

    def _watch(self, client: Client, attempt: Attempt) -> None:
        """Somebody watches it for a while, and leaves, be it over or not."""
        coordinator, name = client.coordinator, attempt.transaction_id
        if coordinator.alive and coordinator.serving and not coordinator.paused:
            ticket = object()
            coordinator.watching.add(ticket)
            coordinator.later(0.0, coordinator.submit, into.Watch(ticket, name))
            coordinator.later(attempt.random.uniform(0.0, 0.5), self._unwatch, coordinator, ticket, name)

    def _unwatch(self, coordinator: CoordinatorProcess, ticket: object, name: str) -> None:
        coordinator.watching.discard(ticket)
        coordinator.submit(into.Unwatch(ticket, name))

    def _orphaned(self, attempt: Attempt) -> None:
        """The coordinator restarted: with a key a client need not ask, and may just do it again."""
        if attempt.key and not attempt.interactive and attempt.random.random() < 0.7:
            self._later(attempt.random.uniform(0.0, 0.05), self.attempt, self.again(attempt), 0)

    def _ended(self, attempt: Attempt, retries: int, outcome: int, cause: common_pb2.Cause | None) -> None:
        own = attempt.random
        if outcome == COMMITTED and not attempt.key and own.random() < 0.15:
            # A careless caller asks what became of it, and says that it began when he asks.
            now_ms = EPOCH_MS + int(self.world.now * 1000)
            client = own.choice(self.clients)
            self._later(own.uniform(0.3, 1.5), client.wonder, replace(attempt, first_attempt_ms=now_ms))
        retry = outcome == ABORTED and retries < 3
        again = attempt.key and outcome in (COMMITTED, ABORTED) and retries < 3 and own.random() < 0.3
        if retry or again:
            self.world.reach("key retried after a commit" if again and outcome == COMMITTED else "retry after an abort")
            # In a calm run nobody is in its own way either.
            delay = own.uniform(0.5, 0.7) if self.steady else own.uniform(0.0, 0.2)
            self._later(delay, self.attempt, self.again(attempt), retries + 1)
