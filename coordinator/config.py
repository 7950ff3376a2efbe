"""The daemon's settings: one frozen object, and where each value came from.

A value comes from, in this order: a flag of the command line, a variable `TROTH_NAME` of the environment, the TOML file, the
default. The name is the same everywhere (`open_transactions_max`, `TROTH_OPEN_TRANSACTIONS_MAX`, `--set open_transactions_max=…`).
An unknown name is refused, and the nearest known one is told: a limit that is not in force because of a typing mistake is
worse than a daemon that does not start (Seata #5062, #6282).
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any

from coordinator.core.settings import CoreSettings
from troth.errors import ConfigError, RequestError
from troth.ids import check_name
from troth.v1 import common_pb2

PREFIX = "TROTH_"
OTHER_VARIABLES = frozenset({"TROTH_CONFIG", "TROTH_COORDINATOR", "TROTH_FAILPOINTS"})
"""Variables with the prefix that are not settings of the daemon: its file, the CLI's address, crash points of tests."""

FRAME_OVERHEAD_BYTES = 65_536
"""What a frame needs beyond the payload of its one message."""

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "console", "json")


@dataclass(frozen=True, slots=True)
class ShellSettings:
    """What the daemon needs around its core."""

    name: str = "c1"
    """The coordinator's name; stamped in its log, and the first part of every transaction id."""
    listen: str = "127.0.0.1:7420"
    """Where to listen, HOST:PORT; port 0 takes a free one."""
    data_directory: str = "var/coordinator"
    """The directory of the log; one daemon has it to itself."""
    log_level: str = "info"
    """What is told on stderr: debug, info, warning or error."""
    log_format: str = "auto"
    """How it is told: console, json, or auto (console on a terminal)."""
    drain_seconds: float = 30.0
    """How long a shutdown waits for undecided transactions."""
    frame_bytes_max: int = 4_194_304
    """Bytes of one message of gRPC, either way."""
    outbox_items_max: int = 50_000
    """Messages that may wait for a peer that does not read; past it the stream is ended and Hello settles the rest."""
    calls_max: int = 25_000
    """Calls and streams at once; gRPC refuses more."""
    hello_seconds: float = 10.0
    """How long a new stream may stay silent."""
    goodbye_seconds: float = 5.0
    """How long an ended stream may take to deliver its Goodbye."""
    keepalive_seconds: float = 30.0
    """How long a connection may be silent before it is pinged."""
    keepalive_timeout_seconds: float = 10.0
    """How long the answer to a ping may take before the connection is given up."""


@dataclass(frozen=True, slots=True)
class Range:
    """The unit of a number, and the values that it may have, both ends included."""

    lowest: float
    highest: float
    unit: str


DAY_SECONDS = 86_400.0

