"""How the coordinator is dialled, by clients and by participants.

A cell has several addresses. Each attempt dials the next one, or the node that is known to have the shard; one that refuses says so
at once, so an attempt that does not meet the owner costs next to nothing.

A channel of gRPC keeps the certificates that it was made with. When their files have changed, the next attempt makes another
channel; with files that cannot be used it goes on with the one it has, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from typing import Any

import grpc.aio

from troth import forks
from troth.address import addresses_of
from troth.errors import ConfigError
from troth.identity.tls import Tls
from troth.link import CHANNEL_OPTIONS
from troth.logs import get_logger

_log = get_logger("troth.channel")

Connect = Callable[[], Any]
"""Opens one stream, to the next of the addresses."""


def credentials_of(tls: Tls | None) -> grpc.ChannelCredentials | None:
    """What the files hold now; `None` for no TLS. Raises `ConfigError`."""
    return None if tls is None else tls.channel_credentials()


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """A channel with our options, with TLS if there are credentials."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


@asynccontextmanager
async def dialled(
    addresses: str, method: str, serializer: Any, tls: Tls | None = None, known: Callable[[], str] = lambda: ""
) -> AsyncIterator[Connect]:
    """What opens streams of `method` to HOST:PORT, or to the next of HOST:PORT,HOST:PORT,... ; inside the block.

    `known` tells where a directory has the peer, if it does: that is dialled first, and every other time, since it may be wrong.
    Raises `ConfigError` in a process where gRPC cannot work (`troth.forks`), and for files of TLS that cannot be used.
    """
    async with AsyncExitStack() as stack:
        dials: dict[str, _Dial] = {}

        def dial(address: str) -> _Dial:
            if address not in dials:
                dials[address] = _Dial(address, method, serializer, tls)
                stack.push_async_callback(dials[address].close)
            return dials[address]

        for address in addresses_of(addresses):
            dial(address)
        turn = cycle(addresses_of(addresses))
        last = ""

        def connect() -> Any:
            nonlocal last
            wanted = known()
            last = wanted if wanted and wanted != last else next(turn)
            return dial(last).stream()

        yield connect


class _Dial:
    """The channel to one address: another one once the files of TLS have changed."""

    def __init__(self, address: str, method: str, serializer: Any, tls: Tls | None) -> None:
        self._address, self._method, self._serializer, self._tls = address, method, serializer, tls
        self._stamp = tls.stamp() if tls is not None else ()
        self._closing: set[asyncio.Task[None]] = set()
        self._open = AsyncExitStack()
        self._opens: Any = None
        self._make(self._credentials())

    async def close(self) -> None:
        """Close all channels."""
        await self._open.aclose()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def stream(self) -> Any:
        """One more stream."""
        if self._tls is not None and self._tls.stamp() != self._stamp:
            self._renew(self._tls)
        return self._opens()

    def _credentials(self) -> grpc.ChannelCredentials | None:
        return credentials_of(self._tls)

    def _renew(self, tls: Tls) -> None:
        """The one stream of the old channel is over, or this would not be asked."""
        self._stamp = tls.stamp()
        try:
            credentials = tls.channel_credentials()
        except ConfigError as error:
            _log.warning("new files of TLS cannot be used; the last good ones stay", why=error.message, hint=error.hint)
            return
        closing = asyncio.ensure_future(self._open.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._open = AsyncExitStack()
        self._make(credentials)
        _log.info("new files of TLS are in use", coordinator=self._address)

    def _make(self, credentials: grpc.ChannelCredentials | None) -> None:
        self._open.enter_context(forks.channel_open())
        channel = open_channel(self._address, credentials)
        forks.keep_open(channel)
        self._open.push_async_callback(_close, channel, forks.generation())
        self._opens = channel.stream_stream(self._method, self._serializer)


async def _close(channel: grpc.aio.Channel, generation: int) -> None:
    if forks.generation() == generation:  # in a forked child it is the parent's
        await channel.close()
