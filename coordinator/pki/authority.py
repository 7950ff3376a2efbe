"""A private certificate authority in a directory: one key that signs, and short-lived certificates for processes and people.

    authority.pem, authority.key     the authority; the key signs all others and leaves the machine never
    NAME.pem, NAME.key               what it issued

Keys are on the curve P-256, readable for their owner only. A certificate names its holder by a SPIFFE id or by DNS names (and by
IP addresses, for whoever is dialled at one), and may be used on both sides of a connection. The profile is RFC 5280's; an id is as
SPIFFE's X.509-SVID has it: one URI, no authority bit, digital signature only.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from troth.errors import ConfigError

AUTHORITY = "authority"
AUTHORITY_DAYS = 3_650
LEAF_DAYS_DEFAULT, LEAF_DAYS_MAX = 30, 398
"""Longer than 398 days no browser takes a certificate, and nobody should."""
BACKDATED = timedelta(minutes=5)
"""Clocks differ; a new certificate is valid at once everywhere."""
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a certificate says, for people."""

    file: str
    names: tuple[str, ...]
    """SPIFFE ids, DNS names, IP addresses."""
    is_authority: bool
    not_after: datetime
    serial: str
    """In hexadecimal."""

    @property
    def days_left(self) -> float:
        """Below zero when it has expired."""
        return (self.not_after - datetime.now(UTC)) / timedelta(days=1)


def init(directory: Path, organisation: str) -> Path:
    """Make the authority; returns its certificate's file. Raises `ConfigError` when there is one."""
    certificate, key = _files(directory, AUTHORITY)
    if certificate.exists() or key.exists():
        raise ConfigError(f"{directory} has an authority already", hint="Use it, or name another directory.")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, organisation)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(private.public_key())
    built = (
        _begun(name, name, private.public_key(), timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
    )
    _write(key, _key_pem(private), 0o600)
    _write(certificate, _pem(built.sign(private, hashes.SHA256())), 0o644)
    return certificate


def issue(directory: Path, file: str, names: Sequence[str], days: int = LEAF_DAYS_DEFAULT) -> Path:
    """Issue a certificate and a new key, in place of those that have the file name; returns the certificate's file.

    `names` are SPIFFE ids, DNS names or IP addresses. Raises `ConfigError`.
    """
    if not _FILE_NAME.fullmatch(file) or file == AUTHORITY:
        raise ConfigError(f"{file!r} cannot be the name of a certificate's file", hint="Use letters, digits, '-', '_' and '.'.")
    if not 0 < days <= LEAF_DAYS_MAX:
        raise ConfigError(f"a certificate for {days} days is not issued", hint=f"Use 1 to {LEAF_DAYS_MAX} days.")
    general = _general_names(names)
    authority, signer = _load(directory)
    left = authority.not_valid_after_utc - datetime.now(UTC)
    if left < timedelta(days=days):
        raise ConfigError(f"the authority in {directory} ends in {left.days} days", hint="Make a new authority.")
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file[:64])])
    built = (
        _begun(subject, authority.subject, private.public_key(), timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(general), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    certificate, key = _files(directory, file)
    # Whoever reads in between finds a pair that does not fit, and keeps the one that it has.
    _write(key, _key_pem(private), 0o600)
    _write(certificate, _pem(built.sign(signer, hashes.SHA256())), 0o644)
    return certificate


def renew(directory: Path, file: str, days: int = LEAF_DAYS_DEFAULT) -> Path:
    """Issue it again, for the same names. Raises `ConfigError`."""
    return issue(directory, file, show(_files(directory, file)[0]).names, days)


def show(path: Path) -> Shown:
    """Read a certificate. Raises `ConfigError`."""
    found = _read(path)
    try:
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        constraints = False
    return Shown(str(path), _names_of(found), constraints, found.not_valid_after_utc, f"{found.serial_number:x}")


# ---- parts


def _begun(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, valid: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
        .serial_number(secrets.randbits(159) | 1).not_valid_before(now - BACKDATED).not_valid_after(now + valid)
    )  # fmt: skip


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    if not names:
        raise ConfigError("a certificate needs a name", hint="Give spiffe://DOMAIN/PATH, a DNS name or an IP address.")
    uris = [name for name in names if "://" in name]
    if len(uris) > 1:
        raise ConfigError(f"{uris} are too many ids", hint="A certificate has one SPIFFE id (X.509-SVID, section 2).")
    return [_general_name(name) for name in names]


_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)+", re.ASCII)
_DNS = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def _general_name(name: str) -> x509.GeneralName:
    if _SPIFFE.fullmatch(name):
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if _DNS.fullmatch(name):
            return x509.DNSName(name)
    hint = "Give spiffe://DOMAIN/PATH, a DNS name in lower case or an IP address."
    raise ConfigError(f"{name!r} is no name for a certificate", hint=hint)


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(one.value) for one in extension.value)


def _files(directory: Path, file: str) -> tuple[Path, Path]:
    return directory / f"{file}.pem", directory / f"{file}.key"


def _load(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate, key = _files(directory, AUTHORITY)
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except OSError as error:
        text = f"{key} cannot be read: {error.strerror}"
        raise ConfigError(text, hint="`troth pki init` makes an authority.") from error
    except (ValueError, TypeError) as error:
        text = f"{key} is no private key in PEM without a passphrase"
        raise ConfigError(text, hint="Put the authority's own key back.") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{key} was not made here", hint="Name the directory that `troth pki init` made.")
    return _read(certificate), private


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="`troth pki issue` makes a certificate.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no certificate in PEM", hint="Name a certificate's file.") from error


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never open to others in between."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
