"""How full limits are: all that fill up are told, with what is in use, and the log warns before one is reached."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
import pytest
from shell_harness import FakeParticipant, ScriptedCore

from coordinator.memory import usable_bytes
from coordinator.server import Daemon
from coordinator.services import fills
from coordinator.shell_settings import RANGES
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc

OF_ONE_REQUEST = {
    "participants_max", "operations_max", "payload_bytes_max", "key_bytes_max", "timeout_ms_max", "frame_bytes_max",
    "frame_messages_max",
}  # fmt: skip
"""Limits of what one request or message may be: these do not fill up."""
OF_THE_HISTORY = {"history_rows_max", "history_bytes_max"}
"""It is full for ever, and forgets the oldest: nothing to warn of."""
OF_GRPC = {"connections_max", "connection_calls_max"}
"""gRPC keeps these, and tells nobody how many there are; connections show as open files."""


async def status(channel: grpc.aio.Channel) -> dict[str, tuple[int, int]]:
    """What is told of each limit: used, and allowed."""
    response = await admin_pb2_grpc.AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
    return {one.limit: (one.used, one.max) for one in response.fills}


async def test_every_limit_that_fills_up_is_told(channel: grpc.aio.Channel) -> None:
    settings = {name for name in RANGES if name.endswith("_max")}
    assert set(await status(channel)) == settings - OF_ONE_REQUEST - OF_THE_HISTORY - OF_GRPC | {fills.FILES}


async def test_what_is_in_use_is_told(daemon: Daemon, channel: grpc.aio.Channel) -> None:
    participant = FakeParticipant(channel)
    await participant.greet("payments")
    stub = client_pb2_grpc.TransactionServiceStub(channel)
    begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=60_000, key="k", first_attempt_ms=daemon._context.now_ms()))
    watch = stub.Watch(client_pb2.WatchRequest(transaction_id=begun.transaction_id))
    await watch.read()
    told = await status(channel)
    one = {
        "open_transactions_max", "keys_max", "known_participants_max", "watches_max", "connection_watches_max",
        "transaction_watches_max", "unary_calls_max",
    }  # fmt: skip
    assert {name for name, (used, _) in told.items() if used == 1} == one
    assert told["calls_max"][0] == 2  # the participant's stream, and the watch
    assert told["keys_max"][1] == daemon.config.core.keys_max
    assert told[fills.FILES][0] > 3
    watch.cancel()
    await stub.Abort(client_pb2.AbortRequest(transaction_id=begun.transaction_id))
    participant.leave()
    assert (await status(channel))["open_transactions_max"][0] == 0


def told_by(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, int]]:
    return [(line.levelname, line.fields["limit"], line.fields["percent"]) for line in caplog.records]  # type: ignore[attr-defined]  # what troth.logs adds


async def test_the_log_warns_once_of_a_limit_that_is_nearly_reached(daemon: Daemon, caplog: Any, monkeypatch: Any) -> None:
    used = iter([79, 80, 95, 75, 81, 69, 80])

    def fill() -> dict[str, int]:
        return {"questions_max": next(used) * daemon.config.core.questions_max // 100}

    async def sleep(_: float) -> None:
        if next(turns, None) is None:
            raise asyncio.CancelledError

    turns = iter(range(6))
    monkeypatch.setattr(type(daemon._context.core), "fill", lambda self: fill())
    with caplog.at_level("INFO"), pytest.raises(asyncio.CancelledError):
        await fills.watch(daemon._context, sleep)
    assert told_by(caplog) == [("WARNING", "questions_max", 80), ("INFO", "questions_max", 69), ("WARNING", "questions_max", 80)]


async def test_a_limit_of_nothing_is_never_full(daemons: Any) -> None:
    core = ScriptedCore()
    core.fill = lambda: {"retained_transactions_max": 0, "keys_max": 5}  # type: ignore[method-assign]  # a script of its own
    _, channel = await daemons(core, retained_transactions_max=0, keys_max=7)
    told = await status(channel)
    assert told["keys_max"] == (5, 7) and "retained_transactions_max" not in told


def test_where_descriptors_cannot_be_counted_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fills.resource, "getrlimit", lambda _: (fills.resource.RLIM_INFINITY,) * 2)
    assert fills._files() == []
    monkeypatch.undo()
    monkeypatch.setattr(fills.os, "listdir", lambda _: (_ for _ in ()).throw(OSError(24, "Too many open files")))
    assert fills._files() == []


# ---- memory


def machine(root: Path, lines: str, limits: dict[str, str]) -> int:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(lines)
    for name, text in limits.items():
        file = root / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return usable_bytes(root / "proc", root / "groups")


MIB = 1 << 20


@pytest.mark.parametrize(
    ("lines", "limits", "bytes_"),
    [
        ("0::/pod/box\n", {"pod/box/memory.max": "max\n", "pod/memory.max": f"{64 * MIB}\n"}, 64 * MIB),
        ("0::/pod/box\n", {"memory.max": f"{32 * MIB}\n"}, 32 * MIB),  # a container sees its own group at the root
        ("4:cpu,memory:/box\n0::/\n", {"memory/box/memory.limit_in_bytes": f"{16 * MIB}\n"}, 16 * MIB),
        ("4:cpu:/box\n", {"memory/box/memory.limit_in_bytes": "1\n"}, None),
        ("", {}, None),
    ],
)
def test_memory_is_the_least_that_a_group_around_us_allows(
    tmp_path: Path, lines: str, limits: dict[str, str], bytes_: int | None
) -> None:
    assert machine(tmp_path, lines, limits) == (bytes_ or usable_bytes(tmp_path / "nothing", tmp_path / "nothing"))


def test_the_memory_of_this_machine_is_some() -> None:
    assert MIB < usable_bytes() < 1 << 50


def test_levels_name_settings_only(daemon: Daemon) -> None:
    config = daemon.config
    names = {field.name for owner in (config.core, config.shell) for field in fields(owner)}
    assert {one.limit for one in fills.levels(daemon._context)} <= names | {fills.FILES}