RANGES: Mapping[str, Range] = {
    "open_transactions_max": Range(1, 10_000_000, "transactions"),
    "participants_max": Range(1, 4_096, "participants"),
    "operations_max": Range(1, 65_536, "operations"),
    "payload_bytes_max": Range(1, 1_073_741_824, "bytes"),
    "key_bytes_max": Range(1, 4_096, "bytes"),
    "timeout_ms_max": Range(1, 604_800_000, "milliseconds"),
    "retention_seconds": Range(1, 366 * DAY_SECONDS, "seconds"),
    "retained_transactions_max": Range(0, 100_000_000, "transactions"),
    "keys_max": Range(1, 100_000_000, "keys"),
    "skew_seconds": Range(0, DAY_SECONDS, "seconds"),
    "session_linger_seconds": Range(0.1, DAY_SECONDS, "seconds"),
    "sessions_max": Range(1, 1_000_000, "sessions"),
    "unseen_answers_max": Range(1, 10_000_000, "answers"),
    "resend_first_seconds": Range(0.01, 3_600, "seconds"),
    "resend_cap_seconds": Range(0.01, 3_600, "seconds"),
    "settle_answer_seconds": Range(0.01, 3_600, "seconds"),
    "watermark_interval_seconds": Range(0.01, 3_600, "seconds"),
    "reports_max": Range(1, 100_000_000, "reports"),
    "late_heuristics_max": Range(1, 1_000_000, "transactions"),
    "known_participants_max": Range(1, 1_000_000, "participants"),
    "drain_seconds": Range(0, DAY_SECONDS, "seconds"),
    "frame_bytes_max": Range(FRAME_OVERHEAD_BYTES + 1, 1_073_741_824, "bytes"),
    "outbox_items_max": Range(100, 100_000_000, "messages"),
    "calls_max": Range(10, 10_000_000, "calls"),
    "hello_seconds": Range(0.1, 3_600, "seconds"),
    "goodbye_seconds": Range(0.1, 3_600, "seconds"),
    "keepalive_seconds": Range(1, 3_600, "seconds"),
    "keepalive_timeout_seconds": Range(1, 3_600, "seconds"),
}
"""The range of every numeric setting; a test compares the names with the two dataclasses."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one daemon."""

    shell: ShellSettings
    core: CoreSettings

    def limits(self) -> common_pb2.Limits:
        """The limits that are announced to peers."""
        return common_pb2.Limits(
            frame_bytes_max=self.shell.frame_bytes_max,
            payload_bytes_max=self.core.payload_bytes_max,
            participants_max=self.core.participants_max,
            key_bytes_max=self.core.key_bytes_max,
            operations_max=self.core.operations_max,
            timeout_ms_max=self.core.timeout_ms_max,
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """One value, and where it came from: `default`, `file PATH`, `environment TROTH_…` or `flag`."""

    name: str
    value: Any
    origin: str
    unit: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and where each came from, in the order of their definition."""

    config: Config
    settings: tuple[Setting, ...]


_FIELDS: dict[str, Field[Any]] = {
    field.name: field for owner in (ShellSettings, CoreSettings) for field in fields(owner)
}

SETTING_NAMES = tuple(_FIELDS)


def load(
    file: Path | None = None, environment: Mapping[str, str] = os.environ, flags: Mapping[str, Any] | None = None
) -> Loaded:
    """Read, merge and check all settings. `flags` with the value `None` were not given. Raises `ConfigError`."""
    values: dict[str, tuple[Any, str]] = {
        name: (_default(field), "default") for name, field in _FIELDS.items()
    }
    file = _file_of(file, environment)
    values.update(_from_file(file) if file is not None else {})
    values.update(_from_environment(environment))
    values.update(_from_flags(flags or {}))
    for name, (value, origin) in values.items():
        _check_value(name, value, origin)
    config = Config(_build(ShellSettings, values), _build(CoreSettings, values))
    _check_together(config, values)
    settings = (Setting(name, value, origin, _unit(name)) for name, (value, origin) in values.items())
    return Loaded(config, tuple(settings))


def _default(field: Field[Any]) -> Any:
    assert field.default is not MISSING, f"{field.name} has no default"
    return field.default


def _build(owner: Callable[..., Any], values: Mapping[str, tuple[Any, str]]) -> Any:
    return owner(**{field.name: values[field.name][0] for field in fields(owner)})  # type: ignore[arg-type]  # mypy does not see that it is a dataclass


def _unit(name: str) -> str:
    return RANGES[name].unit if name in RANGES else ""


# ---- the sources


def _file_of(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    named = environment.get("TROTH_CONFIG", "")
    return Path(named) if named else None


def _from_file(path: Path) -> dict[str, tuple[Any, str]]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="Name a file that is there.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="Mend the line that the message names.") from error
    origin = f"file {path}"
    return {_known(name, name, origin): (_number(name, value), origin) for name, value in table.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    values: dict[str, tuple[Any, str]] = {}
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and variable not in OTHER_VARIABLES:
            name = _known(variable.removeprefix(PREFIX).lower(), variable, "the environment", PREFIX)
            if variable != PREFIX + name.upper():
                raise _unknown(variable, PREFIX + name.upper(), "the environment")
            values[name] = (_parse(name, text, variable), f"environment {variable}")
    return values


def _from_flags(flags: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    values: dict[str, tuple[Any, str]] = {}
    for name, value in flags.items():
        if value is not None:
            _known(name, name, "the flags")
            values[name] = (_parse(name, value, "flag") if isinstance(value, str) else _number(name, value), "flag")
    return values


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, str]:
    """The flags `--set NAME=VALUE` as a mapping."""
    values: dict[str, str] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r} has no '='", hint="Write --set NAME=VALUE.")
        values[name.strip()] = value.strip()
    return values


def _known(name: str, written: str, where: str, prefix: str = "") -> str:
    if name in _FIELDS:
        return name
    near = difflib.get_close_matches(name, SETTING_NAMES, n=1, cutoff=0.0)[0]
    raise _unknown(written, prefix + near.upper() if prefix else near, where)


def _unknown(written: str, near: str, where: str) -> ConfigError:
    return ConfigError(
        f"{written!r} in {where} is not a setting; the nearest is {near!r}",
        hint="Correct or remove it; `troth config show` lists all settings.",
    )


# ---- values


def _parse(name: str, text: str, where: str) -> Any:
    """The value of a text from the environment or a flag."""
    kind = type(_default(_FIELDS[name]))
    try:
        return text if kind is str else kind(text.replace("_", "") if kind is int else text)
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r} ({where}): that is not {_kind_name(kind)}") from error


def _number(name: str, value: Any) -> Any:
    """TOML writes 30 where 30.0 is meant."""
    wants_float = isinstance(_default(_FIELDS[name]), float) if name in _FIELDS else False
    return float(value) if wants_float and type(value) is int else value


def _kind_name(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "a text"}[kind]


def _check_value(name: str, value: Any, origin: str) -> None:
    kind = type(_default(_FIELDS[name]))
    if type(value) is not kind:
        raise ConfigError(f"{name} is {value!r} ({origin}): that is not {_kind_name(kind)}")
    if name in RANGES:
        limits = RANGES[name]
        if not limits.lowest <= value <= limits.highest or not math.isfinite(value):
            raise ConfigError(
                f"{name} is {value} ({origin}): it must be {limits.lowest:.15g} to {limits.highest:.15g} {limits.unit}"
            )
    elif name in _CHECKS:
        problem = _CHECKS[name](value)
        if problem:
            raise ConfigError(f"{name} is {value!r} ({origin}): {problem}")


def _check_together(config: Config, values: Mapping[str, tuple[Any, str]]) -> None:
    core, shell = config.core, config.shell
    if core.resend_first_seconds > core.resend_cap_seconds:
        raise _above("resend_first_seconds", "resend_cap_seconds", values)
    if core.payload_bytes_max + FRAME_OVERHEAD_BYTES > shell.frame_bytes_max:
        raise _above(f"payload_bytes_max plus {FRAME_OVERHEAD_BYTES} bytes", "frame_bytes_max", values)


def _above(small: str, large: str, values: Mapping[str, tuple[Any, str]]) -> ConfigError:
    value, origin = values[large]
    return ConfigError(f"{small} is above {large}, which is {value} ({origin})")


def split_address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; raises `ConfigError`."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):([0-9]{1,5})", text)
    if match is None or int(match[2]) > 65_535:
        raise ConfigError(f"{text!r} is not an address", hint="Write HOST:PORT, such as 127.0.0.1:7420.")
    return match[1], int(match[2])


def _check_listen(text: str) -> str:
    try:
        split_address(text)
    except ConfigError as error:
        return f"{error.message}; {error.hint}"
    return ""


def _check_coordinator(text: str) -> str:
    try:
        check_name("coordinator", text)
    except RequestError as error:
        return error.message
    return ""


_CHECKS: Mapping[str, Callable[[str], str]] = {
    "name": _check_coordinator,
    "listen": _check_listen,
    "data_directory": lambda text: "" if text else "name a directory",
    "log_level": lambda text: "" if text in LOG_LEVELS else f"it must be one of {', '.join(LOG_LEVELS)}",
    "log_format": lambda text: "" if text in LOG_FORMATS else f"it must be one of {', '.join(LOG_FORMATS)}",
}
"""For each text setting: what is wrong with a value, or an empty text."""
