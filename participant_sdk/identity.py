"""The SDK's identity log: who this participant is, how often it started, and which coordinators it has listened to.

It stands beside an atomic resource, whose own file holds the branches. The incarnation is durable before the participant
says anything (two processes never share one), and a coordinator's epoch is durable before its Welcome is accepted: after
that no older coordinator of that name is listened to, not even after a restart (DESIGN section 4, rule 9).

The log holds at most a few records: each start writes again what is known and drops the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from participant_sdk.core.coordinators import Coordinators
from participant_sdk.core.starts import Starts
from troth import failpoints
from troth.errors import LogDamaged, Reason
from troth.log.contract import Log, LogIdentity, StoredRecord
from troth.ready import Append
from troth.v1 import record_pb2


class IdentityLog:
    """One participant's identity on `log`, which it has to itself."""

    def __init__(self, participant: str, log: Log, nonce: str = "") -> None:
        self._participant = participant
        self._log = log
        self._coordinators = Coordinators()
        self._starts = Starts()
        self._nonce = nonce
        self._one_at_a_time = asyncio.Lock()
        """The shards of a cell are heard at the same time, and the log has one writer."""
        self.incarnation = 0
        """The newest incarnation: that of this process once it has begun, and before that the last one that did."""
        self._drop_below = 0

    async def open(self) -> LogIdentity:
        """Open the log and read it; nothing is written. Raises `LogError`."""
        identity, records = await self._log.open()
        self._replay(records)
        self._drop_below = records[-1].seq + 1 if records else 0
        return identity

    async def begin(self, position: int) -> None:
        """Begin a new incarnation, durably; the log with the branches was opened at `position`. Raises `LogError`."""
        self.incarnation += 1
        started = self._starts.begin(self._participant, self.incarnation, self._nonce, position)
        known = [_append(seen) for seen in self._coordinators.records()]
        await self._write([Append(record_pb2.ParticipantRecord(incarnation_started=started)), *known], self._drop_below)

    @property
    def starts(self) -> Starts:
        """Every start, the present one last."""
        return self._starts

    @property
    def coordinators(self) -> Coordinators:
        """Which coordinators were followed."""
        return self._coordinators

    async def see(self, said: record_pb2.EpochSeen) -> None:
        """Make durable which life of which coordinator is followed. Raises `RemoteProtocolError` when it is none to follow;
        `LogError`."""
        async with self._one_at_a_time:
            if self._coordinators.check(said):
                await self._write([_append(said)])
                self._coordinators.replay(said)

    async def close(self) -> None:
        """Release the file."""
        await self._log.close()

    async def _write(self, batch: Sequence[Append], drop_below: int = 0) -> None:
        _hit("before-sync", batch)
        await self._log.write(batch, sync=True, drop_below=drop_below)
        _hit("after-sync", batch)

    def _replay(self, records: Sequence[StoredRecord]) -> None:
        for stored in records:
            record = record_pb2.ParticipantRecord()
            try:
                record.ParseFromString(stored.body)
            except DecodeError:
                raise _damaged(stored.seq) from None
            if record.HasField("incarnation_started"):
                self.incarnation = max(self.incarnation, record.incarnation_started.incarnation)
                self._starts.replay(record.incarnation_started)
            elif record.HasField("epoch_seen"):
                self._coordinators.replay(record.epoch_seen)


def _append(seen: record_pb2.EpochSeen) -> Append:
    return Append(record_pb2.ParticipantRecord(epoch_seen=seen))


def _hit(moment: str, batch: Sequence[Append]) -> None:
    """The failpoints that the engine has for its own log."""
    for append in batch if failpoints.armed else ():
        if append.record is not None:
            failpoints.hit("participant", moment, append.record.WhichOneof("kind") or "none")


def _damaged(seq: int) -> LogDamaged:
    return LogDamaged(Reason.LOG_DAMAGED, f"record {seq} of the identity log is no ParticipantRecord")
