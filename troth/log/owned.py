"""A log in a server's database, owned by whoever holds its epoch there (DESIGN, section 8): what is the same for every server.

The model is Temporal's history shard with its range id: one owner, and every write conditional on the owner's number. To claim a
log is to lock its row, raise its epoch, take the lease, and read the records, in one transaction. An append locks the row, shared,
where the epoch is still ours; no row means that somebody has claimed the log since: this owner is *fenced*, has written
nothing, and writes nothing more. So a claim waits for the appends before it, and no append lands after it; what the claim has
read is all that was ever acknowledged.

The lease is for liveness only. It says when another may claim, by the database's clock; nothing is unsafe if it says so too
early. Whoever loses the connection, or does not know what became of a commit, has a failed log (rule 17): claiming it anew tells.

`postgres.py` and `mariadb.py` say this in the words of their servers.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import Message

from troth.errors import LogDamaged, LogError, LogFailed, LogForeign, LogLocked, Reason
from troth.log import batches
from troth.log.contract import LogIdentity, StoredRecord, Written
from troth.logs import get_logger
from troth.ready import Append
from troth.tasks import all_of, is_cancelling

LEASE_SECONDS = 3.0
"""How long a log stays with an owner that says nothing any more, if its connection still stands."""
UNSYNCED_RECORDS_MAX = 10_000
"""Records that may wait for a sync in memory."""
CLAIM_WAIT_SECONDS = 10.0
"""How long a claim waits for the appends before it."""
ANSWER_SECONDS = 5.0
"""How long whoever closes waits for one answer of the server."""

log = get_logger("troth.log")


def owner_name() -> str:
    """What the lease tells people of this process."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"


class Claim(NamedTuple):
    """What a lease is held by. The owner counts as well: behind a failover that lost the end of a store, epochs come again, and
    another process may have the same one."""

    log: int
    """The log's number in the store."""
    epoch: int
    owner: str


class _Connected(ABC):
    """Has a connection, or none."""

    _connection: Any = None
    _hurried = False
    _asking = False
    _silent = False
    """Whether the server did not answer in that time: it is asked nothing more that needs a new connection."""
    _cutting: asyncio.TimerHandle | None = None

    def hurry(self) -> None:
        """Who closes does not wait for long: from now on, what the server does not answer within `ANSWER_SECONDS` fails as if the
        connection were lost. Before that nobody is hurried: a server that was silent for a minute may go on, and we with it."""
        self._hurried = True
        if self._asking and self._cutting is None:
            self._cut_later()

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """The server is asked for something in the block; by one at a time."""
        self._asking = True
        if self._hurried:
            self._cut_later()
        try:
            yield
        finally:
            self._asking = False
            if self._cutting is not None:
                self._cutting.cancel()
                self._cutting = None

    def _cut_later(self) -> None:
        self._cutting = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._cut)

    def _cut(self) -> None:
        self._silent = True
        self._cut_later()  # one that is only being made has a time limit of its own, and then is asked
        if self._connection is not None:
            log.warning("a database does not answer; closing without it", of=self._what(), seconds=ANSWER_SECONDS)
            self._shut(self._connection)

    async def _drop(self) -> None:
        """Let go of the connection, in whatever state it is."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    @abstractmethod
    def _shut(self, connection: Any) -> None:
        """Have whoever waits for the server on this connection see it lost, now."""

    @abstractmethod
    def _what(self) -> str:
        """What has the connection, for people."""


class Leases(_Connected, ABC):
    """Renews the leases of all logs that one process holds, every third of `seconds`, by one statement, on a connection of its own.

    So a node with many shards costs the store no more renewals than one with a single shard, and a renewal never waits for a large
    append. A turn that fails harms nobody: each owner looks again (`hold`) before it says anything too late.
    """

    def __init__(self, dsn: str, seconds: float, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self.seconds = seconds
        """How long after its last word an owner may be replaced."""
        self._holders: set[Holder] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    def add(self, holder: Holder) -> None:
        """Renew its lease from now on."""
        self._holders.add(holder)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._keep(), name=f"troth-lease-{self._name}")

    def discard(self, holder: Holder) -> None:
        """Renew its lease no more."""
        self._holders.discard(holder)

    async def close(self) -> None:
        """Stop renewing, and let go of the connection."""
        await self.rest()
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()
            await asyncio.wait([renewing])
        await self._drop()

    async def rest(self) -> None:
        """Return when the server has answered, or was waited for long enough. No driver is to be cancelled while it waits: some of
        them then ask the same server to forget the question, and wait for that."""
        self.hurry()
        async with self._one_at_a_time:
            pass

    async def _keep(self) -> None:
        while not is_cancelling():  # a driver's wait may have swallowed it, see there
            await asyncio.sleep(self.seconds / 3)
            if self._holders:
                with suppress(LogError):
                    await self.renew()

    async def renew(self) -> None:
        """Renew all leases now, and tell each holder whether it has its log. Raises `LogError` when the store does not tell."""
        asked = time.monotonic()
        holders = {holder.claim: holder for holder in self._holders}
        kept = await self._renewed(list(holders))
        for claim, holder in holders.items():
            if holder not in self._holders:
                continue  # it has given its lease back meanwhile, or was told already
            if claim in kept:
                holder.renewed(asked + self.seconds)
            else:
                self._holders.discard(holder)
                holder.fenced()

    @asynccontextmanager
    async def connected(self, doing: str, what: str = "") -> AsyncIterator[Any]:
        """The connection, made anew if it was lost, for one statement or a few. Raises `LogError` for what goes wrong with it: that
        `what` (the leases) could not be `doing`."""
        async with self._one_at_a_time:
            try:
                with self._asked():
                    if self._connection is None:
                        if self._silent:
                            raise self._away(what, doing)
                        self._connection = await self._connect()
                    yield self._connection
            except self._kinds() as error:
                await self._drop()
                raise self._error(what or f"the lease of {self._name}", error, doing) from error

    def _what(self) -> str:
        return f"the leases of {self._name}"

    def _away(self, what: str, doing: str) -> LogError:
        return LogError(Reason.LOG_AWAY, f"{what or self._what()} could not be {doing}: the server did not answer")

    # ---- what each server does in its own words

    @abstractmethod
    async def _renewed(self, claims: Sequence[Claim]) -> set[Claim]:
        """Renew, and return those that are still held."""

    @abstractmethod
    async def _connect(self) -> Any:
        """A connection."""

    @abstractmethod
    def _kinds(self) -> tuple[type[Exception], ...]:
        """What goes wrong with a connection."""

    @abstractmethod
    def _error(self, what: str, error: Any, doing: str) -> LogError:
        """What went wrong, as the log's error."""


