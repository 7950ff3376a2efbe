"""A keyed function of one of whose attempts nothing is known: the next attempt is told, or runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fake_coordinator import COMMITTED, IN_DOUBT, FakeCoordinator, FakeStream

from participant_sdk.client import Client, OutcomeUnknown, SyncClient, transactional
from troth import features
from troth.backoff import Backoff
from troth.errors import Reason
from troth.v1 import client_pb2

HOLDER = "c1.1.9f2c4e1a.9.9"
Decorated = Callable[..., Any]


class Doubtful:
    """Says of a commit that it is in doubt; under the key it is known afterwards, if it was one."""

    def __init__(self, coordinator: FakeCoordinator, *, commits: bool, times: int = 1) -> None:
        self._commits = commits
        self._times = times
        self._kept: bytes | None = None
        coordinator.capabilities = [features.KEY_RESULTS]
        coordinator.handlers["begins"] = self._begin
        coordinator.handlers["commits"] = self._commit

    def _begin(self, stream: FakeStream, begin: client_pb2.BeginRequest) -> None:
        if self._kept is None:
            stream.begun(begin.number)
        else:
            holder = client_pb2.Answer(transaction_id=HOLDER, outcome=COMMITTED, replayed=True, result=self._kept)
            stream.begun(begin.number, holder=holder)

    def _commit(self, stream: FakeStream, commit: client_pb2.CommitRequest) -> None:
        if self._times == 0:
            stream.answer(commit.number)
            return
        self._times -= 1
        if self._commits:
            self._kept = commit.result
        stream.answer(commit.number, IN_DOUBT)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt comes without a wait."""
    monkeypatch.setattr("participant_sdk.client.retry.RETRY", Backoff(0.001, 0.001))


@pytest.fixture(params=["loop", "thread"])
async def calls(request: pytest.FixtureRequest, coordinator: FakeCoordinator) -> Any:
    """Decorates a plain function, for either kind of client, and calls it."""
    if request.param == "loop":
        async with Client(coordinator.address) as client:

            def in_loop(function: Callable[..., Any], **settings: Any) -> Callable[..., Awaitable[Any]]:
                async def as_coroutine(*args: Any) -> Any:
                    return function(*args)

                return transactional(client, **settings)(as_coroutine)

            yield in_loop
        return
    blocking = await asyncio.to_thread(lambda: SyncClient(coordinator.address).__enter__())

    def in_thread(function: Callable[..., Any], **settings: Any) -> Callable[..., Awaitable[Any]]:
        decorated = transactional(blocking, **settings)(function)
        return lambda *args: asyncio.to_thread(decorated, *args)

    yield in_thread
    await asyncio.to_thread(blocking.__exit__, None, None, None)


@pytest.mark.parametrize(("commits", "runs"), [(True, 1), (False, 2)])
async def test_the_next_attempt_is_told_or_runs(coordinator: FakeCoordinator, calls: Decorated, commits: bool, runs: int) -> None:
    Doubtful(coordinator, commits=commits)
    ran: list[str] = []

    def place(order: str) -> int:
        ran.append(order)
        return len(ran)

    assert await calls(place, key=lambda order: f"order-{order}")("o1") == runs
    assert ran == ["o1"] * runs
    begins = [await coordinator.next("begins") for _ in range(2)]
    assert len({(begin.key, begin.first_attempt_ms) for begin in begins}) == 1


async def test_it_is_asked_as_often_as_is_said(coordinator: FakeCoordinator, calls: Decorated) -> None:
    Doubtful(coordinator, commits=False, times=9)
    with pytest.raises(OutcomeUnknown):
        await calls(lambda: None, key=lambda: "k", attempts=3)()
    assert coordinator.arrived("begins") == 3


async def test_without_a_key_it_is_not_run_again(coordinator: FakeCoordinator, calls: Decorated) -> None:
    Doubtful(coordinator, commits=False)
    with pytest.raises(OutcomeUnknown):
        await calls(lambda: None)()
    assert coordinator.arrived("begins") == 1


async def test_nor_for_what_the_body_heard_of_something_else(coordinator: FakeCoordinator, calls: Decorated) -> None:
    def asks() -> None:
        raise OutcomeUnknown(Reason.IN_DOUBT, "of another transaction", transaction_id=HOLDER)

    with pytest.raises(OutcomeUnknown, match="of another"):
        await calls(asks, key=lambda: "k")()
    assert coordinator.arrived("begins") == 1
