"""Addresses, HOST:PORT: the one place that says what an address is.

gRPC takes nearly everything for a target: it looks up `localhost` at port 443 for ever, takes `7420` for a host's name, and ends
in an error of its own kind for a port out of range. So every address is looked at here before gRPC sees it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from troth.errors import ConfigError

PORT_MAX = 65_535
EXAMPLE = "127.0.0.1:7420"

_HOST = r"\[[0-9a-fA-F:.]+(?:%[\w.-]+)?\]|[\w.-]+"
_ADDRESS = re.compile(rf"({_HOST}):([0-9]{{1,5}})", re.ASCII)


def split_address(text: object) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 host keeps its brackets. Raises `ConfigError`, whose hint says what to write."""
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(f"{text!r} is not an address: {_what_is_wrong(text)}", hint=f"Write HOST:PORT, such as {EXAMPLE}.")
    if int(match[2]) > PORT_MAX:
        raise ConfigError(f"{text!r} is not an address: a port is at most {PORT_MAX}", hint=f"Write HOST:PORT, such as {EXAMPLE}.")
    return match[1], int(match[2])


def is_loopback(checked: str) -> bool:
    """Whether only this machine reaches an address that was looked at by `split_address`."""
    host = split_address(checked)[0].strip("[]")
    return host == "localhost" or host == "::1" or re.fullmatch(r"127(?:\.[0-9]{1,3}){3}", host, re.ASCII) is not None


def check_dialled(text: object) -> str:
    """The address of somebody who is dialled, or those of several nodes with commas between them, without spaces.

    Raises `ConfigError`; port 0 is for those who listen.
    """
    if not isinstance(text, str) or "," not in text:
        return _check_one(text)
    return ",".join(_check_one(part.strip()) for part in text.split(","))


def addresses_of(checked: str) -> Sequence[str]:
    """The single addresses of what `check_dialled` gave back."""
    return checked.split(",")


def _check_one(text: object) -> str:
    host, port = split_address(text)
    if port == 0:
        raise ConfigError(f"{text!r} cannot be dialled: port 0 is for those who listen", hint="Write the port that was taken.")
    return f"{host}:{port}"


def _what_is_wrong(text: object) -> str:
    """In words, for a person who looks at what they wrote."""
    if not isinstance(text, str):
        return "it is no text"
    if not text.strip():
        return "it is empty"
    if "://" in text:
        return "it begins with a scheme"
    if re.fullmatch("[0-9]+", text):
        return "the host is missing"
    if re.fullmatch(_HOST, text, re.ASCII):
        return "the port is missing"
    if text.count(":") > 1 and "[" not in text:
        return "an IPv6 host stands in brackets"
    if text.startswith(":"):
        return "the host is missing; 0.0.0.0 listens everywhere"
    return "it has characters that no host or port has" if ":" in text else "the port is missing"
