"""What a participant was given, and how it reaches files and the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from participant_sdk.cell_session import CellSession
from participant_sdk.core.work import ResourceKind
from participant_sdk.resources.contract import BoundResource
from participant_sdk.resources.log_only import LogResource
from participant_sdk.session import ROLE, Owner
from troth.errors import TrothError
from troth.log.contract import Log
from troth.log.sqlite import SqliteLog
from troth.payload_keys import Keyring


class SessionLike(Protocol):
    """A session, over gRPC or in memory; see `participant_sdk.session.Session`."""

    @property
    def cell(self) -> frozenset[str]:
        """The coordinators of the cell, with each of which there is a stream; empty for one that is alone."""

    def send(self, stream: int, field: str, message: Any, *, patient: bool = False) -> None:
        """Put a message into the next frame; one that is `patient` lets that frame wait for others."""

    def send_reports_complete(self, stream: int) -> None:
        """Mark the end of the reports."""

    def drop(self, stream: int, error: TrothError) -> None:
        """End a stream; another attempt follows."""

    def end(self) -> None:
        """Write what waits, then let `run` return."""

    async def run(self) -> None:
        """Connect, and connect again. Raises the error of a Goodbye that is for good."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """How a participant reaches files and the coordinator; `participant_sdk.testing` has another one."""

    session: Callable[[str, str, Owner], SessionLike] = CellSession
    """Makes the session from the participant's name, the coordinator's address and the owner."""
    log: Callable[[Path, str], Log] = lambda path, name: SqliteLog(path, role=ROLE, name=name)
    """Makes a log in a file, for the participant of a name."""
    slot: Callable[[], int | None] = lambda: None
    """The number of the slot that this process is to have, where it may have no other, and does not visit others by itself."""


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a participant was given."""

    name: str
    resource: Any
    data_directory: Path
    coordinator: str
    limits: dict[str, Any]
    wiring: Wiring
    on_failure: Callable[[TrothError], object] | None = None
    log: Callable[[], Log] | None = None
    """Makes the log, where it is no file in the directory."""
    loosely_coupled: bool = False
    keyring: Keyring | None = None
    """What seals the payload in its log."""


def kind_of(resource: BoundResource) -> ResourceKind:
    """Where a resource's work and outcomes live."""
    if resource.atomic:
        return ResourceKind.ATOMIC
    return resource.kind if isinstance(resource, LogResource) else ResourceKind.EXTERNAL
