"""`@transactional`: each call of a function is one interactive transaction, tried again when that may help."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from participant_sdk.client import checks
from participant_sdk.client.client import Client
from participant_sdk.client.retry import ATTEMPTS, retried, retried_in_thread
from participant_sdk.client.sync import SyncClient
from troth.errors import Reason, RequestError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@overload
def transactional(
    client: Client, *, attempts: int = ..., timeout: float = ..., key: Callable[..., str] | None = ..., wait: str = ...
) -> Callable[[Callable[Parameters, Awaitable[Result]]], Callable[Parameters, Coroutine[Any, Any, Result]]]:
    """For an `async def`."""


@overload
def transactional(
    client: SyncClient, *, attempts: int = ..., timeout: float = ..., key: Callable[..., str] | None = ..., wait: str = ...
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """For a plain function."""


def transactional(
    client: Client | SyncClient,
    *,
    attempts: int = ATTEMPTS,
    timeout: float = 10.0,
    key: Callable[..., str] | None = None,
    wait: str = "logged",
) -> Any:
    """Make each call of a function one interactive transaction; return what the function returns. With a `Client` it is an
    `async def`, with a `SyncClient` a plain one.

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

    def begun(args: Any, kwargs: Any) -> Callable[[], Any]:
        """Makes the transactions of one call: all with its key, and the time of the first."""
        first_attempt_ms = checks.first_attempt(None)
        text = key(*args, **kwargs) if key is not None else None
        return lambda: client.transaction(timeout=timeout, key=text, wait=wait, first_attempt_ms=first_attempt_ms)

    if isinstance(client, SyncClient):
        return lambda function: _in_thread(function, begun, attempts)
    return lambda function: _in_loop(function, begun, attempts)


def _in_loop(function: Any, begun: Callable[[Any, Any], Callable[[], Any]], attempts: int) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        transaction = begun(args, kwargs)

        async def attempt() -> Any:
            async with transaction():
                return await function(*args, **kwargs)

        return await retried(attempts, attempt)

    return call


def _in_thread(function: Any, begun: Callable[[Any, Any], Callable[[], Any]], attempts: int) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        transaction = begun(args, kwargs)

        def attempt() -> Any:
            with transaction():
                return function(*args, **kwargs)

        return retried_in_thread(attempts, attempt)

    return call
