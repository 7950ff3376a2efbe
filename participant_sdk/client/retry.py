"""Retrying what is safe to retry: aborted transactions, of which certainly nothing happened.

Every attempt of one business action carries the time of the first one. That is its age for wait-die (Rosenkrantz, Stearns &
Lewis, TODS 1978): it grows older with each retry, and in the end nobody kills it any more.
`OutcomeUnknown` is never retried: that could do the work twice.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import grpc.aio

from participant_sdk.client import checks
from troth.backoff import Backoff
from troth.errors import Aborted, Reason, RequestError

if TYPE_CHECKING:
    from participant_sdk.client.client import Client
    from participant_sdk.client.transaction import Transaction

RETRY = Backoff(first_seconds=0.02, cap_seconds=2.0)
"""The wait between two attempts."""
ATTEMPTS = 5
"""How often `@transactional` tries when it is not told."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def retried(attempts: int, attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Call `attempt` until it does not abort for a reason that may pass, at most `attempts` times; waits in between."""
    for number in range(attempts - 1):
        try:
            return await attempt()
        except Aborted as aborted:
            if not aborted.retryable:
                raise
            await asyncio.sleep(RETRY.delay_seconds(number, aborted.transaction_id))
    return await attempt()


def transactional(
    client: Client,
    *,
    attempts: int = ATTEMPTS,
    timeout: float = 10.0,
    key: Callable[..., str] | None = None,
    wait: str = "logged",
) -> Callable[[Callable[Parameters, Awaitable[Result]]], Callable[Parameters, Coroutine[Any, Any, Result]]]:
    """Make each call of an `async def` function one interactive transaction; return what the function returns.

    The function runs again, with back-off and the same `first_attempt_ms`, when its transaction aborted and a retry may help;
    so it must do nothing that a second run would spoil. `current_transaction()` is the transaction inside it.

    `attempts`  how often it runs at most.
    `timeout`   seconds, for each attempt.
    `key`       gives the idempotency key of a call, from the function's own arguments.

    Raises what `Client.transaction` and the function raise.
    """
    checks.positive("attempts", attempts)
    checks.timeout_ms(timeout)
    if key is not None and not callable(key):
        raise RequestError(
            Reason.INVALID_KEY,
            "`key` is a function of the call's arguments: one text for all calls would let only the first commit",
        )

    def decorate(function: Callable[Parameters, Awaitable[Result]]) -> Callable[Parameters, Coroutine[Any, Any, Result]]:
        @functools.wraps(function)
        async def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            first_attempt_ms = checks.first_attempt(None)
            text = key(*args, **kwargs) if key is not None else None

            async def attempt() -> Result:
                tx = client.transaction(timeout=timeout, key=text, wait=wait, first_attempt_ms=first_attempt_ms)
                return await _within(tx, lambda: function(*args, **kwargs))

            return await retried(attempts, attempt)

        return call

    return decorate


async def _within(tx: Transaction, body: Callable[[], Awaitable[Result]]) -> Result:
    try:
        async with tx:
            return await body()
    except grpc.aio.AioRpcError as error:
        # A service said why its operation did not happen, and leaving the block rolled everything back: an abort.
        refusal = tx.refusal
        if isinstance(refusal, Aborted) and refusal.retryable:
            raise refusal from error
        raise
