"""A participant belongs to one process and one event loop; whatever ends its tasks, it does not look alive afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from participant_sdk import Participant, SqliteResource
from participant_sdk.resources.sqlite_file import SqliteFile
from tests.patience import SECONDS
from troth import forks
from troth.errors import ConfigError, Reason, RequestError


def store_in(directory: Path) -> Participant:
    return Participant(
        "store", resource=SqliteResource(directory / "s.db"), data_directory=directory, coordinator="127.0.0.1:1"
    )


async def test_another_loop_is_told_so(tmp_path: Path) -> None:
    async with store_in(tmp_path) as store:
        for work in (lambda: store.read(lambda db: None), store.serve, store.wait_connected):
            with pytest.raises(RequestError, match="another event loop"):
                await asyncio.to_thread(lambda work=work: asyncio.run(work()))
        assert await store.read(lambda db: 1) == 1


async def test_a_child_is_told_so_and_closes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with store_in(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(forks, "_generation", forks.generation() + 1)
            with pytest.raises(RequestError, match="before the process was forked"):
                await store.read(lambda db: None)
            await store.close()
        assert await store.read(lambda db: 1) == 1


async def test_a_participant_does_not_start_where_grpc_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_channels_inherited", True)
    with pytest.raises(ConfigError, match="spawn"):
        await store_in(tmp_path).start()
    assert not (tmp_path / "s.db").exists()


async def test_who_cancels_all_tasks_finds_everything_closed(tmp_path: Path) -> None:
    async with store_in(tmp_path) as store:
        reading = asyncio.create_task(store.read(lambda db: 1))
        await reading
        me = asyncio.current_task()
        for task in asyncio.all_tasks() - {me}:
            task.cancel()
        async with asyncio.timeout(SECONDS):
            with pytest.raises(RequestError) as caught:
                await store.serve()
            assert caught.value.reason is Reason.SHUTTING_DOWN
            with pytest.raises(RequestError):
                await store.read(lambda db: 1)
    SqliteFile(tmp_path / "s.db").close()


async def test_a_resource_that_fails_to_close_keeps_nothing_else_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> None:
        raise OSError("the network is down")

    store = store_in(tmp_path)
    await store.start()
    with monkeypatch.context() as patch:
        patch.setattr(SqliteResource, "close", fail)
        with pytest.raises(OSError, match="network"):
            await store.close()
    await store._setup.resource.close()
    async with store_in(tmp_path) as store:
        assert await store.read(lambda db: 1) == 1
