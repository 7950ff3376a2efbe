"""How many may be inside at once, and who is refused: calls, and watches.

gRPC has limits of its own, but what it says past them is a bare CANCELLED, or RESOURCE_EXHAUSTED without a word on when to come
back. So all calls are let in, and are refused here with a reason, before anything is kept for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from coordinator.shell_settings import ShellSettings
from troth.errors import Reason, RequestError

OPERATORS_CALLS_MAX = 1_000
"""Calls at once of the services that are there for operators and their machines. They have a place of their own, so that a crowd
cannot hide itself from who looks for it."""
PUBLIC_CALLS_MAX = 1_000
"""Calls at once that anybody may make, whoever he is: about the health, and of reflection. So they must not take the places of
operators."""

Place = tuple[str, int, str]
"""A place's name, how many it is for, and what it is called."""


class Crowd:
    """Places by name, each with a limit. Who leaves gives back exactly what was taken."""

    def __init__(self) -> None:
        self._inside: Counter[str] = Counter()

    def inside(self, name: str) -> int:
        """How many are inside."""
        return self._inside[name]

    def fullest(self, prefix: str) -> int:
        """How many are inside the fullest of the places whose names begin so."""
        return max((inside for name, inside in self._inside.items() if name.startswith(prefix)), default=0)

    def __len__(self) -> int:
        return len(self._inside)

    def enter(self, name: str, limit: int, what: str, *, by_caller: bool = False) -> None:
        """Take a place; raises `RequestError` (OVERLOADED) when there is none left, and nothing has changed. `by_caller`: it is one
        of the caller's own places."""
        if self._inside[name] >= limit:
            if not self._inside[name]:
                del self._inside[name]
            raise RequestError(Reason.OVERLOADED, f"{limit} {what} at once are allowed", by_caller=by_caller)
        self._inside[name] += 1

    def leave(self, name: str) -> None:
        """Give a place back."""
        self._inside[name] -= 1
        if not self._inside[name]:
            del self._inside[name]

    @contextmanager
    def places(self, wanted: Iterable[Place], *, by_caller: bool = False) -> Iterator[None]:
        """Hold several places, or none."""
        taken: list[str] = []
        try:
            for name, limit, what in wanted:
                self.enter(name, limit, what, by_caller=by_caller)
                taken.append(name)
            yield
        finally:
            for name in taken:
                self.leave(name)


class Calls:
    """The calls that are open, by kind."""

    def __init__(self, settings: ShellSettings) -> None:
        self._settings = settings
        self.crowd = Crowd()
        self._connections: dict[str, Counter[str]] = {}
        """Of each identity, the calls over each of its connections."""

    def use(self, settings: ShellSettings) -> None:
        """Have other limits from now on; who is inside stays."""
        self._settings = settings

    def one(self, method: str, *, waits: bool) -> AbstractContextManager[None]:
        """One call of a method, from its first moment to its last; `waits` unless it is a stream of many transactions."""
        settings = self._settings
        if not method.startswith("/troth.v1."):
            return self.crowd.places([("public", PUBLIC_CALLS_MAX, "questions about the health and by reflection")])
        if not method.startswith(("/troth.v1.TransactionService/", "/troth.v1.ParticipantService/")):
            return self.crowd.places([("operators", OPERATORS_CALLS_MAX, "calls of operators")])
        places = [("calls", settings.calls_max, "calls and streams (calls_max)")]
        if waits:
            places.append(("unary", settings.unary_calls_max, "unary calls (unary_calls_max)"))
        return self.crowd.places(places)

    @contextmanager
    def by(self, identity: str, peer: str) -> Iterator[None]:
        """One call of an identity over a connection; nobody's calls are counted together with all others only. Raises
        `RequestError` (OVERLOADED)."""
        if not identity:
            yield
            return
        place = (f"by {identity}", self._settings.identity_calls_max, "calls and streams of one identity (identity_calls_max)")
        with self._over(identity, peer), self.crowd.places([place], by_caller=True):
            yield

    @contextmanager
    def _over(self, identity: str, peer: str) -> Iterator[None]:
        connections = self._connections.setdefault(identity, Counter())
        limit = self._settings.identity_connections_max
        if peer not in connections and len(connections) >= limit:
            text = f"{limit} connections of one identity (identity_connections_max) are allowed"
            raise RequestError(Reason.OVERLOADED, text, by_caller=True)
        connections[peer] += 1
        try:
            yield
        finally:
            connections[peer] -= 1
            if not connections[peer]:
                del connections[peer]
            if not connections:
                del self._connections[identity]

    def fill(self) -> dict[str, int]:
        """How many there are, by the setting that limits them; of the identity that has most."""
        return {
            "calls_max": self.crowd.inside("calls"), "unary_calls_max": self.crowd.inside("unary"),
            "identity_calls_max": self.crowd.fullest("by "),
            "identity_connections_max": max(map(len, self._connections.values()), default=0),
        }  # fmt: skip


class Watches:
    """The watches that are open: of all, over each connection, and of each transaction.

    The end of a transaction is told to its watchers in one piece, so their number bounds how long everybody else waits for that.
    """

    def __init__(self, settings: ShellSettings) -> None:
        self._settings = settings
        self.crowd = Crowd()

    def use(self, settings: ShellSettings) -> None:
        """Have other limits from now on; who watches goes on."""
        self._settings = settings

    def one(self, peer: str, transaction_id: str) -> AbstractContextManager[None]:
        """One watch, from its first moment to its last."""
        settings = self._settings
        return self.crowd.places((
            ("all", settings.watches_max, "watches (watches_max)"),
            (f"over {peer}", settings.connection_watches_max, "watches over one connection (connection_watches_max)"),
            (f"of {transaction_id}", settings.transaction_watches_max, "watches of one transaction (transaction_watches_max)"),
        ))  # fmt: skip

    def fill(self) -> dict[str, int]:
        """How many there are, by the setting that limits them; over the connection, and of the transaction, that has most."""
        return {
            "watches_max": self.crowd.inside("all"),
            "connection_watches_max": self.crowd.fullest("over "),
            "transaction_watches_max": self.crowd.fullest("of "),
        }
