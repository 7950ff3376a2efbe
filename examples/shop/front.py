"""The shop's front: each order becomes one transaction over the three services, and the customer is told its outcome.

Half of the orders are one-shot transactions, half are interactive. What is safe to retry is retried; what is unknown is
asked for until it is known. Everything that the front is told is written down, for the checker.
"""

from __future__ import annotations

import asyncio
import csv
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import shop_pb2
import shop_pb2_grpc
from catalog import Order

from participant_sdk.client import (
    Aborted,
    AlreadyCommitted,
    Client,
    Committed,
    OutcomeUnknown,
    RequestError,
    call,
)
from troth.backoff import Backoff
from troth.errors import Reason

IN_FLIGHT = 32
ATTEMPT_SECONDS = 5.0
"""The timeout of one attempt: an undecided transaction is aborted then."""
PATIENCE_SECONDS = 90.0
"""How long one order is tried, and asked for, before the front gives up."""
RETRY = Backoff(first_seconds=0.02, cap_seconds=1.0)
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
TOLD_COLUMNS = ("order", "transaction_id", "outcome", "code", "final")


@dataclass(frozen=True, slots=True)
class Told:
    """What the front was told about one attempt of one order."""

    order: str
    transaction_id: str
    outcome: str
    """COMMITTED, ABORTED or UNKNOWN."""
    code: str = ""
    """Why it aborted: the service's own code, or Troth's reason."""
    final: bool = True
    """Whether the customer was told so, and no attempt followed."""


