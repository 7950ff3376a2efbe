"""Prescriptions that the coordinator does not read: a participant and its client with one codec, against any coordinator.

troth serve                                      # in another terminal
python examples/opaque/main.py 127.0.0.1:7420
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from siv import KEY_BYTES, SivCodec

from participant_sdk import Database, Participant, PayloadCodec, SqliteResource
from participant_sdk.client import Client, Committed, call

SCHEMA = "CREATE TABLE IF NOT EXISTS prescriptions (id INTEGER PRIMARY KEY, patient TEXT NOT NULL, drug TEXT NOT NULL)"


def make_pharmacy(directory: Path, coordinator: str, codec: PayloadCodec) -> Participant:
    """The service. Operations know nothing of the codec."""
    directory.mkdir(parents=True, exist_ok=True)
    pharmacy = Participant(
        "pharmacy", resource=SqliteResource(directory / "pharmacy.db", schema=SCHEMA), data_directory=directory,
        coordinator=coordinator, codec=codec,
    )  # fmt: skip

    @pharmacy.operation
    def prescribe(db: Database, *, patient: str, drug: str) -> str:
        db.execute("INSERT INTO prescriptions (patient, drug) VALUES (?, ?)", (patient, drug))
        return f"{drug} for {patient}"

    return pharmacy


async def run(directory: Path, coordinator: str, codec: PayloadCodec) -> Committed:
    """Prescribe something, under an idempotency key."""
    async with make_pharmacy(directory, coordinator, codec) as pharmacy, Client(coordinator, codec=codec) as client:
        await pharmacy.wait_connected()
        return await client.run(call("pharmacy", "prescribe", patient="Ada", drug="aspirin"), key="prescription-1")


if __name__ == "__main__":
    # A real service reads the keys of both sides from a secret: SivCodec.parse(Path("/run/secrets/payload").read_text()).
    key = SivCodec({"2026-11": bytes(range(KEY_BYTES))})
    done = asyncio.run(run(Path("var/pharmacy"), sys.argv[1], key))
    sys.stdout.write(f"{done.transaction_id} {'answered as before' if done.replayed else done.results}\n")
