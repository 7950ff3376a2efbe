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
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

from coordinator.config_checks import CHECKS, check_access
from coordinator.core.settings import BARE_REPORT_BYTES, CoreSettings
from coordinator.memory import usable_bytes
from coordinator.shell_settings import FRAME_OVERHEAD_BYTES, RANGES, ShellSettings
from troth.errors import ConfigError
from troth.v1 import common_pb2

PREFIX = "TROTH_"
OTHER_VARIABLES = frozenset(
    {
        "TROTH_CONFIG", "TROTH_COORDINATOR", "TROTH_FAILPOINTS", "TROTH_POSTGRES_BIN", "TROTH_PGBOUNCER_BIN",
        "TROTH_CLIENT_AUTHORITIES", "TROTH_CLIENT_CERTIFICATE", "TROTH_CLIENT_KEY", "TROTH_CLIENT_TOKEN_FILE",
        "TROTH_CLIENT_TOKEN_COMMAND",
    }
)  # fmt: skip
"""Variables with the prefix that are not settings of the daemon: its file, the CLI's address and certificate, what tests use."""

KEYS_MEMORY_SHARE = 4
"""What part of the memory, one in so many, keys may take where `keys_max` is not set."""
KEY_BYTES = 1_280
"""What a finished transaction with a key of some 40 characters takes in memory, measured; with the longest keys it is 1,500."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one daemon."""

    shell: ShellSettings
    core: CoreSettings

    def value(self, name: str) -> Any:
        """The setting of a name."""
        return getattr(self.shell if hasattr(self.shell, name) else self.core, name)

    def of_shard(self, name: str, shards: int) -> Config:
        """The settings of one shard of so many. Keys are spread evenly, by their hash, and any node may come to have all shards: so
        `keys_max`, which is sized by the memory, is divided. The other limits of the core each shard has whole (decision 47)."""
        keys_max = max(1, -(-self.core.keys_max // shards))
        return Config(replace(self.shell, name=name), replace(self.core, keys_max=keys_max))

    def keyed_per_second(self) -> float:
        """How many transactions with a key may commit each second, for ever, before `keys_max` refuses them."""
        return self.core.keys_max / self.keys_seconds()

    def keys_seconds(self) -> float:
        """How long a key is kept."""
        return self.core.retention_seconds + self.core.skew_seconds

    def limits(self) -> common_pb2.Limits:
        """The limits that are announced to peers."""
        return common_pb2.Limits(
            frame_bytes_max=self.shell.frame_bytes_max,
            payload_bytes_max=self.core.payload_bytes_max,
            participants_max=self.core.participants_max,
            key_bytes_max=self.core.key_bytes_max,
            operations_max=self.core.operations_max,
            timeout_ms_max=self.core.timeout_ms_max,
            frame_messages_max=self.shell.frame_messages_max,
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """One value, and where it came from: `default`, `memory of N MiB`, `file PATH`, `environment TROTH_…` or `flag`."""

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
    file: Path | None = None, environment: Mapping[str, str] = os.environ, flags: Mapping[str, Any] | None = None,
    memory_bytes: int | None = None,
) -> Loaded:  # fmt: skip
    """Read, merge and check all settings. `flags` with the value `None` were not given. `memory_bytes` is what there is for this
    process; `None` asks the machine. Raises `ConfigError`."""
    values: dict[str, tuple[Any, str]] = {
        name: (_default(field), "default") for name, field in _FIELDS.items()
    }
    values.update(_from_memory(usable_bytes() if memory_bytes is None else memory_bytes))
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


def _from_memory(memory_bytes: int) -> dict[str, tuple[Any, str]]:
    """What is sized by the memory: `keys_max`, since nothing else that fills up with time has to be kept whatever it takes. Its
    default is the floor; a machine too small for that needs the setting."""
    keys = memory_bytes // KEYS_MEMORY_SHARE // KEY_BYTES // 1_000 * 1_000
    fits = int(min(keys, RANGES["keys_max"].highest))
    return {"keys_max": (fits, f"memory of {memory_bytes >> 20} MiB")} if fits > CoreSettings().keys_max else {}


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
    foreign = _of_kubernetes(environment)
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and variable not in OTHER_VARIABLES and not foreign(variable):
            name = _known(variable.removeprefix(PREFIX).lower(), variable, "the environment", PREFIX)
            if variable != PREFIX + name.upper():
                raise _unknown(variable, PREFIX + name.upper(), "the environment")
            values[name] = (_parse(name, text, variable), f"environment {variable}")
    return values


_SERVICE_PORT = re.compile(r"(TROTH(?:_[A-Z0-9_]+)?)_PORT")
_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://.*")


def _of_kubernetes(environment: Mapping[str, str]) -> Callable[[str], bool]:
    """Whether a variable was put there by Kubernetes, which tells every pod of a namespace of a Service `troth` or `troth-…` so:

        TROTH_SERVICE_HOST, TROTH_SERVICE_PORT, TROTH_SERVICE_PORT_GRPC, TROTH_PORT=tcp://10.96.14.7:7420, TROTH_PORT_7420_TCP, …

    Only a URL in `…_PORT` makes a Service: somebody who wrote TROTH_PORT=7420 meant a setting, and is told that there is none.
    """
    services = [
        match[1] for variable, text in environment.items()
        if (match := _SERVICE_PORT.fullmatch(variable)) and _SERVICE_URL.fullmatch(text)
    ]  # fmt: skip
    names = "|".join(map(re.escape, services))
    theirs = re.compile(rf"(?:{names})_(?:SERVICE_HOST|(?:SERVICE_)?PORT(?:_[A-Z0-9_]+)?)") if services else None
    return lambda variable: theirs is not None and theirs.fullmatch(variable) is not None


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


_TRUTHS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def _parse(name: str, text: str, where: str) -> Any:
    """The value of a text from the environment or a flag."""
    kind = type(_default(_FIELDS[name]))
    try:
        if kind is bool:
            return _TRUTHS[text.lower()]
        return text if kind is str else kind(text.replace("_", "") if kind is int else text)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{name} is {text!r} ({where}): that is not {_kind_name(kind)}") from error


def _number(name: str, value: Any) -> Any:
    """TOML writes 30 where 30.0 is meant."""
    wants_float = isinstance(_default(_FIELDS[name]), float) if name in _FIELDS else False
    return float(value) if wants_float and type(value) is int else value


def _kind_name(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]


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
    elif name in CHECKS:
        problem = CHECKS[name](value)
        if problem:
            shown = "not usable" if name == "store" else repr(value)  # it may hold a password
            raise ConfigError(f"{name} is {shown} ({origin}): {problem}")


_WITHIN = (
    ("frame_bytes_max", "outboxes_bytes_max"),
    ("transaction_watches_max", "watches_max"),
    ("connection_watches_max", "watches_max"),
    ("watches_max", "unary_calls_max"),
    ("unary_calls_max", "calls_max"),
)
"""Limits of which the first one is part of what the second one counts."""


def _check_together(config: Config, values: Mapping[str, tuple[Any, str]]) -> None:
    core, shell = config.core, config.shell
    check_access(shell)
    if core.resend_first_seconds > core.resend_cap_seconds:
        raise _above("resend_first_seconds", "resend_cap_seconds", values)
    if core.payload_bytes_max > core.open_bytes_max:
        raise _above("payload_bytes_max", "open_bytes_max", values)
    if core.timeout_ms_max > core.retention_seconds * 1000:
        # Its retries would be refused as EXPIRED while it still runs.
        raise _above("timeout_ms_max in seconds", "retention_seconds", values)
    if core.open_transactions_max + core.late_heuristics_max > core.reports_max:
        # A participant with a branch in each of them could not complete its Hello any more.
        raise _above("open_transactions_max plus late_heuristics_max", "reports_max", values)
    if (core.open_transactions_max + core.late_heuristics_max) * BARE_REPORT_BYTES > core.reports_bytes_max:
        # The same, of bytes: results are left out, the branches themselves cannot be.
        raise _above(f"open_transactions_max plus late_heuristics_max times {BARE_REPORT_BYTES} bytes", "reports_bytes_max", values)
    if core.payload_bytes_max + FRAME_OVERHEAD_BYTES > shell.frame_bytes_max:
        raise _above(f"payload_bytes_max plus {FRAME_OVERHEAD_BYTES} bytes", "frame_bytes_max", values)
    for small, large in _WITHIN:
        # A limit that another one keeps from ever being reached is not in force, whatever it promises.
        if values[small][0] > values[large][0]:
            raise _above(small, large, values)


def _above(small: str, large: str, values: Mapping[str, tuple[Any, str]]) -> ConfigError:
    value, origin = values[large]
    return ConfigError(f"{small} is above {large}, which is {value} ({origin})")
