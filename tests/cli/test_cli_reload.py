"""Settings that change while a daemon runs: what is told, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from test_cli_serve import Process

from coordinator.config import Config, Loaded, load
from coordinator.core.settings import CoreSettings
from coordinator.reloading import RELOADABLE, SECRET, changes
from coordinator.server import Daemon, make_daemon
from coordinator.shell_settings import RANGES, ShellSettings

Troth = Any


def loaded(**flags: Any) -> Loaded:
    return load(environment={}, flags=flags, memory_bytes=1 << 30)


def test_what_is_reloadable_is_a_setting() -> None:
    assert {field.name for owner in (ShellSettings, CoreSettings) for field in fields(owner)} >= RELOADABLE | SECRET


def test_what_differs_is_told_with_both_values_and_no_secret() -> None:
    read = loaded(drain_seconds=5.0, listen="127.0.0.1:1", on_attention="http://hook/secret", reflection=False)
    told = changes(loaded().config, read)
    assert [str(change) for change in told] == [
        "drain_seconds: 30 -> 5", "listen: 127.0.0.1:7420 -> 127.0.0.1:1", "on_attention", "reflection: true -> false",
    ]  # fmt: skip
    assert [change.name for change in told if change.reloadable] == ["drain_seconds"]
    assert "secret" not in str(told[2].told())


@pytest_asyncio.fixture
async def reloadable(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon whose settings are in a file."""
    file = tmp_path / "troth.toml"
    file.write_text(f'listen = "127.0.0.1:0"\ndata_directory = "{tmp_path / "c1"}"\naudit_directory = "{tmp_path / "audit"}"\n')

    def read() -> Loaded:
        return load(file, {}, memory_bytes=1 << 30)

    level = logging.getLogger("troth").level
    daemon = make_daemon(read().config, read)
    await daemon.start()
    yield daemon
    await daemon.stop()
    logging.getLogger("troth").setLevel(level)


def add(tmp_path: Path, *lines: str) -> None:
    with (tmp_path / "troth.toml").open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def audited(tmp_path: Path) -> list[dict[str, Any]]:
    lines = [line for path in sorted((tmp_path / "audit").glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [entry for entry in map(json.loads, lines) if entry.get("action") == "ReloadConfig"]


@pytest.mark.parametrize("name", sorted(RELOADABLE))
async def test_every_reloadable_setting_is_in_use_once_it_is_reloaded(
    reloadable: Daemon, troth: Troth, tmp_path: Path, name: str
) -> None:  # fmt: skip
    texts = {"log_level": '"debug"', "features_held_back": '"all"', "canary": "0.5"}
    value = texts.get(name) or max(int(RANGES[name].lowest), 1)
    value = 4_194_304 if name == "outboxes_bytes_max" else value
    add(tmp_path, f"{name} = {value}", *_what_must_not_be_above(name, value))
    ran = await troth("config", "reload", "--coordinator", reloadable.address, "--json")
    assert (ran.code, ran.json()["applied"]) == (0, True), ran.err
    config = reloadable.config
    assert config == reloadable.context.config and config.shell is reloadable.context.common.shell
    assert reloadable._core._book.settings is config.core  # type: ignore[attr-defined]  # the real core
    assert getattr(config.shell if hasattr(config.shell, name) else config.core, name) != getattr(
        ShellSettings() if hasattr(config.shell, name) else CoreSettings(), name
    )


def _what_must_not_be_above(name: str, value: Any) -> list[str]:
    inner = {"watches_max": ["transaction_watches_max", "connection_watches_max"], "unary_calls_max": [
        "watches_max", "transaction_watches_max", "connection_watches_max"]}  # fmt: skip
    return [f"{one} = {value}" for one in inner.get(name, [])]


async def test_a_limit_is_in_force_at_once(reloadable: Daemon, troth: Troth, tmp_path: Path) -> None:
    at = ("--coordinator", reloadable.address)
    add(tmp_path, "open_transactions_max = 7", "watches_max = 9", "connection_watches_max = 8", "transaction_watches_max = 7")
    dry = await troth("config", "reload", "--dry-run", *at)
    assert dry.code == 0 and "open_transactions_max\t20000\t7\treload\tfile" in dry.out and "dry run" in dry.err
    assert reloadable.config.core.open_transactions_max == 20_000
    ran = await troth("config", "reload", *at)
    assert (ran.code, "in use now" in ran.err) == (0, True)
    limits = {one["limit"]: one["max"] for one in (await troth("status", "--json", *at)).json()["fills"]}
    assert (limits["open_transactions_max"], limits["watches_max"]) == (7, 9)
    again = await troth("config", "reload", *at)
    assert (again.code, "nothing differs" in again.err) == (0, True)
    asked, done, *rest = audited(tmp_path)
    assert "open_transactions_max: 20000 -> 7" in asked["order"] and done["result"] == "done" and len(rest) == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("reflection = false", "reflection can only change with a restart"),
        ("questions_mx = 5", "'questions_max'"),
        ("questions_max = 0", "it must be 1 to"),
        ("watches_max = 20_000", "watches_max is above unary_calls_max"),
    ],
)
async def test_nothing_changes_when_anything_is_wrong(
    reloadable: Daemon, troth: Troth, tmp_path: Path, line: str, told: str
) -> None:  # fmt: skip
    before = reloadable.config
    add(tmp_path, "sessions_max = 5", line)
    ran = await troth("config", "reload", "--coordinator", reloadable.address)
    assert ran.code == 1 and told in ran.err, ran.err
    assert reloadable.config is before
    assert audited(tmp_path)[-1]["result"] == "refused: CONFIG"


async def test_a_coordinator_without_settings_to_read_says_so(daemon: Daemon, troth: Troth) -> None:
    ran = await troth("config", "reload", "--coordinator", daemon.address)
    assert ran.code == 1 and "inside a program" in ran.err


def test_a_key_limit_is_divided_among_shards() -> None:
    config = loaded(keys_max=100).config
    assert config.of_shard("a", 4) == Config(replace(config.shell, name="a"), replace(config.core, keys_max=25))


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    (tmp_path / "troth.toml").write_text("drain_seconds = 3\n")
    one = Process(tmp_path / "c1", "--config", str(tmp_path / "troth.toml"))
    yield one
    if one.running.poll() is None:
        one.running.kill()
    one.running.communicate()


def test_a_signal_reloads_too(process: Process, tmp_path: Path) -> None:
    (tmp_path / "troth.toml").write_text("drain_seconds = 2\n")
    process.running.send_signal(signal.SIGHUP)
    assert process.running.stderr is not None
    line = next(line for line in process.running.stderr if "settings were read again" in line)
    assert "drain_seconds: 3 -> 2" in line
    code, said = process.ended(signal.SIGTERM)
    assert code == 0 and "waiting up to 2 s" in said
