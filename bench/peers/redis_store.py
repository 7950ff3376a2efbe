"""Redis that syncs every write before it answers: a store of peers."""

from __future__ import annotations

import os
from pathlib import Path

import redis.asyncio

from bench.peers.ports import Accepting, free_port
from bench.processes import ProcessFailed
from participant_sdk.testing.servers import libraries


def programs() -> Path | None:
    """Where Redis is; None when it could not be fetched."""
    directory = os.environ.get("TEST_REDIS_BIN", "")
    return Path(directory) if directory else None


class RedisStore(Accepting):
    """A private server; it is ready when it accepts connections."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.port = free_port()
        command = [
            f"LD_LIBRARY_PATH={libraries(programs)}", str(programs / "redis-server"),
            "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "",
        ]  # fmt: skip
        super().__init__("redis", directory, command, "env")

    async def seen(self) -> str:
        """What it says itself of its syncs. Raises `ProcessFailed` where it does not sync each write."""
        async with redis.asyncio.Redis(port=self.port) as client:
            policy = (await client.config_get("appendfsync"))["appendfsync"]
            state = await client.info("persistence")
        if policy != "always" or state["aof_enabled"] != 1 or state["aof_last_write_status"] != "ok":
            raise ProcessFailed(f"Redis does not sync what it answers for: {policy}, {state}")
        size = state["aof_current_size"] / 2**20
        return f"appendfsync {policy}, append-only file of {size:.0f} MiB, whose last write was ok"
