"""Files of TLS: a certificate with its key, and the authorities that the other side's certificate has to come from.

The files are read again whenever they have changed, so that short-lived certificates are renewed without a restart. New files
that cannot be used are told once, and the last good ones stay in use: a renewal that failed must not end what works.

gRPC says next to nothing about a bad file (a handshake fails, later, somewhere); so each is looked at here before gRPC sees it.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from troth.errors import ConfigError

Stamp = tuple[tuple[int, int, int], ...]
"""Of each file what changes when it is written anew."""

PAIR = "A certificate and its key go together: name both."
COMMAND_SECONDS = 30.0
"""How long a command may take to write a token."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,8192}=*", re.ASCII)
"""RFC 6750, section 2.1."""


class Material(NamedTuple):
    """What the files hold, in PEM; empty where no file is named."""

    certificate: bytes
    key: bytes
    authorities: bytes


@dataclass(frozen=True, slots=True)
class Tls:
    """How one side of a connection proves who it is, and whom it believes.

    `authorities`  a file of PEM certificates: who signs for the other side. For a client the system's own by default; for a
                   coordinator none by default, and then it asks peers for no certificate.
    `certificate`  this side's certificate in PEM, its own one first, then those between it and the authority.
    `key`          its private key in PEM, without a passphrase, for its owner's eyes only.
    `token_file`     instead of a certificate, a file with a bearer token, for its owner's eyes only.
    `token_command`  instead of that, a program with its arguments that writes one to stdout.

    Files are read when they are first needed, and again when they have changed; a token is fetched for each call and each stream,
    and goes over TLS only. `check` raises `ConfigError` at once.
    """

    authorities: str | os.PathLike[str] = ""
    certificate: str | os.PathLike[str] = ""
    key: str | os.PathLike[str] = ""
    token_file: str | os.PathLike[str] = ""
    token_command: Sequence[str] = ()

    def check(self) -> None:
        """Read everything, and throw it away. Raises `ConfigError`, which names the file."""
        self.read()

    def read(self) -> Material:
        """What the files hold now. Raises `ConfigError`: one is missing, no PEM, does not fit the other, or is open to others."""
        if bool(self.certificate) != bool(self.key):
            raise ConfigError(f"a {'certificate' if self.certificate else 'key'} is named alone", hint=PAIR)
        material = Material(_content(self.certificate), _content(self.key), _content(self.authorities))
        if self.key:
            check_mode(Path(self.key))
            _check_pair(os.fspath(self.certificate), os.fspath(self.key))
        if self.authorities:
            _check_authorities(os.fspath(self.authorities))
        if self.token_file and self.token_command:
            raise ConfigError("a token's file and its command are both named", hint="Name one of them.")
        if self.token_file:
            self.token()
        return material

    def token(self) -> str:
        """The bearer token as it is now; waits for the command. Raises `ConfigError`, which never holds it."""
        if self.token_file:
            check_mode(Path(self.token_file), "token")
            text, source = content_of(self.token_file).decode("utf-8", "replace"), os.fspath(self.token_file)
        else:
            text, source = written_by(self.token_command), f"the command {self.token_command[0]}"
        if _TOKEN.fullmatch(text.strip()) is None:
            raise ConfigError(f"{source} holds no bearer token", hint="It has to be one line of letters, digits and -._~+/= alone.")
        return text.strip()

    def stamp(self) -> Stamp:
        """What the files look like now: another value means that they were written anew. A missing file has a value too."""
        return tuple(stamp_of(one) for one in (self.authorities, self.certificate, self.key) if one)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For whoever dials. Raises `ConfigError`."""
        material = self.read()
        channel = grpc.ssl_channel_credentials(material.authorities or None, material.key or None, material.certificate or None)
        if not (self.token_file or self.token_command):
            return channel
        return grpc.composite_channel_credentials(channel, grpc.metadata_call_credentials(_Bearer(self), name="troth"))


class _Bearer(grpc.AuthMetadataPlugin):
    """Shows the token with each call. gRPC asks from a thread of its own, so nobody waits for the command but this call."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        """Give the header, or why there is none."""
        try:
            callback((("authorization", f"Bearer {self._tls.token()}"),), None)
        except ConfigError as error:
            callback((), error)


class Newest:
    """Fetches what the files of a server hold, whenever they have changed. Making it raises `ConfigError` for bad files.

    `tell` hears of every change: `None`, or why it cannot be used. gRPC calls from a thread of its own.
    """

    def __init__(self, tls: Tls, tell: Callable[[ConfigError | None], None]) -> None:
        self._tls, self._tell = tls, tell
        self._stamp = tls.stamp()
        self.first = _configuration(tls)

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        """The new files, or `None` to go on with what there is."""
        stamp = self._tls.stamp()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            configuration = _configuration(self._tls)
        except ConfigError as error:
            self._tell(error)
            return None
        self._tell(None)
        return configuration


def server_credentials(tls: Tls, tell: Callable[[ConfigError | None], None]) -> grpc.ServerCredentials:
    """For whoever listens; it asks peers for a certificate where authorities are named. Raises `ConfigError` for bad files.

    `tell` is as in `Newest`.
    """
    newest: Any = Newest(tls, tell)
    return grpc.dynamic_ssl_server_credentials(newest.first, newest, require_client_authentication=bool(tls.authorities))


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    material = tls.read()
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.authorities or None)


# ---- one file


def content_of(path: str | os.PathLike[str]) -> bytes:
    """What a file holds. Raises `ConfigError`."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{os.fspath(path)} cannot be read: {error.strerror}", hint="Name a file that is there.") from error


def _content(path: str | os.PathLike[str]) -> bytes:
    if not path:
        return b""
    content = content_of(path)
    if b"-----BEGIN " not in content:
        raise ConfigError(f"{os.fspath(path)} is not PEM", hint="Name a file that has a line -----BEGIN ...-----.")
    return content


def check_mode(path: Path, what: str = "key") -> None:
    """As PostgreSQL's libpq does: for the owner only, or for a group where root owns it (that is how secrets are mounted)."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error.strerror}", hint="Name a file that is there.") from error
    forbidden = 0o037 if found.st_uid == 0 else 0o077
    if stat.S_IMODE(found.st_mode) & forbidden:
        text = f"the {what} {path} is open to others (mode {stat.S_IMODE(found.st_mode):04o})"
        raise ConfigError(text, hint=f"Make the {what} readable for its owner only: chmod 0600.")


def written_by(command: Sequence[str], what: str = "token") -> str:
    """What a command writes to stdout. Raises `ConfigError`: it gave none of what is wanted.

    What it writes to stderr is ours to show, so nothing of it is kept."""
    try:
        done = subprocess.run(list(command), stdout=subprocess.PIPE, timeout=COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        why = f"exit code {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else type(error).__name__
        text = f"the command {command[0]} gave no {what}: {why}"
        raise ConfigError(text, hint="Run it by hand, and mend what it says.") from error
    return done.stdout.decode("utf-8", "replace")


def _check_pair(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or str(error)
        text = f"{certificate} and {key} cannot be used together: {why}"
        raise ConfigError(text, hint="Name a certificate and its own key.") from error


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _check_authorities(path: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        text = f"{path} has no certificate that can be used: {error.reason}"
        raise ConfigError(text, hint="Name the authority's certificate.") from error


def stamp_of(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """What a file looks like now: another value means that it was written anew."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
