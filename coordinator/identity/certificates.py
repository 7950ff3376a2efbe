"""What gRPC does not look at in a peer's certificate: whether it was revoked, and when it ends while the connection goes on.

Needs the extra `pki`; without it, and without a list of revoked certificates, a connection lives on with what it began with.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from troth.errors import ConfigError, Reason, RequestError


class Facts(NamedTuple):
    """What a certificate says of itself."""

    issuer: bytes
    serial: int
    until: float
    """When it expires, in seconds since the Unix epoch."""


class Revoked(NamedTuple):
    """A list of revoked certificates (RFC 5280, section 5)."""

    serials: Mapping[bytes, frozenset[int]]
    """By issuer."""
    next_update: float
    """From then on the list is stale, and what it does not say is not known."""


@lru_cache(maxsize=4096)
def facts_of(certificate: bytes) -> Facts | None:
    """What a certificate in PEM says; `None` where nothing is there to read it."""
    try:
        from cryptography import x509
    except ImportError:
        return None
    read = x509.load_pem_x509_certificate(certificate)
    return Facts(read.issuer.public_bytes(), read.serial_number, read.not_valid_after_utc.timestamp())


def parse_revoked(content: bytes) -> Revoked:
    """The lists of a file, in PEM, one after the other. Raises `ConfigError`."""
    try:
        from cryptography import x509
    except ImportError as error:
        hint = "Install it: pip install 'troth[coordinator,pki]'."
        raise ConfigError("lists of revoked certificates need the extra 'pki'", hint=hint) from error
    end = b"-----END X509 CRL-----"
    serials: dict[bytes, frozenset[int]] = {}
    next_update = float("inf")
    try:
        for part in [part + end for part in content.split(end)[:-1]]:
            one = x509.load_pem_x509_crl(part)
            serials[one.issuer.public_bytes()] = frozenset(entry.serial_number for entry in one)
            if one.next_update_utc is not None:
                next_update = min(next_update, one.next_update_utc.timestamp())
    except ValueError as error:
        raise ConfigError(f"the list of revoked certificates cannot be read: {error}", hint="Name a CRL in PEM.") from error
    if not serials:
        raise ConfigError("there is no list of revoked certificates in it", hint="Name a CRL in PEM.")
    return Revoked(serials, next_update)


def check_not_revoked(facts: Facts, revoked: Revoked, now: datetime) -> None:
    """Raise `RequestError` (UNAUTHENTICATED) for a certificate that was revoked, or of which a stale list cannot tell."""
    if facts.serial in revoked.serials.get(facts.issuer, ()):
        raise RequestError(Reason.UNAUTHENTICATED, "the certificate was revoked", hint="Get a new certificate from its authority.")
    if revoked.next_update < now.astimezone(UTC).timestamp():
        text = "the list of revoked certificates is out of date, so nobody knows whether this one was revoked"
        raise RequestError(Reason.UNAUTHENTICATED, text, hint="Renew the file that `tls_revoked` names.")
