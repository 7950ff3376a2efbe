"""A cluster in memory: real participants and a real coordinator's core in one process, without ports and without processes.

    async def test_an_order_takes_stock_and_money(tmp_path):
        async with Cluster(lambda: make_bank(tmp_path), lambda: make_stock(tmp_path)) as cluster:
            await cluster.run(call("payments", "debit", account="a", amount=5), call("stock", "take", item="x", count=1))
            assert await cluster["payments"].read(balances) == {"a": 95}

Everything between the author's operations and the wire is the code of production. `crash` and `restart` end and begin a
participant, or the coordinator under the name `COORDINATOR`, at any point of a test.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Self

from coordinator.core import events
from participant_sdk.client.client import GRACE_SECONDS, Call, Client
from participant_sdk.client.results import Asked, Committed, conclude, refusal, unknown
from participant_sdk.context import Scope, entered
from participant_sdk.embedded.client import InProcessClient
from participant_sdk.embedded.coordinator import Gone, away
from participant_sdk.embedded.session import InProcessSession
from participant_sdk.participant import Participant
from participant_sdk.session import ROLE, Owner
from participant_sdk.testing.memory import NAME, MemoryCoordinator
from participant_sdk.wiring import SessionLike, Wiring
from troth.errors import ConfigError, Reason
from troth.keys import INTERACTIVE_HASH, body_hash
from troth.log.contract import Log
from troth.log.memory import Disk, MemoryLog
from troth.v1 import client_pb2, common_pb2

COORDINATOR = NAME
"""The coordinator's name in `crash` and `restart`."""
TIMEOUT_SECONDS = 10.0

MakeParticipant = Callable[[], Participant]


