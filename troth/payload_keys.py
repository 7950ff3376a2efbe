"""Payload keys: what seals the payload of records in a log (`troth.log.sealing`), and where it comes from.

A ring of keys is a text in TOML, whatever it comes from: a file, a variable of the environment, what a command writes.

    [[key]]
    id = "20261130-4f1c2a"
    made = "2026-11-30"
    secret = "ZPJm...="        # 32 bytes in base64

The first key seals, and each opens what it has sealed: so a new one is put on top, and an old one stays until no record needs it.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import os
import re
import secrets
import shlex
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from troth.errors import ConfigError
from troth.identity.tls import check_mode, content_of, stamp_of, written_by
from troth.logs import get_logger

SECRET_BYTES = 32
"""AES-256."""
ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
MAKE = "`troth keys init` writes a ring to begin with."

LOOK_SECONDS = 1.0
"""How often a file is looked at, at most: who has changed it waits no longer."""

log = get_logger("troth.payload_keys")

Source = str | os.PathLike[str]
"""`PATH`, `env:VARIABLE`, or `exec:COMMAND`."""


@dataclass(frozen=True, slots=True)
class PayloadKey:
    """One key. Its `repr` does not show the secret."""

    id: str
    secret: bytes = field(repr=False)
    made: str
    """The day, for people."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Keys, the one that seals first; never empty."""

    keys: tuple[PayloadKey, ...]

    @property
    def newest(self) -> PayloadKey:
        """The one that seals."""
        return self.keys[0]

    def secret_of(self, key_id: str) -> bytes | None:
        """The secret of a key; `None` where the ring does not have it."""
        return next((key.secret for key in self.keys if key.id == key_id), None)

    def text(self) -> str:
        """The ring as it is written."""
        told = "# Payload keys of Troth. The first seals; each opens what it has sealed. Keep a copy elsewhere."
        tables = (
            f'[[key]]\nid = "{key.id}"\nmade = "{key.made}"\nsecret = "{base64.b64encode(key.secret).decode()}"\n'
            for key in self.keys
        )
        return "\n".join((told, *tables))

    def rotated(self) -> Ring:
        """With a new key on top."""
        return Ring((draw(), *self.keys))

    def without(self, key_id: str) -> Ring:
        """Without a key, which is not the one that seals."""
        return Ring((self.newest, *(key for key in self.keys[1:] if key.id != key_id)))

    def __call__(self) -> Ring:
        """Itself: keys that never change (see `Keyring`)."""
        return self


class Keyring:
    """The keys of a source, as they are now. A file is read again once it has changed, so a new key seals without a restart; what a
    variable or a command gives is taken once. Making it raises `ConfigError`, as `read` does.

    A new file that cannot be used, or that has lost the key that seals by now, is told once, and the last good keys stay."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source, self._clock = os.fspath(source), clock
        self._file = "" if self._source.startswith(("env:", "exec:")) else self._source
        self._stamp = stamp_of(self._file)
        self._looked = clock()
        self._ring = read(source)

    def __call__(self) -> Ring:
        """The newest good keys; for whoever seals, before each batch at most."""
        now = self._clock()
        if self._file and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        return self._ring

    def _look(self) -> None:
        stamp = stamp_of(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            ring = read(self._source)
            if ring.secret_of(self._ring.newest.id) != self._ring.newest.secret:
                raise ConfigError(
                    f"{self._file} has not the key {self._ring.newest.id}, which has sealed until now",
                    hint="Put it back below the new one: what it has sealed needs it.",
                )
        except ConfigError as error:
            log.error("new payload keys cannot be used; the last good ones stay", why=error.message, hint=error.hint)
        else:
            self._ring = ring
            log.info("new payload keys are in use", sealing=ring.newest.id)


def keyring(source: Source) -> Keyring | None:
    """The keys of a source; `None` where none is named, and nothing is to be sealed. Raises `ConfigError`."""
    if not os.fspath(source):
        return None
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("payload keys need the extra 'pki'", hint="Install it: pip install 'troth[pki]'.")
    return Keyring(source)


def draw() -> PayloadKey:
    """A new key."""
    made = datetime.now(UTC)
    return PayloadKey(f"{made:%Y%m%d}-{secrets.token_hex(3)}", secrets.token_bytes(SECRET_BYTES), f"{made:%Y-%m-%d}")


def read(source: Source) -> Ring:
    """The ring of a source; waits for a command. Raises `ConfigError`, which never holds a secret: it is not there, open to others,
    or no ring."""
    named = os.fspath(source)
    if named.startswith("env:"):
        variable = named.removeprefix("env:")
        if variable not in os.environ:
            raise ConfigError(f"the variable {variable} is not set", hint=f"Set it to a ring of payload keys: {MAKE}")
        return parse(os.environ[variable], f"the variable {variable}")
    if named.startswith("exec:"):
        command = shlex.split(named.removeprefix("exec:"))
        if not command:
            raise ConfigError("exec: names no command", hint="Write exec:PROGRAM ARGUMENT ...")
        return parse(written_by(command, "payload keys"), f"the command {command[0]}")
    return read_file(Path(named))


def read_file(path: Path) -> Ring:
    """The ring in a file, whatever its name looks like. Raises `ConfigError`."""
    check_mode(path, "file of payload keys")
    return parse(content_of(path).decode("utf-8", "replace"), str(path))


def parse(text: str, source: str) -> Ring:
    """The ring in a text. Raises `ConfigError`, which names the source, and the key that is wrong by its place."""
    try:
        tables = tomllib.loads(text).get("key", [])
    except tomllib.TOMLDecodeError:
        # What the parser says may quote the line, and with it a secret.
        raise ConfigError(f"{source} is no TOML", hint=MAKE) from None
    if not isinstance(tables, list) or not tables:
        raise ConfigError(f"{source} has no payload key", hint=MAKE)
    keys = tuple(_key(table, f"key {number} of {source}") for number, table in enumerate(tables, 1))
    if len({key.id for key in keys}) != len(keys):
        raise ConfigError(f"{source} has two keys of one id", hint="Take out the one that is not the right one.")
    return Ring(keys)


def _key(table: object, where: str) -> PayloadKey:
    if not isinstance(table, dict) or table.keys() - {"made"} != {"id", "secret"}:
        raise ConfigError(f"{where} has not id, secret and made alone", hint=MAKE)
    key_id, secret, made = (str(table.get(name, "")) for name in ("id", "secret", "made"))
    if ID.fullmatch(key_id) is None:
        raise ConfigError(f"the id of {where} is none", hint="Use up to 64 letters, digits, '.', '_' and '-'.")
    try:
        content = base64.b64decode(secret, validate=True)
    except binascii.Error:
        content = b""
    if len(content) != SECRET_BYTES:
        raise ConfigError(f"the secret of {where} is not {SECRET_BYTES} bytes in base64", hint=MAKE)
    return PayloadKey(key_id, content, made)
