"""The SDK's identity log: who this participant is, how often it started, and which coordinators it has listened to.

It stands beside an atomic resource, whose own file holds the branches. The incarnation is durable before the participant
says anything (two processes never share one), and a coordinator's epoch is durable before its Welcome is accepted: after
that no older coordinator of that name is listened to, not even after a restart (DESIGN section 4, rule 9).

The log holds at most a few records: each start writes again what is known and drops the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from troth import failpoints
from troth.errors import LogDamaged, ProtocolError, Reason
from troth.log.contract import Log, LogIdentity, StoredRecord
from troth.ready import Append
from troth.v1 import record_pb2


class IdentityLog:
    """One participant's identity on `log`, which it has to itself."""

    def __init__(self, participant: str, log: Log) -> None:
        self._participant = participant
        self._log = log
        self._epochs: dict[str, int] = {}
        self.incarnation = 0
        """The incarnation of this process; 0 before `start`."""

    async def start(self) -> LogIdentity:
        """Open the log and begin a new incarnation, durably. Raises `LogError`."""
        identity, records = await self._log.open()
        self._replay(records)
        self.incarnation += 1
        known = [self._epoch_seen(coordinator, epoch) for coordinator, epoch in sorted(self._epochs.items())]
        drop_below = records[-1].seq + 1 if records else 0
        await self._write([self._incarnation_started(), *known], drop_below)
        return identity

    async def see(self, coordinator: str, epoch: int) -> None:
        """Make a coordinator's epoch durable. Raises `ProtocolError` (STALE_EPOCH) when a higher one was seen; `LogError`."""
        seen = self._epochs.get(coordinator, 0)
        if epoch < seen:
            raise stale_epoch(coordinator, epoch, seen)
        if epoch > seen:
            await self._write([self._epoch_seen(coordinator, epoch)])
            self._epochs[coordinator] = epoch

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
            elif record.HasField("epoch_seen"):
                seen = record.epoch_seen
                self._epochs[seen.coordinator] = max(seen.epoch, self._epochs.get(seen.coordinator, 0))

    def _incarnation_started(self) -> Append:
        started = record_pb2.IncarnationStarted(participant=self._participant, incarnation=self.incarnation)
        return Append(record_pb2.ParticipantRecord(incarnation_started=started))

    def _epoch_seen(self, coordinator: str, epoch: int) -> Append:
        seen = record_pb2.EpochSeen(coordinator=coordinator, epoch=epoch)
        return Append(record_pb2.ParticipantRecord(epoch_seen=seen))


def stale_epoch(coordinator: str, epoch: int, seen: int) -> ProtocolError:
    """A coordinator that has been replaced wants to be listened to."""
    return ProtocolError(
        f"coordinator {coordinator} has epoch {epoch}, but epoch {seen} of it was seen", reason=Reason.STALE_EPOCH
    )


def _hit(moment: str, batch: Sequence[Append]) -> None:
    """The failpoints that the engine has for its own log."""
    for append in batch if failpoints.armed else ():
        if append.record is not None:
            failpoints.hit("participant", moment, append.record.WhichOneof("kind") or "none")


def _damaged(seq: int) -> LogDamaged:
    return LogDamaged(Reason.LOG_DAMAGED, f"record {seq} of the identity log is no ParticipantRecord")
