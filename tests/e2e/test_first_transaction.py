"""Who waits until a participant is connected may run a transaction at once, however the participant comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from processes import Cluster

from participant_sdk import Participant, SqliteResource
from participant_sdk.client import Client, call

SCHEMA = "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY NOT NULL, text TEXT NOT NULL)"
STARTS = 20


async def test_the_first_transaction_after_each_start_commits(shop: Cluster, tmp_path: Path) -> None:
    async with Client(shop.coordinator.address) as client:
        for start in range(STARTS):
            paper = Participant(
                "paper", resource=SqliteResource(tmp_path / "paper.db", schema=SCHEMA), data_directory=tmp_path,
                coordinator=shop.coordinator.address,
            )  # fmt: skip

            @paper.operation
            def note(db: Any, *, text: str) -> int:
                db.execute("INSERT INTO notes (text) VALUES (?)", (text,))
                return int(db.one("SELECT count(*) FROM notes")[0])

            async with paper:
                await paper.wait_connected()
                done = await client.run(call("paper", "note", text="now"), timeout=30.0)
                assert done.results == {"paper": [start + 1]}
