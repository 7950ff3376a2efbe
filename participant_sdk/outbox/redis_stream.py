"""Redis streams as the broker: `Relay(dsn, RedisStream(redis.asyncio.Redis(...)))`.

Each message is one entry of the stream that its topic names, with the fields `id`, `key` and `body`. A server that keeps what it
has acknowledged has `appendonly yes` and `appendfsync always`.
"""

from __future__ import annotations

from typing import Any

from redis import exceptions

from participant_sdk.outbox.message import Message
from participant_sdk.outbox.relay import Away

_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError, exceptions.ReadOnlyError)
"""What a server says that is not there, or not ready: no message is at fault."""


class RedisStream:
    """Adds messages to streams. `redis` is a `redis.asyncio.Redis`, which the service opens and closes."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def __call__(self, message: Message) -> None:
        """Deliver one message. Raises `Away`, or what the server says of this message."""
        fields = {"id": str(message.id), "key": message.key or "", "body": message.body}
        try:
            await self._redis.xadd(message.topic, fields)
        except _AWAY as error:
            raise Away(str(error)) from error
