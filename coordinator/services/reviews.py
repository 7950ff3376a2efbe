"""Four eyes: what one person asks for, and a second one has to approve before it is done.

Which orders need it is a setting (`reviews`). They wait here, in memory, with what would happen in the words of a dry run; they
expire, and a restart forgets them: then they are asked for again. Whoever has asked cannot approve, so this needs a policy that
says who is who. All of it is in the audit log.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coordinator.shell_settings import ShellSettings
from troth.errors import Reason, RequestError
from troth.identity.peer import Identity
from troth.v1 import admin_pb2

WAITING_MAX = 100
"""Orders that wait in one shard; more are refused until some are decided or have expired."""

_KIND_OF = {
    admin_pb2.ResolveRequest: "resolve", admin_pb2.ReplaceParticipantRequest: "replace",
    admin_pb2.ForgetTransactionRequest: "forget", admin_pb2.AcceptLossRequest: "accept-loss",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Waiting:
    """One order that waits."""

    number: str
    request: Any
    asker: Identity
    would: str
    """What would happen, in words."""
    until: float
    """When it expires, in monotonic seconds."""


class Reviews:
    """The orders of one shard that wait for a second person."""

    def __init__(self, shell: ShellSettings, shard: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._kinds = frozenset(filter(None, (one.strip() for one in shell.reviews.split(","))))
        self._seconds, self._shard, self._clock = shell.review_seconds, shard, clock
        self._waiting: dict[str, Waiting] = {}

    def needed(self, request: Any) -> bool:
        """Whether an order needs a second person. To abort what is undecided contradicts nothing, and needs none."""
        kind = _KIND_OF.get(type(request))
        if kind not in self._kinds:
            return False
        return kind != "resolve" or bool(request.participant) or request.action != admin_pb2.RESOLVE_ACTION_ABORT

    def put(self, request: Any, asker: Identity, would: str) -> Waiting:
        """Let an order wait. Raises `RequestError` (OVERLOADED)."""
        self.all()
        if len(self._waiting) >= WAITING_MAX:
            raise RequestError(Reason.OVERLOADED, f"{WAITING_MAX} orders wait for a second person")
        kept = type(request)()
        kept.CopyFrom(request)
        number = f"{self._shard}-{secrets.token_hex(4)}"
        waiting = self._waiting[number] = Waiting(number, kept, asker, would, self._clock() + self._seconds)
        return waiting

    def all(self) -> list[Waiting]:
        """What waits and has not expired."""
        now = self._clock()
        self._waiting = {number: one for number, one in self._waiting.items() if one.until > now}
        return list(self._waiting.values())

    def seconds_left(self, waiting: Waiting) -> float:
        """How long an order still waits."""
        return waiting.until - self._clock()

    def take(self, number: str, decider: Identity, *, approve: bool) -> Waiting:
        """Take an order that is decided now. Raises `RequestError`: nothing waits under the number, or its own asker approves
        it."""
        self.all()
        waiting = self._waiting.get(number)
        if waiting is None:
            text = f"no order {number[:80]!r} waits: it was decided, has expired, or the coordinator has restarted"
            raise RequestError(Reason.NOT_ACTIVE, text, hint="`troth review list` shows what waits; ask for it again.")
        if approve and (not decider.name or decider.name == waiting.asker.name):
            raise RequestError(Reason.FORBIDDEN, f"{decider} has asked for it: a second person has to approve")
        return self._waiting.pop(number)
