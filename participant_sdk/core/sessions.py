"""The sessions of a participant: at most one with each coordinator.

A coordinator that is alone replaces whatever was before it. Those of one cell stand beside each other: to each of its shards a
participant has a stream of its own, and nothing of one shard is said to another. What belongs to a coordinator of neither kind
(one that had this place earlier, say, and whose branches are in doubt) is told to the newest session, so that operators of the
coordinator that there is can see it.
"""

from __future__ import annotations

from troth.errors import LocalProtocolError


class Sessions:
    """Streams by coordinator. A stream is a number that grows in one process; 0 is none."""

    def __init__(self) -> None:
        self._streams: dict[str, int] = {}
        self._coordinators: dict[int, str] = {}
        self._last: dict[str, int] = {}
        self._lives: dict[str, str] = {}
        self._cell: frozenset[str] = frozenset()

    def check_newer(self, coordinator: str, stream: int) -> None:
        """Raise `LocalProtocolError` for a stream that does not come after every one that this coordinator has had."""
        last = self._last.get(coordinator, 0)
        if stream <= last or stream in self._coordinators:
            raise LocalProtocolError(f"stream {stream} is not newer than {max(last, stream)}")

    def begin(self, coordinator: str, stream: int, cell: frozenset[str], life: str) -> None:
        """A session stands; what it replaces is over. `life` is what the ids of its transactions begin with."""
        for other in [one for one in self._streams if one == coordinator or one not in cell]:
            self.end(self._streams[other])
        self._cell = cell
        self._last[coordinator] = stream
        self._streams[coordinator] = stream
        self._lives[coordinator] = life
        self._coordinators[stream] = coordinator

    def end(self, stream: int) -> None:
        """A session is over, if it was not already."""
        coordinator = self._coordinators.pop(stream, None)
        if coordinator is not None:
            del self._streams[coordinator]

    def coordinator_of(self, stream: int) -> str | None:
        """Who speaks on a stream; `None` on one that is over."""
        return self._coordinators.get(stream)

    def stands_in_life(self, coordinator: str, transaction_id: str) -> bool:
        """Whether there is a session with the very life of a coordinator that began a transaction."""
        return coordinator in self._streams and transaction_id.startswith(self._lives[coordinator])

    def stream_of(self, coordinator: str) -> int:
        """On which stream what concerns a coordinator's branches is said; 0 for nowhere."""
        stream = self._streams.get(coordinator, 0)
        return stream if stream or coordinator in self._cell else self.newest

    @property
    def streams(self) -> list[int]:
        """Of all sessions, the newest one last."""
        return list(self._coordinators)

    @property
    def newest(self) -> int:
        """The newest session; 0 when there is none."""
        return next(reversed(self._coordinators), 0)
