"""A start that is refused, by the coordinator or by the participant itself, leaves the participant's logs as they were."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from paper_coordinator import PaperCoordinator

from participant_sdk import LogResource, Participant, SqliteResource
from troth.errors import Reason, RequestError, TrothError

Make = Callable[[], Participant]


pytestmark = pytest.mark.usefixtures("redials_at_once")


@pytest.fixture(params=["sqlite", "log"])
def make(request: pytest.FixtureRequest, tmp_path: Path, coordinator: PaperCoordinator) -> Make:
    def made() -> Participant:
        resource = SqliteResource(tmp_path / "bank.db") if request.param == "sqlite" else LogResource()
        return Participant("bank", resource=resource, data_directory=tmp_path, coordinator=coordinator.address)

    return made


def contents_of(directory: Path) -> dict[str, list[str]]:
    """What the files of a participant hold, row by row."""
    found = {}
    for file in directory.glob("*.db"):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            found[file.name] = list(connection.iterdump())
    return found


async def test_a_start_that_is_refused_leaves_the_logs_as_they_were(
    make: Make, coordinator: PaperCoordinator, tmp_path: Path
) -> None:
    async with make():
        before = (await coordinator.welcomed()).hello
    found = contents_of(tmp_path)
    coordinator.lets_begin = False
    for _ in range(5):  # as a supervisor does
        async with make() as bank:
            stream = await coordinator.accept()
            assert (stream.hello.asks, stream.hello.incarnation, stream.hello.nonce) == (True, before.incarnation + 1, "")
            stream.goodbye("FOREIGN_LOG", retryable=False)
            with pytest.raises(RequestError, match="FOREIGN_LOG: go"):
                await bank.serve()
        assert contents_of(tmp_path) == found
    async with make():
        stream = await coordinator.accept()
        stream.welcome(epoch=0)
        await stream.until_ended()
        coordinator.lets_begin = True
        stream = await coordinator.welcomed()
        assert not stream.hello.asks and stream.hello.incarnation == before.incarnation + 1
        assert len(stream.hello.starts) == 2


async def test_a_coordinator_that_is_refused_is_refused_before_anything_is_written(
    make: Make, coordinator: PaperCoordinator, tmp_path: Path
) -> None:
    async with make():
        await coordinator.welcomed(epoch=7)
    found = contents_of(tmp_path)
    coordinator.lets_begin = False
    async with make():
        for _ in range(2):
            stream = await coordinator.accept()
            stream.welcome(epoch=6)
            await stream.until_ended()
            assert stream.hello.asks
    assert contents_of(tmp_path) == found


@pytest.mark.parametrize("turns", [1, 4, 16, 64])
async def test_who_closes_it_while_it_starts_gives_the_start_up(make: Make, turns: int) -> None:
    """Its log is free again, and nobody has to end what he did not see begin."""
    starting = asyncio.create_task((bank := make()).start())
    for _ in range(turns):
        await asyncio.sleep(0)
    await bank.close()
    (ended,) = await asyncio.gather(starting, return_exceptions=True)
    assert ended is None or (isinstance(ended, TrothError) and ended.reason is Reason.SHUTTING_DOWN)
    async with make():
        pass
