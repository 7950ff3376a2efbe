"""`SyncClient`: everything that `Client` does, for code that is not asynchronous.

    client = SyncClient("127.0.0.1:7420")        # at the top of a module: nothing is opened before the first use

    done = client.run(call("payments", "debit", account="a", amount=5))
    with client.transaction() as tx:
        ...

A `Client` lives in the process's background loop; callers wait for it in their own threads, as many as there are. Each process has
its own, opened at its first use: so a worker that was forked goes on with the same object, and is refused clearly where gRPC
cannot work, in a child of a process that had one open when it forked.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from participant_sdk import background
from participant_sdk.background import Background, refuse_in_loop
from participant_sdk.carriers import Carried, SyncCarrier, Uncounted
from participant_sdk.client.client import GRACE_SECONDS, PENDING_MAX, TIMEOUT_SECONDS, Call, Client
from participant_sdk.client.results import Committed
from participant_sdk.client.retry import ATTEMPTS
from participant_sdk.client.transaction import Terms, Transaction, current_transaction, refuse_nesting, saying_last_call, terms_of
from participant_sdk.codec import PayloadCodec
from participant_sdk.frameworks.clients import Http, carry
from troth import forks
from troth.errors import Reason, RequestError, TrothError
from troth.identity.tls import Tls
from troth.v1 import client_pb2, common_pb2


class Opened(NamedTuple):
    """A client that is open, in which process and loop."""

    generation: int
    thread: Background
    client: Client


class SyncClient:
    """Runs transactions at one coordinator, from any number of threads. Arguments, results and errors are those of `Client`.

    It opens itself at its first use in each process. `close` it before the process forks, if it was used by then; the next use
    opens it again. A process that ends closes it; `with SyncClient(...) as client` does so at the end of the block.
    """

    def __init__(
        self, address: str, *, grace_seconds: float = GRACE_SECONDS, pending_max: int = PENDING_MAX, tls: Tls | None = None,
        codec: PayloadCodec | None = None,
    ) -> None:  # fmt: skip
        self._make: Callable[[], Client] = functools.partial(
            Client, address, grace_seconds=grace_seconds, pending_max=pending_max, tls=tls, codec=codec
        )
        self.address = self._make().address
        self._opened: Opened | None = None

    # ---- life

    def __enter__(self) -> SyncClient:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Wait at most `grace_seconds` for the outcomes of what is open, roll back what was not asked to commit, and disconnect."""
        with background.lock:
            opened, self._opened = self._opened, None
            if opened is None or opened.generation != forks.generation():
                return
            try:
                opened.thread.do(opened.client.__aexit__(None, None, None))
            finally:
                background.give_back()

    def _open(self) -> Opened:
        """This process's client. Raises `ConfigError` in a child of a process that had one open when it forked."""
        refuse_in_loop("a SyncClient", "Client there, or asyncio.to_thread")
        opened = self._opened
        if opened is not None and opened.generation == forks.generation():
            return opened
        with background.lock:
            opened = self._opened
            if opened is None or opened.generation != forks.generation():
                opened = self._opened = self._begun()
                background.at_end(self, SyncClient.close)
            return opened

    def _begun(self) -> Opened:
        forks.check_channels()
        client, thread = self._make(), background.take()
        try:
            thread.do(client.__aenter__())
        except BaseException:
            background.give_back()
            raise
        return Opened(forks.generation(), thread, client)

    # ---- transactions

    def run(
        self,
        *calls: Call,
        timeout: float = TIMEOUT_SECONDS,
        key: str | None = None,
        wait: str = "logged",
        first_attempt_ms: int | None = None,
        hold_read_locks: bool = False,
        attempts: int = ATTEMPTS,
    ) -> Committed:
        """Run all operations, everywhere or nowhere: see `Client.run`."""
        _, thread, client = self._open()
        return thread.do(
            client.run(
                *calls, timeout=timeout, key=key, wait=wait, first_attempt_ms=first_attempt_ms, hold_read_locks=hold_read_locks,
                attempts=attempts,
            )
        )  # fmt: skip

    def transaction(
        self,
        *,
        timeout: float = TIMEOUT_SECONDS,
        key: str | None = None,
        wait: str = "logged",
        first_attempt_ms: int | None = None,
        hold_read_locks: bool = False,
        one_call_each: bool = False,
    ) -> SyncTransaction:
        """An interactive transaction, for `with`: see `Client.transaction`."""
        return self._transaction(terms_of(timeout, key, wait, first_attempt_ms, hold_read_locks, one_call_each))

    def _transaction(self, terms: Terms) -> SyncTransaction:
        return SyncTransaction(self, terms)

    def get(
        self,
        transaction_id: str,
        *,
        participants: Sequence[str] = (),
        first_attempt_ms: int | None = None,
        key: str | None = None,
        body_hash: bytes = b"",
        timeout: float = TIMEOUT_SECONDS,
    ) -> Committed:
        """What became of a transaction: see `Client.get`."""
        _, thread, client = self._open()
        return thread.do(
            client.get(
                transaction_id, participants=participants, first_attempt_ms=first_attempt_ms, key=key, body_hash=body_hash,
                timeout=timeout,
            )
        )  # fmt: skip

    def begun(self, terms: Terms) -> tuple[Background, Transaction]:
        """A transaction that has begun, and the loop in which it lives."""
        _, thread, client = self._open()

        async def begin() -> Transaction:
            tx = Transaction(client, client.sessions, terms)
            await tx.begin()
            return tx

        return thread, thread.do(begin())

    # ---- calls inside of a transaction

    def interceptors(self) -> list[SyncCarrier]:
        """For `grpc.intercept_channel(channel, *client.interceptors())`: calls on it take part in the transaction around them.

        In other threads than that of the block they need its context: `contextvars.copy_context().run(...)`.
        """
        return [SyncCarrier(self._around)]

    def carry(self, http: Http) -> Http:
        """Make calls of an `httpx.Client` or a `requests.Session` take part in the transaction around them: see `Client.carry`."""
        return carry(http, self._carried)

    def _carried(self) -> Carried | None:
        tx = self.current_transaction()
        return None if tx is None else tx.carried()[0]

    def _around(self) -> tuple[Carried, Uncounted] | None:
        tx = self.current_transaction()
        return None if tx is None else tx.carried()

    def current_transaction(self) -> SyncTransaction | None:
        """The transaction of this client whose `with` block surrounds the caller."""
        tx = current_transaction()
        face = None if tx is None else tx.face
        return face if isinstance(face, SyncTransaction) and face.client is self else None


