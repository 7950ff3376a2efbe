"""Four eyes: what one person asks for, and a second one has to approve before it is done.

Which orders need it is a setting (`reviews`). They wait in the coordinator's log (`core.waiting`), with what would happen in the
words of a dry run, until they expire. Whoever has asked cannot approve, so this needs a policy that says who is who, and what he
has asked for is decided by the policy once more when it is done. All of it is in the audit log.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from coordinator.core.waiting import WAITING_MAX
from coordinator.services.context import CoordinatorCoreView
from coordinator.shell_settings import ShellSettings
from troth.errors import Reason, RequestError
from troth.identity.peer import Identity
from troth.log.sealing import key_of
from troth.v1 import admin_pb2, record_pb2

_KIND_OF: dict[Any, str] = {
    admin_pb2.ResolveRequest: "resolve", admin_pb2.ReplaceParticipantRequest: "replace",
    admin_pb2.ForgetTransactionRequest: "forget", admin_pb2.AcceptLossRequest: "accept-loss",
}  # fmt: skip
_BY_NAME = {kind.DESCRIPTOR.name: kind for kind in _KIND_OF}


class Reviews:
    """The orders of one shard that wait for a second person. `ask` puts a message to the core."""

    def __init__(
        self, shell: ShellSettings, shard: str, core: CoordinatorCoreView, ask: Callable[[Any], Awaitable[Any]]
    ) -> None:  # fmt: skip
        self._kinds = frozenset(filter(None, (one.strip() for one in shell.reviews.split(","))))
        self._seconds, self._shard, self._core, self._ask = shell.review_seconds, shard, core, ask

    def needed(self, request: Any) -> bool:
        """Whether an order needs a second person. To abort what is undecided contradicts nothing, and needs none."""
        if getattr(request, "review", False):
            return True
        kind = _KIND_OF.get(type(request))
        if kind not in self._kinds:
            return False
        return kind != "resolve" or bool(request.participant) or request.action != admin_pb2.RESOLVE_ACTION_ABORT

    async def put(self, request: Any, asker: Identity, would: str) -> record_pb2.Review:
        """Let an order wait, durably; one that asks for that itself (`review`) waits once. Raises `RequestError` (OVERLOADED)."""
        for one in self.all() if getattr(request, "review", False) else ():
            if one.asker == asker.name and not is_sealed(one) and _what(request_of(one)) == _what(request):
                return one
        waiting = record_pb2.Review(
            review=f"{self._shard}-{secrets.token_hex(4)}", kind=request.DESCRIPTOR.name, request=request.SerializeToString(),
            asker=asker.name, would=would, until_ms=self._core.now_ms + int(self._seconds * 1000),
        )  # fmt: skip
        if not (await self._ask(waiting)).review:
            raise RequestError(Reason.OVERLOADED, f"{WAITING_MAX} orders wait for a second person")
        return waiting

    def all(self) -> Sequence[record_pb2.Review]:
        """What waits and has not expired."""
        return self._core.reviews()

    def seconds_left(self, waiting: record_pb2.Review) -> float:
        """How long an order still waits."""
        return (waiting.until_ms - self._core.now_ms) / 1000

    def find(self, number: str, decider: Identity, *, approve: bool) -> record_pb2.Review:
        """The order that somebody wants to decide. Raises `RequestError`: nothing waits under the number, or its own asker approves
        it."""
        waiting = next((one for one in self.all() if one.review == number), None)
        if waiting is None:
            raise _none_waits(number)
        if approve and (not decider.name or decider.name == waiting.asker):
            raise RequestError(Reason.FORBIDDEN, f"{decider} has asked for it: a second person has to approve")
        return waiting

    async def take(self, number: str) -> None:
        """Take an order, durably, so that nobody else does. Raises `RequestError`: somebody else was first."""
        if not (await self._ask(record_pb2.Review(review=number, over=True))).review:
            raise _none_waits(number)


def is_sealed(waiting: record_pb2.Review) -> bool:
    """Whether nobody knows what was ordered: it is sealed with a payload key that is not there."""
    return bool(key_of(waiting.request))


def request_of(waiting: record_pb2.Review) -> Any:
    """The order itself. Raises `RequestError` (PAYLOAD_KEY_MISSING)."""
    if is_sealed(waiting):
        raise RequestError(Reason.PAYLOAD_KEY_MISSING, f"what {waiting.review} orders is sealed, and its payload key is not there")
    return _BY_NAME[waiting.kind].FromString(waiting.request)


def _none_waits(number: str) -> RequestError:
    text = f"no order {number[:80]!r} waits: it was decided, or has expired"
    return RequestError(Reason.NOT_ACTIVE, text, hint="`troth review list` shows what waits; ask for it again.")


def _what(request: Any) -> tuple[Any, ...]:
    """What is ordered, whatever is said of why."""
    fields = ((field.name, str(value)) for field, value in request.ListFields() if field.name not in ("who", "why", "review"))
    return (type(request), *fields)
