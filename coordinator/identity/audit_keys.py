"""Keys that sign an audit log's checkpoints: Ed25519 (RFC 8032), in PEM. Needs the extra `pki`."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from troth.errors import ConfigError
from troth.identity.tls import check_mode, content_of

HINT = "`troth audit key FILE` makes one."


def make(path: Path) -> Path:
    """Make a key, for its owner only, and beside it what others verify with (`.pub`), whose file is returned."""
    if path.exists():
        raise ConfigError(f"{path} is there already", hint="Name another file: an old key verifies what it has signed.")
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = path.with_name(f"{path.name}.pub")
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


def read_private(path: str | Path) -> Ed25519PrivateKey:
    """The key that signs. Raises `ConfigError`, also for one that others can read."""
    check_mode(Path(path))
    try:
        key = load_pem_private_key(content_of(path), None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is no private key", hint=HINT) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is no key of Ed25519", hint=HINT)
    return key


def read_public(path: str | Path) -> Ed25519PublicKey:
    """The key that verifies. Raises `ConfigError`."""
    try:
        key = load_pem_public_key(content_of(path))
    except ValueError as error:
        raise ConfigError(f"{path} is no public key", hint=HINT) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path} is no key of Ed25519", hint=HINT)
    return key