class SyncTransaction:
    """One interactive transaction, used as `with client.transaction() as tx`, once; see `Transaction`.

    A normal end of the block commits; an exception aborts and goes on, as the `Aborted` that it tells when it is a call's refusal.
    """

    def __init__(self, client: SyncClient, terms: Terms) -> None:
        self.client = client
        """The client that it belongs to."""
        self._terms = terms
        self._inside: tuple[Background, Transaction] | None = None

    # ---- the block

    def __enter__(self) -> SyncTransaction:
        """Begin. With a key it raises `AlreadyCommitted` when that was used before and its transaction committed."""
        refuse_nesting()
        if self._inside is not None:
            raise RequestError(Reason.INVALID_ARGUMENT, "a transaction is entered once", hint="Make a new one.")
        self._inside = self.client.begun(self._terms)
        tx = self._inside[1]
        tx.face = self
        tx.surround()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        thread, tx = self._begun()
        try:
            thread.do(tx.end(error))
        finally:
            tx.leave()

    def commit(self) -> Committed:
        """Commit, and return the outcome. Raises `Aborted`, `OutcomeUnknown` or `HeuristicOutcome`."""
        thread, tx = self._begun()
        return thread.do(tx.commit())

    def abort(self) -> None:
        """Roll back."""
        thread, tx = self._begun()
        thread.do(tx.abort())

    def last_call(self) -> contextlib.AbstractContextManager[None]:
        """Say that each call made in the block is the last one to its service: see `Transaction.last_call`."""
        return saying_last_call()

    # ---- what it is

    @property
    def transaction_id(self) -> str:
        """Its id; empty before it has begun."""
        return "" if self._inside is None else self._inside[1].transaction_id

    @property
    def first_attempt_ms(self) -> int:
        """Milliseconds since the Unix epoch when the first attempt began."""
        return self._terms.first_attempt_ms

    @property
    def is_active(self) -> bool:
        """Whether work may be done in it, as far as the client knows."""
        return self._inside is not None and self._inside[1].is_active

    @property
    def acknowledged(self) -> dict[str, int]:
        """How many operations of each participant are known to have succeeded."""
        return self._begun()[1].acknowledged

    @property
    def refusal(self) -> TrothError | None:
        """Why the first call failed of which the service said so; see `Transaction.refusal`."""
        return self._begun()[1].refusal

    @property
    def result(self) -> Any:
        """What the transaction came to, for whoever comes with its key again: see `Transaction.result`."""
        return None if self._inside is None else self._inside[1].result

    @result.setter
    def result(self, value: object) -> None:
        self._begun()[1].result = value

    def returned(self, value: object, made_by: bytes) -> None:
        """A function that is the transaction has returned: see `Transaction.returned`."""
        self._begun()[1].returned(value, made_by)

    @property
    def outcome(self) -> Committed | None:
        """How it ended, once it is committed."""
        return None if self._inside is None else self._inside[1].outcome

    # ---- taking part

    def context(self) -> common_pb2.TransactionContext:
        """A context for one call, to carry by hand: see `Transaction.context`."""
        thread, tx = self._begun()

        async def context() -> common_pb2.TransactionContext:
            return tx.context()

        return thread.do(context())

    def acknowledge(self, participant: str | client_pb2.AcknowledgedOperations, operations: int = 1) -> None:
        """Say that so many more operations of a participant succeeded: see `Transaction.acknowledge`."""
        self._begun()[1].acknowledge(participant, operations)

    def carried(self) -> tuple[Carried, Uncounted]:
        """This transaction, for a call that is made in it."""
        tx = self._begun()[1]
        return tx.carried(), tx.uncounted

    def _begun(self) -> tuple[Background, Transaction]:
        refuse_in_loop("a SyncTransaction", "Client there, or asyncio.to_thread")
        if self._inside is None:
            raise RequestError(Reason.INVALID_ARGUMENT, "the transaction has not begun", hint="Use it inside `with`.")
        return self._inside
