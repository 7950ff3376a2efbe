"""A coordinator that sends bytes: whatever a test wants on a stream, well formed or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

import grpc
import grpc.aio

METHODS = ("/troth.v1.ParticipantService/Session", "/troth.v1.TransactionService/Connect")


class RawServer(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types for it
    """Answers stream number N with the N-th script; then it says nothing and keeps the stream open, or ends it."""

    def __init__(self, scripts: Sequence[Sequence[bytes]], *, hold_last: bool = True) -> None:
        self._scripts = scripts
        self._hold_last = hold_last
        self._server = grpc.aio.server()
        self.streams = 0
        self._more = asyncio.Condition()
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=None)

    async def has_streams(self, count: int) -> None:
        """Wait until so many streams have been opened."""
        async with self._more:
            await self._more.wait_for(lambda: self.streams >= count)

    def service(self, handler_call_details: Any) -> Any:
        """Every method is the same to it."""
        if handler_call_details.method not in METHODS:
            return None
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        script = self._scripts[min(self.streams, len(self._scripts) - 1)]
        last = self.streams >= len(self._scripts) - 1
        async with self._more:
            self.streams += 1
            self._more.notify_all()
        await anext(aiter(requests))
        for frame in script:
            yield frame
        if last and self._hold_last:
            async for _ in requests:
                pass
