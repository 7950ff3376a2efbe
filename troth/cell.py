"""A cell: one coordinator's work, divided among a fixed number of shards.

A shard is a whole coordinator: it has a name, and with it its own log, epochs, keys and timers. So the id of a transaction tells
its shard, and nothing in the protocol knows of cells. A key belongs to one shard of the cell, whoever is asked: thus *at most one
commit per key* needs no agreement between shards. The number of shards never changes, or keys would move.

Of where a shard is, everybody has an opinion (a directory), and nobody needs a right one: whoever is dialled says whether it
has the shard, and the store says who may write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from troth.errors import ConfigError
from troth.ids import NAME_BYTES_MAX, NAME_PATTERN
from troth.v1 import common_pb2

SHARDS_DEFAULT = 16
"""Shards of a cell that is made without saying how many: a power of two, and as many as nodes that a cell may sensibly grow to."""
SHARDS_MAX = 1_000
HASH_BYTES = 8
"""Of the SHA-256 of a key, the first so many tell its shard."""


def shard_names(cell: str, shards: int) -> Sequence[str]:
    """The names of a cell's shards, in order. A cell of one shard is a coordinator of the cell's own name.

    Raises `ConfigError` for a name that leaves no room for a number, and for a number of shards that cannot be.
    """
    if not 1 <= shards <= SHARDS_MAX:
        raise ConfigError(f"{shards} shards cannot be: a cell has 1 to {SHARDS_MAX}")
    if shards == 1:
        return (cell,)
    digits = max(2, len(str(shards - 1)))
    names = tuple(f"{cell}-{number:0{digits}}" for number in range(shards))
    if not NAME_PATTERN.match(names[-1]):
        raise ConfigError(f"{cell!r} cannot be a cell's name: with a shard's number it is longer than {NAME_BYTES_MAX}, or no name")
    return names


def shard_of_key(key: str, shards: int) -> int:
    """The number of the shard that an idempotency key belongs to: the first eight bytes of the SHA-256 of its UTF-8, most
    significant first, modulo the number of shards."""
    if shards == 1:
        return 0
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:HASH_BYTES], "big") % shards


def coordinator_of(transaction_id: str) -> str:
    """The name of the shard that began a transaction; whatever stands before the first dot of what is no id."""
    return transaction_id.partition(".")[0]


class Places:
    """What is known of where the shards of a cell are: a directory, made of all that came. Empty before the first one came."""

    def __init__(self) -> None:
        self.cell = ""
        self._places: dict[str, common_pb2.ShardPlace] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def names(self) -> Sequence[str]:
        """The shards, in order."""
        return list(self._places)

    def learn(self, directory: common_pb2.Directory) -> bool:
        """Take over what is news of each shard: a newer claim, or a later moment of the same. Returns whether anything has changed.

        A directory of another cell, or of another number of shards, is none of ours: it changes nothing.
        """
        said = {place.coordinator: place for place in directory.shards}
        if self._places and (directory.cell != self.cell or said.keys() != self._places.keys()):
            return False
        news = {name: place for name, place in said.items() if self._is_news(place)}
        if not self._places:
            self.cell = directory.cell
        self._places.update(news)
        return bool(news)

    def _is_news(self, place: common_pb2.ShardPlace) -> bool:
        known = self._places.get(place.coordinator)
        return known is None or _moment(place) > _moment(known)

    def place(self, coordinator: str) -> common_pb2.ShardPlace | None:
        """Where a shard is; `None` for what is no shard of this cell."""
        return self._places.get(coordinator)

    def address(self, coordinator: str) -> str:
        """Where a shard is dialled; empty when that is not known."""
        place = self._places.get(coordinator)
        return "" if place is None else place.address

    def of_key(self, key: str) -> str:
        """The shard of a key; empty before the first directory came."""
        return self.names[shard_of_key(key, len(self._places))] if self._places else ""

    def directory(self) -> common_pb2.Directory:
        """All of it, to be told to others."""
        return common_pb2.Directory(cell=self.cell, shards=self._places.values())


def _moment(place: common_pb2.ShardPlace) -> tuple[int, int]:
    """When a place was true: within one claim a shard is had, then given away, then free."""
    return place.claim, 2 if not place.address else int(place.leaving)


def staying(places: Iterable[common_pb2.ShardPlace]) -> list[common_pb2.ShardPlace]:
    """Those that somebody has and keeps: where new work goes that any shard may do."""
    return [place for place in places if place.address and not place.leaving]


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """One node, as the store has it."""

    name: str
    address: str
    draining: bool
    """It gives everything away, and takes nothing."""
    lives: bool
    lease_seconds: float
    """How long it counts as living when it says nothing more; negative when that has passed."""
    canary: float = 1.0
    """The part of the shards that it takes at most; 1 for as many as the others."""
    features: Collection[str] = ()
    """What it uses of what an older version does not know (`troth.features`); nothing, as far as one of an older version tells."""
    settings: str = ""
    """Of the settings on which nodes agree, what tells them apart (`coordinator.cell.agreeing`); empty from older software."""


@dataclass(frozen=True, slots=True)
class ShardSeen:
    """One shard, as the store has it."""

    name: str
    owner: str
    """The node that has it, or had it last; empty when it was given back."""
    held: bool
    """Whether its owner's lease stands: nobody else may claim it."""
    claim: int
    """How often it was claimed: the epoch of its log."""
    leaving: bool
    """Its owner gives it away."""
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class CellSeen:
    """A cell at one moment."""

    nodes: tuple[NodeSeen, ...]
    shards: tuple[ShardSeen, ...]
    """In the order of their numbers."""
