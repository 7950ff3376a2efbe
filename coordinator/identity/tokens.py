"""Bearer tokens of the coordinator's own: a file that says whose each is, and holds no token, but hashes.

    [[token]]
    name = "ada"                       # her identity is token:ada
    sha256 = "9f86d081884c7d65..."
    until = 2027-01-01T00:00:00Z       # may be left out

A token has 256 random bits, so a plain hash is enough: there is nothing to guess, and no word list to try.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from troth.errors import ConfigError
from troth.identity.peer import TOKEN, Identity

PREFIX = "troth_"
"""What a token begins with, so that scanners for secrets find one that lies about."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FIELDS = frozenset({"name", "sha256", "until"})


@dataclass(frozen=True, slots=True)
class Entry:
    """Whose a token is, and until when."""

    name: str
    until: datetime | None

    @property
    def identity(self) -> Identity:
        """Who shows it."""
        return Identity(f"token:{self.name}", TOKEN, self.until.timestamp() if self.until else None)


def hash_of(token: str) -> str:
    """What the file has of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def draw() -> str:
    """A new token."""
    return PREFIX + secrets.token_urlsafe(32)


def parse(content: bytes) -> Mapping[str, Entry]:
    """The entries of a file, by their hashes. Raises `ConfigError`."""
    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the tokens are not TOML: {error}", hint="Mend the line that the message names.") from error
    entries: dict[str, Entry] = {}
    rows = table.pop("token", [])
    if table or not isinstance(rows, list):
        hint = "Write [[token]] tables alone; `troth token add` does."
        raise ConfigError(f"the tokens have {sorted(table) or 'no list'}", hint=hint)
    for row in rows:
        sha256, entry = _entry(row)
        if sha256 in entries:
            raise ConfigError(f"the token of {entry.name!r} is there twice", hint="Remove one of them.")
        entries[sha256] = entry
    return entries


def _entry(row: Any) -> tuple[str, Entry]:
    hint = "`troth token add` writes what is right."
    if not isinstance(row, dict) or not row.keys() <= _FIELDS:
        raise ConfigError(f"a token has other fields than {', '.join(sorted(_FIELDS))}", hint=hint)
    name, sha256, until = row.get("name"), row.get("sha256"), row.get("until")
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ConfigError(f"a token's name is {name!r}", hint=hint)
    if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        raise ConfigError(f"the sha256 of {name!r} is not 64 hexadecimal digits", hint=hint)
    if until is not None and not isinstance(until, datetime):
        raise ConfigError(f"until of {name!r} is no time", hint="Write until = 2027-01-01T00:00:00Z.")
    return sha256, Entry(name, until if until is None or until.tzinfo else until.replace(tzinfo=UTC))


def entry_text(name: str, sha256: str, until: datetime | None) -> str:
    """An entry as the file has it."""
    lines = ["[[token]]", f'name = "{name}"', f'sha256 = "{sha256}"']
    if until is not None:
        lines.append(f"until = {until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    return "\n".join(lines) + "\n\n"
