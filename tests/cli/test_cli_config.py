"""Settings: sources, precedence, and everything that is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import RANGES, SETTING_NAMES, ShellSettings, load, split_address
from coordinator.core.settings import CoreSettings
from troth.errors import ConfigError


def origin(loaded: Any, name: str) -> tuple[Any, str]:
    return next((one.value, one.origin) for one in loaded.settings if one.name == name)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "troth.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_number_has_a_range_and_every_default_lies_in_it() -> None:
    numbers = {
        field.name for owner in (ShellSettings, CoreSettings) for field in fields(owner) if not isinstance(field.default, str)
    }
    assert numbers == set(RANGES)
    load(environment={})


def test_the_two_halves_share_no_name() -> None:
    assert len(SETTING_NAMES) == len(fields(ShellSettings)) + len(fields(CoreSettings))


def test_flags_beat_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, "keys_max = 1\nsessions_max = 1\nparticipants_max = 1\n")
    environment = {"TROTH_KEYS_MAX": "2", "TROTH_SESSIONS_MAX": "2", "PATH": "/bin"}
    loaded = load(file, environment, {"keys_max": 3, "listen": None})
    assert origin(loaded, "keys_max") == (3, "flag")
    assert origin(loaded, "sessions_max") == (2, "environment TROTH_SESSIONS_MAX")
    assert origin(loaded, "participants_max") == (1, f"file {file}")
    assert origin(loaded, "operations_max") == (64, "default")
    assert loaded.config.core.keys_max == 3


def test_the_file_can_be_named_in_the_environment(tmp_path: Path) -> None:
    file = write(tmp_path, 'name = "c9"\ndrain_seconds = 3\n')
    config = load(environment={"TROTH_CONFIG": str(file)}).config
    assert (config.shell.name, config.shell.drain_seconds) == ("c9", 3.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("keys_mx = 5", "keys_max"),
        ("[limits]\nkeys_max = 5", "limits"),
        ("keys_max = 'many'", "not a whole number"),
        ("keys_max = true", "not a whole number"),
        ("keys_max = 1.5", "not a whole number"),
        ("keys_max = 0", "1 to 100000000 keys"),
        ("retention_seconds = nan", "seconds"),
        ("retention_seconds = inf", "seconds"),
        ("name = 7", "not a text"),
        ("name = 'C 1'", "coordinator name"),
        ("listen = 'here'", "HOST:PORT"),
        ("log_level = 'loud'", "debug, info, warning, error"),
        ("keys_max = ", "not TOML"),
        ("resend_first_seconds = 60.0", "resend_cap_seconds"),
        ("payload_bytes_max = 8000000", "frame_bytes_max"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(write(tmp_path, text), {})


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("TROTH_KEYS_MX", "5", "TROTH_KEYS_MAX"),
        ("TROTH_keys_max", "5", "TROTH_KEYS_MAX"),
        ("TROTH_FAILPOINT", "x", "not a setting"),
        ("TROTH_KEYS_MAX", "many", "not a whole number"),
        ("TROTH_KEYS_MAX", "", "not a whole number"),
        ("TROTH_DRAIN_SECONDS", "soon", "not a number"),
        ("TROTH_DRAIN_SECONDS", "nan", "seconds"),
    ],
)
def test_what_the_environment_may_not_say(variable: str, value: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(environment={variable: value})


def test_variables_with_other_meanings_are_not_settings() -> None:
    load(environment={"TROTH_COORDINATOR": "127.0.0.1:1", "TROTH_FAILPOINTS": "x", "TROTHPLIGHT": "y"})


@pytest.mark.parametrize("text", ["127.0.0.1:0", "localhost:7420", "[::1]:65535", "0.0.0.0:1"])
def test_addresses(text: str) -> None:
    host, port = split_address(text)
    assert f"{host}:{port}" == text


@pytest.mark.parametrize("text", ["", "host", ":80", "host:", "host:65536", "::1:80", "a b:80", "host:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError):
        split_address(text)


async def test_config_show_tells_value_unit_and_origin(troth: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TROTH_KEYS_MAX", "7")
    shown = await troth("config", "show", "--set", "sessions_max=8", "--json")
    assert shown.code == 0
    document = shown.json()
    assert document["keys_max"] == {"value": 7, "unit": "keys", "origin": "environment TROTH_KEYS_MAX"}
    assert document["sessions_max"]["origin"] == "flag"
    plain = await troth("config", "show")
    assert "keys_max\t7\tkeys\tenvironment TROTH_KEYS_MAX" in plain.out.splitlines()


async def test_config_check(troth: Any, tmp_path: Path) -> None:
    assert (await troth("config", "check")).out == "ok\n"
    bad = await troth("config", "check", "--config", str(write(tmp_path, "keys_mx = 5")), "--json")
    assert bad.code == 2
    assert bad.json()["error"]["reason"] == "CONFIG"
    assert "keys_max" in bad.err
    assert (await troth("config", "check", "--config", str(tmp_path / "nowhere.toml"))).code == 2
    assert (await troth("config", "check", "--set", "keys_max")).code == 2
