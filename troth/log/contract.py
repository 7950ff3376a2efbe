"""What a log is.

A log is an append-only sequence of records, each with a *seq* that starts at 1 and has no gaps. It has exactly one writer, who
has the file to himself. `write` is one batch: all of it is durable when it returns, or the log has failed for good. A log
that has failed is never used again (a failed fsync may have lied: Rebello et al., USENIX ATC 2020); the process stops.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import Message

from troth.errors import LogError
from troth.ready import Append, Event


class UncontestedLog:
    """What is the same for every log that nobody else can take over while it is open: a file, a disk in memory."""

    held_until = math.inf
    lost: asyncio.Future[LogError] | None = None
    seal: Callable[[Message], bytes] | None = None

    async def hold(self) -> None:
        """It is ours until it is closed."""


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What is stamped in a log file, and must match at every start."""

    role: str
    """`coordinator`, `participant`, or `resource`."""
    name: str
    """The coordinator's or participant's name."""
    log_id: str
    """Random at creation, 32 hexadecimal digits."""
    format_version: int
    """The version of the file's format."""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One record as the log holds it."""

    seq: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """What became durable."""

    seqs: Sequence[int]
    """Parallel to the batch: the seq of each record, or 0 where there was none or its apply refused."""
    events: Sequence[Event | None]
    """Parallel to the batch: the event of each apply, `None` where there was no apply."""


class Log(Protocol):
    """A durable log.

    A log that can be taken over (`troth.log.owned`) is held for a time only. Past `held_until` its owner says nothing before
    `hold` has returned: a process that was stopped for a minute may no longer be the owner when it goes on.
    """

    held_until: float
    """Monotonic time until which nobody else can have the log; infinite for one that cannot be taken over."""
    lost: asyncio.Future[LogError] | None
    """Done once it is known that the log is somebody else's; `None` where that cannot be."""
    seal: Callable[[Message], bytes] | None
    """Serialises records in place of protobuf, with their payload sealed (`troth.log.sealing`); `None` while nothing is sealed. Set
    by whoever opens the log, before the first `write`."""

    async def hold(self) -> None:
        """Make sure that the log is still ours. Raises `LogError` when it is not, or when nobody can tell."""

    async def open(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        """Lock, check and read the log; create it when it is not there. Raises `LogError`, with a hint what to do."""

    async def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int = 0) -> Written:
        """Append one batch, in order, and drop the records with a seq below `drop_below`.

        With `sync` everything is durable on return; without it the batch is ordered, but may be lost in a crash.
        Raises `LogError`; the log is then unusable.
        """

    async def close(self) -> None:
        """Release the file. A closed log cannot be opened again."""
