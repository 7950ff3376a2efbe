"""How the coordinator is dialled."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest

from troth import channel, forks
from troth.errors import ConfigError


class _Channel:
    closed = 0

    def __init__(self, address: str) -> None:
        self.address = address

    def stream_stream(self, method: str, serializer: Any) -> Any:
        return lambda: (self.address, method, serializer)

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was opened: address, options, and the channel."""
    found: list[Any] = []

    def insecure_channel(address: str, options: Any) -> _Channel:
        found.append((address, dict(options), _Channel(address)))
        return found[-1][2]  # type: ignore[no-any-return]  # the channel of above

    monkeypatch.setattr(grpc.aio, "insecure_channel", insecure_channel)
    monkeypatch.setattr(forks, "_channels_open", 0)
    monkeypatch.setattr(forks, "_generation", 0)
    monkeypatch.setattr(forks, "_channels_inherited", False)
    return found


async def test_the_coordinator_is_dialled_directly(opened: list[Any]) -> None:
    async with channel.dialled("127.0.0.1:7420", "/S/M", str) as connect:
        assert forks._channels_open == 1
        assert connect() == ("127.0.0.1:7420", "/S/M", str)
    ((address, options, made),) = opened
    assert (address, options["grpc.enable_http_proxy"]) == ("127.0.0.1:7420", 0)
    assert made.closed == 1 and forks._channels_open == 0


async def test_a_forked_child_does_not_close_the_channel_of_its_parent(opened: list[Any]) -> None:
    async with channel.dialled("127.0.0.1:7420", "/S/M", str):
        forks._generation = 1
    assert opened[0][2].closed == 0


async def test_nobody_dials_where_grpc_cannot_work(opened: list[Any]) -> None:
    forks._channels_inherited = True
    with pytest.raises(ConfigError):
        async with channel.dialled("127.0.0.1:7420", "/S/M", str):
            raise AssertionError("it was dialled")
    assert not opened


async def test_each_attempt_dials_the_next_of_several_nodes(opened: list[Any]) -> None:
    async with channel.dialled("a:1,b:2", "/S/M", str) as connect:
        assert forks._channels_open == 2
        assert [connect()[0] for _ in range(3)] == ["a:1", "b:2", "a:1"]
    assert [made.closed for _, _, made in opened] == [1, 1]