class Diary:
    """Writes down what was told, line by line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="", buffering=1)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(TOLD_COLUMNS)

    def note(self, told: Told) -> None:
        """Write one line."""
        row = (told.order, told.transaction_id, told.outcome, told.code, int(told.final))
        self._writer.writerow(row)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Watcher(Protocol):
    """Hears how the orders go."""

    def done(self, told: Told) -> None:
        """One more order is done."""

    def retried(self, told: Told) -> None:
        """One more attempt follows."""


class Front:
    """Places orders. Use it as an async context manager."""

    def __init__(
        self,
        coordinator: str,
        services: Mapping[str, str],
        diary: Diary,
        watcher: Watcher,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._patience_seconds = patience_seconds
        self._client = Client(coordinator)
        self._services = services
        self._diary = diary
        self._watcher = watcher
        self._stack = AsyncExitStack()
        self.counts: Counter[str] = Counter()

    async def __aenter__(self) -> Front:
        await self._stack.enter_async_context(self._client)
        channels = {
            name: await self._stack.enter_async_context(
                grpc.aio.insecure_channel(address, CHANNEL_OPTIONS, interceptors=self._client.interceptors())
            )
            for name, address in self._services.items()
        }
        self._orders = shop_pb2_grpc.OrdersStub(channels["orders"])
        self._inventory = shop_pb2_grpc.InventoryStub(channels["inventory"])
        self._payments = shop_pb2_grpc.PaymentsStub(channels["payments"])
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def place_all(self, orders: Iterable[Order]) -> None:
        """Place all orders, so many at a time."""
        waiting = iter(enumerate(orders))

        async def worker() -> None:
            for number, order in waiting:
                await self._place(order, interactive=number % 2 == 1)

        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(worker())

    async def _place(self, order: Order, *, interactive: bool) -> None:
        """Try until the order is committed, refused, or given up."""
        began = time.monotonic()
        # The age of an order is that of its first attempt: the older one waits for a lock, the younger one dies.
        first_attempt_ms = time.time_ns() // 1_000_000
        run = self._interactive if interactive else self._one_shot
        attempt = 0
        while True:
            told, retryable = await self._attempt(order, lambda: run(order, first_attempt_ms))
            final = not retryable or time.monotonic() - began > self._patience_seconds
            told = Told(order.name, told.transaction_id, told.outcome, told.code, final)
            self._diary.note(told)
            if final:
                self.counts[told.outcome] += 1
                self._watcher.done(told)
                return
            self._watcher.retried(told)
            await asyncio.sleep(RETRY.delay_seconds(attempt, order.name))
            attempt += 1

    async def _attempt(self, order: Order, run: Callable[[], Awaitable[Committed]]) -> tuple[Told, bool]:
        """One attempt; returns what was told, and whether another one may help."""
        try:
            done = await run()
            return Told(order.name, done.transaction_id, "COMMITTED"), False
        except AlreadyCommitted as already:
            return Told(order.name, already.outcome.transaction_id, "COMMITTED"), False
        except OutcomeUnknown as unknown:
            return await self._ask(order, unknown)
        except Aborted as aborted:
            return _aborted(order, aborted), aborted.retryable
        except RequestError as refused:
            return Told(order.name, "", "ABORTED", refused.reason.name), refused.reason.retryable
        except grpc.aio.AioRpcError as error:
            # The service is being restarted. The transaction was rolled back when the block was left.
            return Told(order.name, "", "ABORTED", error.code().name), error.code() is grpc.StatusCode.UNAVAILABLE

    async def _one_shot(self, order: Order, first_attempt_ms: int) -> Committed:
        """All the work goes with the request; the coordinator does the rest."""
        lines = [
            {"product": line.product, "quantity": line.quantity, "unit_price_cents": line.unit_price_cents} for line in order.lines
        ]
        return await self._client.run(
            call("orders", "place", order=order.name, customer=order.customer, lines=lines),
            *(
                call("inventory", "take", order=order.name, product=product, quantity=quantity)
                for product, quantity in order.quantities().items()
            ),
            call("payments", "charge", order=order.name, customer=order.customer, amount_cents=order.total_cents),
            timeout=ATTEMPT_SECONDS,
            key=f"order-{order.name}",
            first_attempt_ms=first_attempt_ms,
        )

    async def _interactive(self, order: Order, first_attempt_ms: int) -> Committed:
        """The services are called through their own APIs; leaving the block commits."""
        tx = self._client.transaction(timeout=ATTEMPT_SECONDS, key=f"order-{order.name}", first_attempt_ms=first_attempt_ms)
        async with tx:
            await self._visit_services(order)
        assert tx.outcome is not None
        return tx.outcome

    async def _visit_services(self, order: Order) -> None:
        placed = await self._orders.Place(_place_request(order))
        for product, quantity in order.quantities().items():
            await self._inventory.Take(shop_pb2.TakeRequest(order=order.name, product=product, quantity=quantity))
        await self._payments.Charge(
            shop_pb2.ChargeRequest(order=order.name, customer=order.customer, amount_cents=placed.total_cents)
        )

    async def _ask(self, order: Order, unknown: OutcomeUnknown) -> tuple[Told, bool]:
        """Never retry what may have happened: ask until it is known. What was never sent has no id, and is tried again."""
        if not unknown.transaction_id:
            return Told(order.name, "", "UNKNOWN", unknown.reason.name), True
        for attempt in range(200):
            self.counts["asked"] += 1
            try:
                done = await self._client.get(
                    unknown.transaction_id,
                    participants=unknown.participants or tuple(self._services),
                    first_attempt_ms=unknown.first_attempt_ms,
                    key=unknown.key,
                    body_hash=unknown.body_hash,
                )
                return Told(order.name, done.transaction_id, "COMMITTED"), False
            except Aborted as aborted:
                return _aborted(order, aborted), aborted.retryable
            except OutcomeUnknown as still:
                if still.reason is Reason.EXPIRED:
                    # Nobody can tell any more. The key allows at most one commit, so that running it again is safe.
                    return Told(order.name, unknown.transaction_id, "UNKNOWN", still.reason.name), True
            except RequestError:
                pass  # the coordinator is away
            await asyncio.sleep(RETRY.delay_seconds(attempt, unknown.transaction_id))
        return Told(order.name, unknown.transaction_id, "UNKNOWN", unknown.reason.name), False


def _aborted(order: Order, aborted: Aborted) -> Told:
    return Told(order.name, aborted.transaction_id, "ABORTED", aborted.code or aborted.reason.name)


def _place_request(order: Order) -> shop_pb2.PlaceRequest:
    return shop_pb2.PlaceRequest(
        order=order.name,
        customer=order.customer,
        lines=[
            shop_pb2.OrderLine(product=line.product, quantity=line.quantity, unit_price_cents=line.unit_price_cents)
            for line in order.lines
        ],
    )
