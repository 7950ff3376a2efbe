"""The starts that a participant's log knows of: what tells the log from an older copy of itself.

A coordinator binds the name to a start: an incarnation and the nonce of its process. A log that was put back does not know the
starts since then, and however often it is started it never will: it counts on from the older one, with other nonces. Beside each
start stands the log's position before it, which is where the one before it ended: so a log that was put back to an earlier moment
of a start that it knows is found out as well.
"""

from __future__ import annotations

from troth.v1 import record_pb2

STARTS_MAX = 256
"""Starts that are kept. Who starts more often than that while the coordinator is away is taken for a copy."""


class Starts:
    """Every start, the present one last."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self.after: list[int] = []
        """The position of the log before each of the newest; earlier software kept none."""

    def replay(self, record: record_pb2.IncarnationStarted) -> None:
        """Take over what the log says."""
        if record.nonce:
            self.known = [*record.earlier, start_of(record.incarnation, record.nonce)]
            self.after = [*record.earlier_after, record.after] if record.positioned else []

    def begin(self, participant: str, incarnation: int, nonce: str, after: int = 0) -> record_pb2.IncarnationStarted:
        """The record of a further start, on a log that stood at a position."""
        earlier, earlier_after = self.known[-(STARTS_MAX - 1) :], self.after[-(STARTS_MAX - 1) :]
        if nonce:
            self.known, self.after = [*earlier, start_of(incarnation, nonce)], [*earlier_after, after]
        return record_pb2.IncarnationStarted(
            participant=participant, incarnation=incarnation, nonce=nonce, earlier=earlier, after=after,
            earlier_after=earlier_after, positioned=True,
        )


def start_of(incarnation: int, nonce: str) -> str:
    """How a start is written."""
    return f"{incarnation}/{nonce}"
