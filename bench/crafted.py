"""Logs as a crash leaves them: decisions that nobody has heard of, and branches that wait for them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from google.protobuf.message import Message

from troth.log.sqlite import SqliteLog
from troth.ready import Append
from troth.v1 import common_pb2, record_pb2
from troth.values import encode_arguments

BATCH = 5000


def names(count: int) -> Iterator[str]:
    """Transaction ids of an earlier epoch."""
    return (f"c1.1.abcdef01.1.{number}" for number in range(1, count + 1))


async def _write(path: Path, role: str, name: str, records: Iterable[Message]) -> str:
    """Make a log; returns its id."""
    log = SqliteLog(path, role=role, name=name)
    identity, _ = await log.open()
    waiting = iter(records)
    while batch := [Append(record) for record in islice(waiting, BATCH)]:
        await log.write(batch, sync=True)
    await log.close()
    return identity.log_id


async def participant_log(path: Path, name: str, owned: Sequence[tuple[str, int]]) -> str:
    """A participant that voted YES in each of the transactions `owned`, with its order; returns the log's id."""
    first_ms = int(time.time() * 1000)
    operation = common_pb2.Operation(name="note", arguments=encode_arguments({"account": 1, "amount": 2}))
    results = common_pb2.Results(values=[common_pb2.Value(integer=2)])

    def records() -> Iterator[Message]:
        started = record_pb2.IncarnationStarted(participant=name, incarnation=1)
        yield record_pb2.ParticipantRecord(incarnation_started=started)
        yield record_pb2.ParticipantRecord(epoch_seen=record_pb2.EpochSeen(coordinator="c1", epoch=1))
        for transaction_id, order in owned:
            work = record_pb2.BranchWork(operations=[operation], results=results, resource_branch=transaction_id)
            prepared = record_pb2.BranchPrepared(
                transaction_id=transaction_id, order=order, incarnation=1, work=work, first_attempt_ms=first_ms
            )
            yield record_pb2.ParticipantRecord(branch_prepared=prepared)

    return await _write(path, "participant", name, records())


async def coordinator_log(path: Path, log_ids: dict[str, str], owed: Iterable[tuple[str, int, int]]) -> None:
    """A coordinator that decided COMMIT for transactions `owed`: the id, which participant owes an answer, its order."""
    at_ms = int(time.time() * 1000)
    participants = list(log_ids)

    def records() -> Iterator[Message]:
        started = record_pb2.EpochStarted(coordinator="c1", epoch=1, nonce="abcdef01")
        yield record_pb2.CoordinatorRecord(at_ms=at_ms, epoch_started=started)
        for name, log_id in log_ids.items():
            bound = record_pb2.ParticipantBound(participant=name, log_id=log_id, incarnation=1)
            yield record_pb2.CoordinatorRecord(at_ms=at_ms, participant_bound=bound)
        for transaction_id, owing, order in owed:
            decided = record_pb2.Decided(
                transaction_id=transaction_id, participants=participants, owing=[owing], orders=[order], first_attempt_ms=at_ms
            )
            yield record_pb2.CoordinatorRecord(at_ms=at_ms, decided=decided)

    await _write(path, "coordinator", "c1", records())
