"""The branch: one participant's part of an interactive transaction, as the service sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any

from participant_sdk.context import Scope
from participant_sdk.pins import Pins
from troth.errors import Reason, RequestError
from troth.v1 import common_pb2
from troth.values import encode_arguments

RunCall = Callable[[Scope, str, str, bytes], Awaitable[Any]]
"""Runs one operation: scope, call id, operation's name, arguments. Raises what `Branch.run` raises."""

AskCaller = Callable[[common_pb2.TransactionContext], Awaitable[str]]
"""Asks the coordinator who began the transaction of a call."""


class Branch:
    """Runs operations in the transaction of one call. Get it from `Participant.branch()`.

        await participant.branch().run("debit", account="a", amount=5)

        async with participant.branch() as db:          # where the resource is a server database
            await db.execute("UPDATE account SET ...")

    Nothing that it did counts until the client commits; everything is undone when it does not. In the block `db` is what
    operations get, under the same rules; an exception that leaves it loses the branch. A call that is repeated by its client cannot
    run its block again: that is `Aborted` (OPERATION_COUNT), and the transaction is tried again as a whole.
    """

    def __init__(
        self, participant: str, incarnation: int, scope: Scope, run: RunCall, name_of: Callable[[str | Callable[..., Any]], str],
        ask_caller: AskCaller, pins: Pins | None = None,
    ) -> None:  # fmt: skip
        self._participant = participant
        self._incarnation = incarnation
        self._scope = scope
        self._run = run
        self._name_of = name_of
        self._ask_caller = ask_caller
        self._pins = pins
        self._block: AbstractAsyncContextManager[Any] | None = None

    @property
    def pins(self) -> Pins:
        """Where its blocks get their connections. Raises `RequestError` when its resource has none to give."""
        if self._pins is None:
            raise RequestError(
                Reason.INVALID_ARGUMENT, f"the resource of {self._participant} has no connection to give to a block",
                hint="Write an operation, and call it with branch().run().",
            )  # fmt: skip
        return self._pins

    async def __aenter__(self) -> Any:
        self._block = self.pins.block(self.run)
        return await self._block.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._block is not None, "the block was not entered"
        return await self._block.__aexit__(kind, error, traceback)

    @property
    def transaction_id(self) -> str:
        """The transaction."""
        return self._scope.context.transaction_id

    async def caller(self) -> str:
        """The identity that began the transaction, such as `spiffe://example.org/web`; empty where the coordinator has no policy.

            branch = participant.branch()
            if await branch.caller() != "spiffe://example.org/web":
                raise Refuse("NOT_YOU")
            await branch.run("debit", account="a", amount=5)

        The coordinator is asked, once for each transaction. From then on `current_caller()` says it too, in this call of the
        service and in the operations that it runs. Raises `RequestError` (FORBIDDEN) when whoever called does not speak for the
        client that began the transaction, or that may not have this participant work, and `Aborted` (COORDINATOR_AWAY).
        """
        self._scope.caller = await self._ask_caller(self._scope.context)
        return self._scope.caller

    async def run(self, operation: str | Callable[..., Any], /, **arguments: object) -> Any:
        """Run an operation, given by its name or as the function itself, and return what it returned.

        Raises `Aborted` when it refused, failed, or met a conflict (`code`, `reason` and `retryable` say which). It left
        nothing behind then: a service that catches this may go on, and one that lets it out tells the client to abort. Raises
        `RequestError` when the operation or the arguments are wrong, or the call has been answered (NO_CONTEXT): nothing has run.

        A repeat of the same call of the service gets the answers of the first time, if its operations come in the same
        order; so run them in an order that does not depend on chance.
        """
        # Everything that can be wrong is looked at before the operation gets a number.
        name = self._name_of(operation)
        encoded = encode_arguments(arguments)
        self._scope.work.begins()
        call_id = self._scope.next_call_id(self._participant)
        try:
            value = await self._run(self._scope, call_id, name, encoded)
        except BaseException:
            # It may have a branch all the same, which holds locks: an abort must find it.
            self._scope.acknowledged(self._participant, 0, self._incarnation)
            raise
        finally:
            self._scope.work.ends()
        self._scope.acknowledged(self._participant, 1, self._incarnation)
        return value


class SyncBranch:
    """The same for a handler that runs in a thread. Get it from `Participant.branch_sync()`.

        with participant.branch_sync() as db:
            db.execute("UPDATE account SET ...")

        participant.branch_sync().run("debit", account="a", amount=5)
    """

    def __init__(self, branch: Branch, loop: asyncio.AbstractEventLoop) -> None:
        self._branch = branch
        self._loop = loop
        self._block: AbstractContextManager[Any] | None = None

    def __enter__(self) -> Any:
        self._block = self._branch.pins.block_sync(self._branch.run, self._loop)
        return self._block.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._block is not None, "the block was not entered"
        return self._block.__exit__(kind, error, traceback)

    def caller(self) -> str:
        """Who began the transaction: see `Branch.caller`."""
        return asyncio.run_coroutine_threadsafe(self._branch.caller(), self._loop).result()

    def run(self, operation: str | Callable[..., Any], /, **arguments: object) -> Any:
        """Run an operation, and wait: see `Branch.run`."""
        return asyncio.run_coroutine_threadsafe(self._branch.run(operation, **arguments), self._loop).result()
