"""The contract between a pure core and the world.

A *core* is a synchronous state machine without I/O. The world steps events into it and takes a `Ready` out of it:

- `Ready.effects` may happen now;
- `Ready.appends` are records for the log. What hangs on an append (`effects`, `event`) is released **only once that record
  is durable**. "Persist, then speak" is thereby a data type (compare `msgsAfterAppend` in etcd-raft), not a habit.

While a sync runs the core is stepped on. A core therefore never takes an append for done when it hands it out: it enters a
state of its own for the wait (DECIDING, say), and leaves it on the append's `event`.

Gray & Reuter, "Transaction Processing" (1993), section 9.4 (force-log-at-commit) is the rule that this type carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar, dataclass_transform

from google.protobuf.message import Message

Made = TypeVar("Made")


@dataclass_transform(frozen_default=True)
def frozen(cls: type[Made]) -> type[Made]:
    """A dataclass with slots that is frozen for the type checker alone: for what cores make by the hundred thousand a second.

    To forbid assignments at run time as well doubles the time that making one takes; a named tuple takes as long as that.
    """
    return dataclass(slots=True)(cls)


Event = Any
"""An input of a core: a small frozen dataclass or a generated message, as each core defines."""

Effect = Any
"""An output of a core, carried out by its shell."""


class Instant(NamedTuple):
    """One reading of both clocks."""

    monotonic: float
    """Seconds of a clock that never goes back; the only clock for timers."""
    wall_ms: int
    """Milliseconds since the Unix epoch; may jump, and is used only through `troth.clock.DurableClock`."""


@frozen
class Append:
    """One record for the log, and all that waits for its durability.

    `record`   the record's message; `None` when only `apply` matters.
    `owner`    what the record belongs to (a transaction id, say), for the log's cleaning; see `Core.live_records`.
    `force`    whether a promise hangs on it. An unforced append rides with the next forced one, or goes after a linger.
    `effects`  released once the record is durable.
    `event`    stepped into the core once the record is durable, before anything else happens.
    `patient`  nobody waits for it: though forced, it rides with the next batch, or goes after `engine.PATIENCE_SECONDS`; unforced,
               after `engine.COMPANY_SECONDS`.
    `apply`    work that the log carries out in the same local transaction, in a savepoint of its own. Its result is an event
               that the log returns and that is stepped into the core once durable. If the work refuses, the record and the
               effects of this append are dropped, and the event says so; the rest of the batch goes on. Only logs that
               say so can apply (`participant_sdk.resources.sqlite`).
    """

    record: Message | None
    owner: str = ""
    force: bool = True
    effects: tuple[Effect, ...] = ()
    event: Event | None = None
    apply: Any = None
    patient: bool = False


@dataclass(slots=True)
class Ready:
    """What a core wants from the world since it was last asked."""

    effects: list[Effect] = field(default_factory=list)
    appends: list[Append] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.effects or self.appends)


class Opened(NamedTuple):
    """The log that a core recovers from."""

    log_id: str
    """Random at the log's creation."""
    position: int
    """The seq of its newest record; 0 while it is empty."""
    unreadable: bool = False
    """Whether payload in it is sealed with a key that is not there: a text or bytes, but not what stood there."""


class Core(Protocol):
    """What the engine needs from a core."""

    def recover(self, records: Sequence[bytes], now: Instant, opened: Opened) -> Sequence[str]:
        """Rebuild the state from the log's records, oldest first; called once, before anything else.

        Returns the owner of each record, parallel to `records`.
        """

    def step(self, event: Event, now: Instant) -> None:
        """Take one event. An event that is illegal in the present state raises `troth.errors.ProtocolError`, and
        nothing has changed."""

    def tick(self, now: Instant) -> None:
        """Carry out what is due at `now`."""

    def deadline(self) -> float | None:
        """The monotonic time of the next `tick`, or `None`."""

    def take_ready(self) -> Ready:
        """Hand over, once, all effects and appends since the last call."""

    def live_records(self, owner: str) -> Sequence[Message]:
        """The records that say all that the log must still hold about `owner`; empty when it may be forgotten.

        The cleaner writes them again before it drops the head of the log. They replace every earlier record of the owner.
        They may say what a queued append says; `recover` therefore takes repeats.
        """

    def live_owners(self) -> int:
        """How many owners have live records, for deciding when cleaning pays."""
