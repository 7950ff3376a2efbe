"""`@transactional`: each call of a function is one interactive transaction, tried again when that may help."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, ParamSpec, TypeVar, overload

from participant_sdk.client import checks
from participant_sdk.client.client import Client
from participant_sdk.client.kept import maker
from participant_sdk.client.results import AlreadyCommitted
from participant_sdk.client.retry import ATTEMPTS, retried, retried_in_thread
from participant_sdk.client.sync import SyncClient
from troth.errors import OutcomeUnknown, Reason, RequestError
from troth.logs import get_logger

_log = get_logger("participant_sdk.client")

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
    with a key also when its outcome is not known, and then it is told what was committed, if anything was. So it must do nothing
    that a second run would spoil. `current_transaction()` is the transaction inside it.

    `attempts`  how often it runs at most.
    `timeout`   seconds, for each attempt.
    `key`       gives the idempotency key of a call, from the function's own arguments.

    With a key, what the function returns is kept with the commit (`Transaction.result`), if it is a plain value, and whoever calls
    it again with the same key and the same arguments is given that: the function does not run. Anything else (an object of an ORM,
    say) is returned, and not kept, which the log says once; then, and for another function or other arguments under a key that was
    used, the call raises `AlreadyCommitted`. A function that sets `current_transaction().result` leaves that instead.

    Raises what `Client.transaction` and the function raise.
    """
    checks.positive("attempts", attempts)
    checks.timeout_ms(timeout)
    if key is not None and not callable(key):
        raise RequestError(
            Reason.INVALID_KEY,
            "`key` is a function of the call's arguments: one text for all calls would let only the first commit",
        )

    def once(function: Any, args: Any, kwargs: Any) -> _Once:
        """What all attempts of one call have in common: the key, and the time of the first."""
        first_attempt_ms = checks.first_attempt(None)
        text = key(*args, **kwargs) if key is not None else None
        made_by = b"" if text is None else maker(function, args, kwargs)
        return _Once(
            lambda: client.transaction(timeout=timeout, key=text, wait=wait, first_attempt_ms=first_attempt_ms), made_by
        )

    if isinstance(client, SyncClient):
        return lambda function: _in_thread(function, once, attempts)
    return lambda function: _in_loop(function, once, attempts)


class _Once:
    """One call of a decorated function."""

    def __init__(self, transaction: Callable[[], Any], made_by: bytes) -> None:
        self.transaction = transaction
        self.made_by = made_by
        """What tells it from any other call; empty without a key, under which its value could be kept."""
        self._of_another: AlreadyCommitted | OutcomeUnknown | None = None

    @contextlib.contextmanager
    def body(self) -> Iterator[None]:
        """Around the function's body: what that raises is of other transactions, whatever it did with them."""
        try:
            yield
        except (AlreadyCommitted, OutcomeUnknown) as told:
            self._of_another = told
            raise

    def is_asked_again(self, unknown: OutcomeUnknown) -> bool:
        """Whether it is this very call, under a key, of which nothing is known."""
        return bool(self.made_by) and unknown is not self._of_another

    def given_back(self, already: AlreadyCommitted) -> Any:
        """What this very call left under its key; otherwise raises `already`, or what says it better."""
        if already is self._of_another:
            raise already
        return already.given_back(self.made_by)


class _Keeper:
    """Leaves what a function returned under its key, and says once when that cannot be: its caller has the value all the same."""

    def __init__(self, function: Any) -> None:
        self._name = getattr(function, "__qualname__", repr(type(function)))
        self._told = False

    def keep(self, tx: Any, value: object, made_by: bytes) -> None:
        """The function has returned, in a transaction with a key."""
        try:
            tx.returned(value, made_by)
        except RequestError as error:
            if not self._told:
                self._told = True
                _log.warning(
                    "what the function returned is not kept under its key: a repeated call raises AlreadyCommitted",
                    function=self._name, reason=error.reason.name, why=error.message,
                )  # fmt: skip


def _in_loop(function: Any, once: Callable[[Any, Any, Any], _Once], attempts: int) -> Any:
    keeper = _Keeper(function)

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        this = once(function, args, kwargs)

        async def attempt() -> Any:
            async with this.transaction() as tx:
                with this.body():
                    value = await function(*args, **kwargs)
                if this.made_by:
                    keeper.keep(tx, value, this.made_by)
                return value

        try:
            return await retried(attempts, attempt, keyed=this.is_asked_again)
        except AlreadyCommitted as already:
            return this.given_back(already)

    return call


def _in_thread(function: Any, once: Callable[[Any, Any, Any], _Once], attempts: int) -> Any:
    keeper = _Keeper(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        this = once(function, args, kwargs)

        def attempt() -> Any:
            with this.transaction() as tx:
                with this.body():
                    value = function(*args, **kwargs)
                if this.made_by:
                    keeper.keep(tx, value, this.made_by)
                return value

        try:
            return retried_in_thread(attempts, attempt, keyed=this.is_asked_again)
        except AlreadyCommitted as already:
            return this.given_back(already)

    return call
