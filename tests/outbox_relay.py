"""A relay as a process of its own: `outbox_relay.py DSN FILE`.

It writes each message into the file, a line with its id and body, and hangs at the body `hangs`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from participant_sdk.outbox import Message, Relay, RelayLimits


async def main(dsn: str, file: Path) -> None:
    """Until it is killed."""

    async def deliver(message: Message) -> None:
        with file.open("a") as there:
            there.write(f"{message.id} {message.body.decode()}\n")
        if message.body == b"hangs":
            await asyncio.Event().wait()

    await Relay(dsn, deliver, limits=RelayLimits(deliver_seconds_max=600.0)).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