class Holder(Protocol):
    """A log with a lease."""

    @property
    def claim(self) -> Claim:
        """What it holds its lease by."""

    def renewed(self, until: float) -> None:
        """It is held until then, in monotonic time, counted from before the lease was asked for."""

    def fenced(self) -> None:
        """Somebody else has it."""


class OwnedLog(_Connected, ABC):
    """A `troth.log.contract.Log` in the database `dsn`, where `troth store init` has made the log of `name` in the role `role`.

    `dsn`            where the database is, as its server's drivers write it
    `leases`         renews this log's lease, perhaps together with those of other logs of the process
    `shared`         whether the leases outlive this log
    `owner`          what the lease tells people of this process
    `acknowledged`   the highest seq that this process knows to be durable, from an earlier claim; a log that ends before it has
                     lost what was promised, and is refused
    """

    seal: Callable[[Message], bytes] | None = None
    """See `Log`."""
    batch_bytes_max = 64 * 1024 * 1024
    """What one row may hold; a larger batch becomes several, in one transaction."""

    def __init__(
        self, dsn: str, *, role: str, name: str, leases: Leases, shared: bool, acknowledged: int = 0, owner: str = ""
    ) -> None:
        self._dsn = dsn
        self._role = role
        self._name = name
        self._owner = owner or owner_name()
        self._shares_leases = shared
        self._leases = leases
        self._where = f"the log of the {role} {name!r}"
        self._log = 0
        self._epoch = 0
        self._unsynced: list[bytes] = []
        self._drop_below = 0
        self._state = "new"
        self.acknowledged = acknowledged
        """The highest seq that is known to be durable."""
        self.held_until = 0.0
        """See `Log`; on the clock of `time.monotonic`, and counted from before the lease was asked for."""
        self._lost: asyncio.Future[LogError] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[LogError] | None = self._lost
        """Done once this owner knows that it owns the log no longer."""

    # ---- what each server does in its own words; all raise `LogError`

    @abstractmethod
    async def _claimed(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        """Connect, check the server, and claim the log."""

    @abstractmethod
    async def _sent(self, rows: Sequence[dict[str, Any]], drop_below: int) -> bool:
        """Write the rows and the drop of the head in one transaction; returns whether it took effect (not: fenced)."""

    @abstractmethod
    async def _give_back(self) -> None:
        """Give the lease back."""

    # ---- opening

    async def open(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        """See `Log.open`: claims the log. Raises `LogLocked` while another owner has it; `LogForeign` where there is none."""
        assert self._state == "new", f"the log is {self._state}: a log is opened once"
        self._state = "opening"
        try:
            with self._asked():
                identity, records = await self._claimed()
        except BaseException:
            await self._release()
            raise
        self._state = "open"
        self._leases.add(self)
        return identity, records

    def _what(self) -> str:
        return self._where

    def _locked(self, owner: str, seconds: float) -> LogLocked:
        return LogLocked(
            Reason.LOG_LOCKED,
            f"{self._where} is owned by {owner} for another {seconds:.1f} s",
            hint="Stop that process, or wait until its lease has lapsed.",
        )

    def _foreign(self, place: str, there: Sequence[str]) -> LogForeign:
        return LogForeign(
            Reason.LOG_FOREIGN,
            f"the store in {place} has no log of the {self._role} {self._name!r}; it has {', '.join(there) or 'none'}",
            hint=f"Name another store, or make the log: `troth store init --name {self._name}`.",
        )

    def _check_end(self, records: Sequence[StoredRecord]) -> None:
        """Refuse a store that has lost what it had acknowledged: a failover without synchronous replication, a restored backup."""
        last = records[-1].seq if records else 0
        if last < self.acknowledged:
            raise LogDamaged(
                Reason.LOG_DAMAGED,
                f"{self._where} ends at record {last}, but record {self.acknowledged} of it was acknowledged",
                hint="The database went back in time: a failover lost commits, or a backup was restored. Bring back the server "
                "that has them; use synchronous replication.",
            )
        self.acknowledged = last

    # ---- the lease

    @property
    def claim(self) -> Claim:
        """See `Holder`."""
        return Claim(self._log, self._epoch, self._owner)

    def renewed(self, until: float) -> None:
        """See `Holder`."""
        self.held_until = until

    def fenced(self) -> None:
        """See `Holder`."""
        self._lose(self._fenced())

    async def hold(self) -> None:
        """Renew the lease. Raises `LogFailed` (LOG_FENCED) when somebody else has the log, and `LogError` when the store does not
        tell."""
        if not self._lost.done():
            await self._leases.renew()
        if self._lost.done():
            raise self._lost.result()

    def _own(self, **more: Any) -> dict[str, Any]:
        return {"log": self._log, "epoch": self._epoch, **more}

    def _fenced(self) -> LogFailed:
        return LogFailed(
            Reason.LOG_FENCED, f"{self._where} was claimed by another owner; epoch {self._epoch} may write nothing any more"
        )

    def _lose(self, error: LogError) -> None:
        self._state = "failed"
        if not self._lost.done():
            self._lost.set_result(error)

    # ---- writing

    async def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int = 0) -> Written:
        """See `Log.write`. The newest record is never dropped: an empty log would number from 1 again."""
        if self._lost.done():
            raise self._lost.result()
        if self._state != "open":
            raise LogFailed(Reason.LOG_FAILED, f"{self._where} cannot be written: it is {self._state}")
        seqs = self._number(batch)
        last = self.acknowledged + len(self._unsynced)
        self._drop_below = max(self._drop_below, min(drop_below, last))
        if sync or len(self._unsynced) >= UNSYNCED_RECORDS_MAX:
            await self._commit()
        return Written(seqs, [None] * len(seqs))

    def _number(self, batch: Sequence[Append]) -> list[int]:
        seqs: list[int] = []
        for append in batch:
            assert append.apply is None, "this log cannot apply; see participant_sdk.resources"
            if append.record is None:
                seqs.append(0)
                continue
            self._unsynced.append(append.record.SerializeToString() if self.seal is None else self.seal(append.record))
            seqs.append(self.acknowledged + len(self._unsynced))
        return seqs

    async def _commit(self) -> None:
        bodies, self._unsynced = self._unsynced, []
        drop_below, self._drop_below = self._drop_below, 0
        if not (bodies or drop_below):
            return
        writing = asyncio.ensure_future(self._send(bodies, drop_below))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # Whoever is cancelled here cancels nothing.
            await asyncio.wait([writing])
            raise
        self.acknowledged += len(bodies)

    async def _send(self, bodies: list[bytes], drop_below: int) -> None:
        try:
            with self._asked():
                landed = await self._sent(list(self._rows(bodies, drop_below)), drop_below)
        except LogError as error:
            self._lose(error)
            raise
        if not landed:
            self._lose(self._fenced())
            raise self._lost.result()

    def _rows(self, bodies: list[bytes], drop_below: int) -> Iterator[dict[str, Any]]:
        """The rows of a batch: one, unless it is too large for one."""
        first, at = self.acknowledged + 1, 0
        while at < len(bodies):
            end, size = at, 0
            while end < len(bodies) and (end == at or size + len(bodies[end]) <= self.batch_bytes_max):
                size += len(bodies[end]) + 4
                end += 1
            body = batches.pack(bodies[at:end])
            yield self._own(
                first_seq=first + at, records=end - at, drop_below=drop_below, crc=batches.checksum(first + at, body), body=body
            )
            at = end

    # ---- closing

    async def close(self) -> None:
        """See `Log.close`. Unsynced records are written first, and the lease is given back, unless the log has failed."""
        self.hurry()
        try:
            if self._state == "open":
                await self._commit()
                self._leases.discard(self)  # a renewal that finds the lease given back says nothing of another owner
                await self._end()
        finally:
            await self._release()

    async def _end(self) -> None:
        try:
            with self._asked():
                await self._give_back()
        except LogError as error:
            self._lose(error)

    async def _release(self) -> None:
        self._state = "failed" if self._state == "failed" else "closed"
        self._leases.discard(self)
        await all_of(*(() if self._shares_leases else (self._leases.close,)), self._drop)