class Cluster:
    """Participants and a coordinator, from `async with` to its end.

    Give it functions that make a participant, each time a new one with a new resource object on the same files: a restart
    calls them again, like a new process. A `Participant` that is given itself cannot be restarted.
    """

    def __init__(self, *participants: MakeParticipant | Participant) -> None:
        self._given = participants
        self._makers: dict[str, MakeParticipant | None] = {}
        self._participants: dict[str, Participant] = {}
        self._disks: dict[tuple[str, str], tuple[Disk, str]] = {}
        self._coordinator = MemoryCoordinator()
        self._wiring = Wiring(session=self._session, log=self._log)

    # ---- life

    async def __aenter__(self) -> Self:
        await self._coordinator.start()
        try:
            for given in self._given:
                await self._add(given)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End everybody."""
        for participant in self._participants.values():
            await participant.close()
        await self._coordinator.stop()

    def __getitem__(self, name: str) -> Participant:
        """The participant of a name, as it lives now."""
        return self._participants[name]

    async def crash(self, name: str) -> None:
        """End a participant, or the coordinator, as a kill does."""
        if name == COORDINATOR:
            await self._coordinator.crash()
        else:
            await self[name].crash()

    async def restart(self, name: str) -> None:
        """Begin a participant, or the coordinator, again, and wait until it has recovered and is connected."""
        if name == COORDINATOR:
            await self._coordinator.start()
            return
        await self.crash(name)
        make = self._makers[name]
        if make is None:
            raise ConfigError(
                f"participant {name} cannot be made again", hint="Give the cluster a function that makes the participant."
            )
        await self._start(make())

    async def _add(self, given: MakeParticipant | Participant) -> None:
        participant = given if isinstance(given, Participant) else given()
        if participant.name in self._makers:
            raise ConfigError(f"there are two participants {participant.name}", hint="Give each a name of its own.")
        self._makers[participant.name] = None if isinstance(given, Participant) else given
        await self._start(participant)

    async def _start(self, participant: Participant) -> None:
        participant.rewire(self._wiring)
        self._participants[participant.name] = participant
        await participant.start()
        if self._coordinator.up.is_set():
            await participant.wait_connected()

    def _session(self, name: str, address: str, owner: Owner) -> SessionLike:
        return InProcessSession(name, owner, self._coordinator)

    def _log(self, path: Path, name: str) -> Log:
        disk, log_id = self._disks.setdefault((name, path.name), (Disk(), secrets.token_hex(16)))
        return MemoryLog(disk, role=ROLE, name=name, log_id=log_id)

    # ---- transactions

    async def run(
        self,
        *calls: Call,
        timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - the coordinator's timeout: it ends the transaction, not the wait
        key: str = "",
        wait: str = "complete",
    ) -> Committed:
        """Run a one-shot transaction, as `Client.run` does, and with the same errors.

        By default it is answered when every participant has done it, so that what follows sees it.
        """
        number, transaction_id = self._next_id()
        request = client_pb2.RunRequest(
            number=number,
            branches=_branches(calls),
            timeout_ms=int(timeout * 1000),
            key=key,
            first_attempt_ms=_now_ms(),
            wait=_wait(wait),
        )
        names = tuple(branch.participant for branch in request.branches)
        asked = Asked(transaction_id, names, request.first_attempt_ms, key, body_hash(request.branches) if key else b"")
        return await self._conclude(number, asked, lambda session: events.Run(session, request))

    @contextlib.asynccontextmanager
    async def transaction(
        self,
        *,
        timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - the coordinator's timeout: it ends the transaction, not the wait
        key: str = "",
    ) -> AsyncIterator[ClusterTransaction]:
        """An interactive transaction: a normal end commits, an exception rolls back. Raises what `Client.transaction` raises."""
        number, transaction_id = self._next_id()
        request = client_pb2.BeginRequest(
            number=number, timeout_ms=int(timeout * 1000), key=key, first_attempt_ms=_now_ms()
        )
        try:
            begun = await self._coordinator.ask(number, lambda session: events.Begin(session, request))
        except Gone:
            raise away() from None
        if begun.HasField("refusal"):
            raise refusal(begun.refusal, transaction_id)
        tx = ClusterTransaction(transaction_id, request.first_attempt_ms)
        asked = Asked(transaction_id, (), request.first_attempt_ms, key, INTERACTIVE_HASH if key else b"")
        try:
            yield tx
        except BaseException:
            with contextlib.suppress(Gone):
                abort = client_pb2.AbortRequest(number=number, transaction_id=transaction_id)
                await self._coordinator.ask(number, lambda session: events.Abort(session, abort))
            raise
        commit = client_pb2.CommitRequest(
            number=number,
            transaction_id=transaction_id,
            acknowledged=tx.acknowledged(),
            wait=common_pb2.WAIT_COMPLETE,
        )
        tx.outcome = await self._conclude(number, asked, lambda session: events.Commit(session, commit))

    def client(self, *, grace_seconds: float = GRACE_SECONDS) -> Client:
        """A production `Client` of the cluster's coordinator, for tests of code that calls transactions:

            async with cluster.client() as client:
                await place_order(client, ...)

        It finds the coordinator again after `crash` and `restart`, and raises what it would raise in production.
        """
        return InProcessClient(self._coordinator, grace_seconds=grace_seconds)

    async def get(self, transaction_id: str, *participants: str, first_attempt_ms: int = 0, key: str = "") -> Committed:
        """Ask what became of a transaction, as `Client.get` does, and with the same errors."""
        asked = Asked(transaction_id, participants, first_attempt_ms, key)
        try:
            return conclude(await self._coordinator.get(client_pb2.GetRequest(**asked._asdict())), asked)
        except Gone:
            raise unknown(Reason.COORDINATOR_AWAY, "the coordinator of the cluster is down", asked) from None

    def _next_id(self) -> tuple[int, str]:
        if not self._coordinator.up.is_set():
            raise away()
        return self._coordinator.next_id()

    async def _conclude(self, number: int, asked: Asked, make_event: Callable[[str], object]) -> Committed:
        try:
            answer = await self._coordinator.ask(number, make_event)
        except Gone:
            raise unknown(Reason.COORDINATOR_AWAY, "the coordinator went away before it answered", asked) from None
        return conclude(answer, asked)


class ClusterTransaction:
    """An interactive transaction of a cluster."""

    def __init__(self, transaction_id: str, first_attempt_ms: int) -> None:
        self.transaction_id = transaction_id
        self.outcome: Committed | None = None
        """Set when the transaction has committed."""
        self._first_attempt_ms = first_attempt_ms
        self._calls = 0
        self._acknowledged: Counter[str] = Counter()

    @contextlib.contextmanager
    def call(self) -> Iterator[Scope]:
        """What runs inside sees the transaction as a service's handler does: `participant.branch()` works.

        It stands for one call of a service; leave it when the service has answered.
        """
        self._calls += 1
        context = common_pb2.TransactionContext(
            transaction_id=self.transaction_id, first_attempt_ms=self._first_attempt_ms, call_id=str(self._calls)
        )
        with entered(context) as scope:
            try:
                yield scope
            finally:
                self._acknowledged.update(scope.counts)

    def acknowledged(self) -> list[client_pb2.AcknowledgedOperations]:
        """What the participants acknowledged in all calls."""
        return [
            client_pb2.AcknowledgedOperations(participant=participant, count=count)
            for participant, count in sorted(self._acknowledged.items())
        ]


def _branches(calls: tuple[Call, ...]) -> list[client_pb2.BranchRequest]:
    branches: dict[str, client_pb2.BranchRequest] = {}
    for call in calls:
        branch = branches.setdefault(call.participant, client_pb2.BranchRequest(participant=call.participant))
        branch.operations.append(call.operation)
    return list(branches.values())


def _wait(wait: str) -> common_pb2.Wait.ValueType:
    return common_pb2.WAIT_COMPLETE if wait == "complete" else common_pb2.WAIT_LOGGED


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
