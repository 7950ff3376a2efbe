"""Who began the transaction in which a service is called: asked of the coordinator, once for each transaction."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from participant_sdk.causes import error_of
from troth.cell import coordinator_of
from troth.errors import Aborted, Reason, TrothError
from troth.v1 import common_pb2, participant_pb2

KEPT_MAX = 10_000
"""Answers that are kept: a call that comes again in the same transaction need not ask again."""
ANSWER_SECONDS = 5.0
"""How long the coordinator may take to answer."""

Key = tuple[str, bytes]
Send = Callable[[int, participant_pb2.CallerQuestion], None]
"""Sends a question over a stream; it is dropped when that is gone."""


class Callers:
    """What one participant knows of who began what. One event loop, no locks."""

    def __init__(self, participant: str, send: Send, seconds: float = ANSWER_SECONDS) -> None:
        self._participant, self._send, self._seconds = participant, send, seconds
        self._streams: dict[str, int] = {}
        """The stream that stands, by the coordinator's name."""
        self._answering: set[int] = set()
        """Streams over which this may be asked."""
        self._known: OrderedDict[Key, str] = OrderedDict()
        self._waiting: dict[Key, asyncio.Future[str]] = {}

    async def of(self, context: common_pb2.TransactionContext) -> str:
        """Who began it. Raises `RequestError` (FORBIDDEN) when whoever called does not speak for the transaction, and `Aborted`
        (COORDINATOR_AWAY, or VERSION_MISMATCH where it cannot) when the coordinator does not answer."""
        key = (context.transaction_id, context.proof)
        known = self._known.get(key)
        return await self._ask(key) if known is None else known

    async def _ask(self, key: Key) -> str:
        answer = self._waiting.get(key)
        if answer is None:
            stream = self._streams.get(coordinator_of(key[0]))
            if stream is None:
                raise self._away("the coordinator is away")
            if stream not in self._answering:
                text = "the coordinator does not say who began a transaction: it is of an older version, or holds that back"
                raise Aborted(Reason.VERSION_MISMATCH, text, participant=self._participant)
            answer = self._waiting[key] = asyncio.get_running_loop().create_future()
            self._send(stream, participant_pb2.CallerQuestion(transaction_id=key[0], proof=key[1]))
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise self._away(f"the coordinator has not said within {self._seconds} s who began the transaction") from None
        finally:
            if self._waiting.get(key) is answer:
                del self._waiting[key]  # whoever comes later asks anew; those who wait with us hear of it all the same

    def _away(self, message: str) -> TrothError:
        return Aborted(Reason.COORDINATOR_AWAY, message, participant=self._participant, retryable=True)

    def opened(self, coordinator: str, stream: int, *, answers: bool = True) -> None:
        """A stream stands; `answers` when both sides have the feature."""
        self._streams[coordinator] = stream
        if answers:
            self._answering.add(stream)

    def closed(self, stream: int) -> None:
        """It is gone, and what was asked over it may be lost."""
        self._answering.discard(stream)
        gone = [name for name, one in self._streams.items() if one == stream]
        for name in gone:
            del self._streams[name]
        for key, answer in self._waiting.items():
            if coordinator_of(key[0]) in gone and not answer.done():
                answer.set_exception(self._away("the stream to the coordinator has ended"))

    def heard(self, told: participant_pb2.CallerAnswer) -> None:
        """The coordinator has answered."""
        key = (told.transaction_id, told.proof)
        if not told.HasField("refusal"):
            self._known[key] = told.caller
            if len(self._known) > KEPT_MAX:
                self._known.popitem(last=False)
        answer = self._waiting.get(key)
        if answer is None or answer.done():
            return
        if told.HasField("refusal"):
            answer.set_exception(error_of(told.refusal, wrong=frozenset({Reason.FORBIDDEN})))
        else:
            answer.set_result(told.caller)
