"""What the three services share: where they live, a gRPC server of their own, and an orderly end."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import grpc

from participant_sdk import Database, Participant, Tls
from troth import failpoints
from troth.errors import TrothError

DIRECTORY = Path(os.environ.get("SHOP_DIRECTORY", "var/shop"))
COORDINATOR = os.environ.get("SHOP_COORDINATOR", "127.0.0.1:7420")
LISTEN = os.environ.get("SHOP_LISTEN", "127.0.0.1:0")
SAMPLES = Path(__file__).parent
TLS = (
    Tls(os.environ["SHOP_AUTHORITIES"], os.environ["SHOP_CERTIFICATE"], os.environ["SHOP_KEY"])
    if "SHOP_CERTIFICATE" in os.environ
    else None
)
"""Who this service is, where the coordinator wants to know."""


def run(participant: Participant, register: Callable[[grpc.aio.Server], None], seed: Callable[[Database], None] | None) -> None:
    """Serve until SIGTERM. `register` adds the service's own API; `seed` fills an empty database, where it is a file."""
    failpoints.arm_from_environment()  # so that the demo can kill this process at a chosen moment
    try:
        asyncio.run(_serve(participant, register, seed))
    except TrothError as error:
        sys.exit(f"{participant.name}: {error}")


async def _serve(
    participant: Participant, register: Callable[[grpc.aio.Server], None], seed: Callable[[Database], None] | None
) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with participant:
        if seed is not None:
            await participant.local(seed, locks=["seed"], wait_seconds=math.inf)  # a branch in doubt may be in the way
        server = grpc.aio.server(interceptors=participant.interceptors(), options=[("grpc.so_reuseport", 0)])
        register(server)
        port = server.add_insecure_port(LISTEN)
        await server.start()
        _tell(f"127.0.0.1:{port}")
        serving = asyncio.create_task(participant.serve())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        await server.stop(grace=1)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=stop.is_set())


def _tell(address: str) -> None:
    """Write down where this service listens, for whoever started it."""
    temporary = DIRECTORY / "address.new"
    temporary.write_text(address)
    temporary.rename(DIRECTORY / "address")
