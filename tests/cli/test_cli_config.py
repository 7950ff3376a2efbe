"""Settings: sources, precedence, and everything that is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import OTHER_VARIABLES, SETTING_NAMES, load
from coordinator.core.settings import CoreSettings
from coordinator.shell_settings import RANGES, ShellSettings
from troth.errors import ConfigError


def origin(loaded: Any, name: str) -> tuple[Any, str]:
    return next((one.value, one.origin) for one in loaded.settings if one.name == name)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "troth.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_number_has_a_range_and_every_default_lies_in_it() -> None:
    settings = (field for owner in (ShellSettings, CoreSettings) for field in fields(owner))
    numbers = {field.name for field in settings if not isinstance(field.default, str | bool)}
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
        ("retention_seconds = 60.0", "timeout_ms_max in seconds is above retention_seconds"),
        ("outboxes_bytes_max = 100000", "frame_bytes_max is above outboxes_bytes_max, which is 100000"),
        ("calls_max = 100", "unary_calls_max is above calls_max"),
        ("unary_calls_max = 100", "watches_max is above unary_calls_max"),
        ("watches_max = 500", "connection_watches_max is above watches_max"),
        ("watches_max = 50\nconnection_watches_max = 10", "transaction_watches_max is above watches_max"),
        ("reports_bytes_max = 1000000", "late_heuristics_max times 380 bytes is above reports_bytes_max"),
        ("reports_max = 20000", "open_transactions_max plus late_heuristics_max is above reports_max"),
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
    load(environment={**dict.fromkeys(OTHER_VARIABLES - {"TROTH_CONFIG"}, "x"), "TROTHPLIGHT": "y"})


SERVICE = {
    "TROTH_SERVICE_HOST": "10.96.14.7", "TROTH_SERVICE_PORT": "7420", "TROTH_SERVICE_PORT_GRPC": "7420",
    "TROTH_PORT": "tcp://10.96.14.7:7420", "TROTH_PORT_7420_TCP": "tcp://10.96.14.7:7420",
    "TROTH_PORT_7420_TCP_PROTO": "tcp", "TROTH_PORT_7420_TCP_PORT": "7420", "TROTH_PORT_7420_TCP_ADDR": "10.96.14.7",
}  # fmt: skip
"""What Kubernetes tells every pod of a Service named troth."""


def test_a_kubernetes_service_of_our_name_sets_nothing() -> None:
    plain = load(environment={})
    other = {name.replace("TROTH_", "TROTH_COORDINATOR_", 1): value for name, value in SERVICE.items()}
    assert load(environment={**SERVICE, **other, "TROTH_KEYS_MAX": "7"}).config.core.keys_max == 7
    assert load(environment=SERVICE) == plain


@pytest.mark.parametrize(
    ("variable", "value"), [("TROTH_PORT", "7420"), ("TROTH_SERVICE_HOST", "10.96.14.7"), ("TROTH_KEYS_MX", "5")]
)
def test_beside_a_service_a_mistake_is_still_one(variable: str, value: str) -> None:
    other = {name.replace("TROTH_", "TROTH_OTHER_", 1): text for name, text in SERVICE.items()}
    with pytest.raises(ConfigError, match=variable):
        load(environment={**other, variable: value})


GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory_bytes", "keys", "origin_"),
    [
        (0, 200_000, "default"),  # the floor
        (GIB // 2, 200_000, "default"),
        (8 * GIB, 1_677_000, "memory of 8192 MiB"),
        (1 << 50, 100_000_000, f"memory of {1 << 30} MiB"),  # what the setting may be at most
    ],
)
def test_keys_are_sized_by_memory_unless_somebody_says_how_many(memory_bytes: int, keys: int, origin_: str) -> None:
    assert origin(load(environment={}, memory_bytes=memory_bytes), "keys_max") == (keys, origin_)
    said = load(environment={"TROTH_KEYS_MAX": "7"}, memory_bytes=memory_bytes)
    assert origin(said, "keys_max") == (7, "environment TROTH_KEYS_MAX")


def test_how_many_keyed_transactions_a_second_that_allows() -> None:
    flags = {"keys_max": 39_000, "retention_seconds": 3_600.0, "skew_seconds": 300.0}
    assert load(environment={}, flags=flags).config.keyed_per_second() == 10.0


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


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"listen": "0.0.0.0:7420"}, "there is no TLS"),
        ({"listen": "[::]:7420"}, "there is no TLS"),
        ({"listen": "troth.internal:7420"}, "there is no TLS"),
        ({"tls_authorities": "a.pem"}, "tls_certificate is not"),
        ({"insecure": "true", "tls_certificate": "c.pem"}, "insecure is set, and tls_certificate too"),
        ({"insecure": "perhaps"}, "not true or false"),
        ({"tokens": "t.toml"}, "over TLS alone"),
        ({"tls_certificate": "c.pem", "token_listen": "127.0.0.1:1"}, "neither tokens nor jwt_keys"),
        ({"tls_certificate": "c.pem", "tls_authorities": "a.pem", "tokens": "t.toml"}, "nobody would ever show a token"),
        ({"tls_certificate": "c.pem", "jwt_keys": "k.json"}, "jwt_audience is not"),
        ({"tls_certificate": "c.pem", "tls_revoked": "r.pem"}, "tls_authorities is not"),
        ({"token_listen": "here"}, "HOST:PORT"),
        ({"tls_certificate": "c.pem", "tls_authorities": "a.pem"}, "there is no policy"),
        ({"tls_certificate": "c.pem", "tokens": "t.toml"}, "there is no policy"),
        ({"tls_certificate": "c.pem", "listen": "0.0.0.0:7420"}, "there is no policy"),
    ],
)  # fmt: skip
def test_nobody_listens_beyond_the_machine_without_tls_by_accident(flags: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environment={}, flags=flags)
    assert told in caught.value.message


def test_keys_seal_nothing_while_that_is_held_back() -> None:
    with pytest.raises(ConfigError, match="payload_keys are set, and features_held_back holds"):
        load(environment={}, flags={"payload_keys": "env:RING", "features_held_back": "all"})
    assert load(environment={}, flags={"payload_keys": "env:RING", "features_held_back": "reviews"}).config.shell.payload_keys


def test_who_means_it_listens_without_tls() -> None:
    assert load(environment={"TROTH_INSECURE": "yes"}, flags={"listen": "0.0.0.0:7420"}).config.shell.insecure
    assert not load(environment={"TROTH_INSECURE": "off"}).config.shell.insecure
    files = {"listen": "0.0.0.0:7420", "tls_certificate": "c.pem", "tls_key": "c.key", "policy": "open"}
    assert load(environment={}, flags=files).config.shell.tls_certificate == "c.pem"
