"""Questions that come over a client's stream, and are another shard's: about its transactions, or under its keys.

A client of ours asks each shard on the stream to it. One that knows nothing of shards asks whom it has, and that shard must not
answer: of a key that is not its own it knows nothing, and "aborted" would be said of what was committed elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc

from coordinator.identity.who import CALLER
from coordinator.services import status
from troth.errors import Reason, RequestError, TrothError
from troth.identity.peer import Identity
from troth.v1 import client_pb2, common_pb2

UNDER_WAY_MAX = 1_000
"""Questions of one node that wait for other shards' answers; a further one is told to ask again."""
WAIT_SECONDS = 10.0
"""How long one waits; then it is in doubt, and its client asks again."""

Answered = Callable[[client_pb2.Answer], None]


class OwnCall:
    """In place of a caller's own call: the question is passed on by this node."""

    def invocation_metadata(self) -> None:
        """It comes from nobody who directs it."""

    def time_remaining(self) -> float:
        """How long the other node may take."""
        return WAIT_SECONDS

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """Whatever is wrong there, the question may be asked again."""
        raise RequestError(Reason.COORDINATOR_AWAY, f"{code.name}: {details}")


class Questions:
    """Passes questions on. `shard_of` tells whose a question is, if anybody's, and `ask` asks there."""

    def __init__(
        self, shard_of: Callable[[client_pb2.GetRequest], str],
        ask: Callable[[str, client_pb2.GetRequest], Awaitable[client_pb2.GetResponse]],
    ) -> None:
        self._shard_of = shard_of
        self._ask = ask
        self._under_way: set[asyncio.Task[None]] = set()

    def pass_on(self, shard: str, caller: Identity, request: client_pb2.GetRequest, answered: Answered) -> bool:
        """Whether a question that came to a shard is another one's; then it is answered when that one has answered."""
        name = self._shard_of(request)
        if name in ("", shard):
            return False
        if len(self._under_way) >= UNDER_WAY_MAX:
            error = RequestError(Reason.OVERLOADED, f"{UNDER_WAY_MAX} questions wait for other shards")
            answered(_in_doubt(request, error))
            return True
        task = asyncio.create_task(self._pass_on(name, caller, request, answered), name=f"troth-question-{name}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return True

    async def _pass_on(self, name: str, caller: Identity, request: client_pb2.GetRequest, answered: Answered) -> None:
        CALLER.set(caller)  # of this task: whoever answers asks whether the caller may know
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                answer = (await self._ask(name, request)).answer
        except TrothError as error:
            answer = _in_doubt(request, error)
        except TimeoutError:
            answer = _in_doubt(request, RequestError(Reason.COORDINATOR_AWAY, f"the shard {name} does not answer"))
        answered(answer)


def _in_doubt(request: client_pb2.GetRequest, error: TrothError) -> client_pb2.Answer:
    outcome = common_pb2.OUTCOME_IN_DOUBT
    return client_pb2.Answer(transaction_id=request.transaction_id, outcome=outcome, cause=status.cause_of(error))
