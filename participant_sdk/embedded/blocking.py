"""`Embedded.sync`: the same for a service that is not asynchronous. It runs in the background loop, from its first use on."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from participant_sdk.client.sync import Opened, SyncClient, SyncTransaction
from participant_sdk.client.transaction import Terms
from participant_sdk.context import Scope, within
from participant_sdk.embedded.client import NOWHERE

if TYPE_CHECKING:
    from participant_sdk.embedded.service import Embedded


class EmbeddedSyncClient(SyncClient):
    """The client of an `Embedded` in the background; see `SyncClient`."""

    def __init__(self, embedded: Embedded) -> None:
        super().__init__(NOWHERE)
        self._make = embedded.make_client
        self._embedded = embedded

    def start(self) -> None:
        """Recover, and serve, once in this process; the first use does it, if nobody has. Raises what `Embedded.start` raises."""
        self._embedded.start_in_background()

    def _open(self) -> Opened:
        self.start()
        return super()._open()

    def _transaction(self, terms: Terms) -> SyncTransaction:
        return _InsideTransaction(self, terms)


class _InsideTransaction(SyncTransaction):
    """In its block the participants' `branch_sync()` works."""

    def __enter__(self) -> SyncTransaction:
        super().__enter__()
        self._carried, _ = self.carried()
        self._scope = Scope(self._carried.context(), tells=True)
        self._inside_scope = ExitStack()
        self._inside_scope.enter_context(within(self._scope))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._inside_scope.close()
        self._scope.tell(self._carried)
        super().__exit__(kind, error, traceback)
