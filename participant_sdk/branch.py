"""The branch: one participant's part of an interactive transaction, as the service sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from participant_sdk.context import Scope
from troth.values import encode_arguments

RunCall = Callable[[Scope, str, str, bytes], Awaitable[Any]]
"""Runs one operation: scope, call id, operation's name, arguments. Raises what `Branch.run` raises."""


class Branch:
    """Runs operations in the transaction of one call. Get it from `Participant.branch()`.

    Nothing that it did counts until the client commits; everything is undone when it does not.
    """

    def __init__(
        self, participant: str, scope: Scope, run: RunCall, name_of: Callable[[str | Callable[..., Any]], str]
    ) -> None:
        self._participant = participant
        self._scope = scope
        self._run = run
        self._name_of = name_of

    @property
    def transaction_id(self) -> str:
        """The transaction."""
        return self._scope.context.transaction_id

    async def run(self, operation: str | Callable[..., Any], /, **arguments: object) -> Any:
        """Run an operation, given by its name or as the function itself, and return what it returned.

        Raises `Aborted` when it refused, failed, or met a conflict (`code`, `reason` and `retryable` say which). It left
        nothing behind then: a service that catches this may go on, and one that lets it out tells the client to abort. Raises
        `RequestError` when the operation or the arguments are wrong: nothing has run.

        A repeat of the same call of the service gets the answers of the first time, if its operations come in the same
        order; so run them in an order that does not depend on chance.
        """
        # Everything that can be wrong is looked at before the operation gets a number.
        name = self._name_of(operation)
        encoded = encode_arguments(arguments)
        call_id = self._scope.next_call_id(self._participant)
        value = await self._run(self._scope, call_id, name, encoded)
        self._scope.acknowledged(self._participant)
        return value
