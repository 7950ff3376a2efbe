"""Finishing branches, from any connection to the same database, and telling what became of them.

An absent name proves nothing: the branch may have been finished, never prepared, or its prepare may still land. So whoever does not
find one looks at the table of proofs, and leaves a tombstone where there is no marker. A session that still works for the branch is
ended first, if it does not end by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum

from participant_sdk.resources.contract import Broken, Done, InDoubt, Unreachable

WAIT_SECONDS = 10.0
"""For a connection, and for the server's answer."""
BLOCKED_SECONDS = 5.0
"""Longest look for who waits for prepared branches."""
LOCK_WAIT_SECONDS = 1
"""How long a tombstone waits for the transaction that has the marker."""


class Fate(Enum):
    """What is known for good of a branch that is not prepared."""

    COMMITTED = "its marker is there"
    DEAD = "its tombstone is there"


class BranchFinishers(ABC):
    """Connections that finish branches. `kinds()` are the errors of the database."""

    # ---- what each server does in its own words; all raise the errors of the database

    @abstractmethod
    def kinds(self) -> tuple[type[Exception], ...]:
        """What the driver raises."""

    @abstractmethod
    def why(self, error: Exception) -> str:
        """The server's words in one line."""

    @abstractmethod
    async def open(self) -> None:
        """Begin to connect."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""

    @abstractmethod
    async def finish(self, name: str, *, commit: bool) -> bool:
        """Commit or roll back a prepared branch; returns whether it was prepared, and is finished now."""

    @abstractmethod
    async def fate(self, name: str) -> Fate:
        """What became of a branch that is not prepared, for good. Raises while a session still works for it, and ends that."""

    @abstractmethod
    async def prepared(self, participant: str) -> Sequence[str]:
        """The prepared branches of a participant, or of one slot of it, in this database."""

    @abstractmethod
    async def forget(self, names: Sequence[str]) -> None:
        """Drop the proofs of branches."""

    # ---- what follows; raises nothing

    async def commit(self, name: str) -> Done | Unreachable | Broken:
        """Commit a prepared branch."""
        try:
            if await self.finish(name, commit=True) or await self.fate(name) is Fate.COMMITTED:
                return Done()
        except self.kinds() as error:
            return Unreachable(self.why(error))
        return Broken(f"{name} is not prepared any more, and did not commit: rolled back by hand, or lost by the server")

    async def roll_back(self, name: str) -> Done | Unreachable | Broken:
        """Roll back a branch that may be prepared, may have been, or may still be about to be."""
        try:
            if await self.finish(name, commit=False) or await self.fate(name) is Fate.DEAD:
                return Done()
        except self.kinds() as error:
            return Unreachable(self.why(error))
        return Broken(f"{name} is committed: somebody committed it by hand")

    async def in_doubt(self, participant: str) -> InDoubt | Unreachable:
        """The prepared branches of a participant."""
        try:
            return InDoubt(await self.prepared(participant))
        except self.kinds() as error:
            return Unreachable(self.why(error))
