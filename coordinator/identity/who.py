"""Who calls: the one place of the daemon that says it, for every RPC and every stream.

A certificate that was shown counts; else a bearer token; else the caller is nobody. A token that is not accepted makes nobody of no
one: the call is refused, and told why.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from coordinator.identity import certificates, jwts, tokens
from coordinator.identity.followed import Followed
from coordinator.shell_settings import ShellSettings
from troth.errors import Reason, RequestError
from troth.identity.peer import NOBODY, Identity, identity_of

CALLER: ContextVar[Identity] = ContextVar("troth_caller", default=NOBODY)
"""Who makes the call that is handled now."""

REMEMBERED_MAX = 10_000
"""JWTs whose signature was checked and is not checked again."""
BEARER = "bearer "


class Call(Protocol):
    """What is needed of gRPC's context."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What the connection says."""

    def invocation_metadata(self) -> Any:
        """What the caller sends beside the request."""


class Witness:
    """Says who calls. Making it raises `ConfigError` for files that cannot be used."""

    def __init__(self, shell: ShellSettings, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tokens = Followed(shell.tokens, tokens.parse) if shell.tokens else None
        self._keys = Followed(shell.jwt_keys, jwts.parse_keys) if shell.jwt_keys else None
        self._revoked = Followed(shell.tls_revoked, certificates.parse_revoked) if shell.tls_revoked else None
        self._expected = jwts.Expected(shell.jwt_audience, shell.jwt_issuer, shell.jwt_claim)
        self._remembered: OrderedDict[str, Identity] = OrderedDict()
        self._remembered_of = 0
        """Of which version of the keys they are."""

    def followed(self) -> Iterable[Followed[Any]]:
        """The files that are followed."""
        return [one for one in (self._tokens, self._keys, self._revoked) if one is not None]

    def identity(self, call: Call) -> Identity:
        """Who calls. Raises `RequestError` (UNAUTHENTICATED, TOKEN_EXPIRED)."""
        connection = call.auth_context()
        shown = identity_of(connection)
        if shown is not NOBODY:
            return self._of_certificate(shown, connection)
        header = next((str(value) for key, value in call.invocation_metadata() or () if key == "authorization"), "")
        if not header:
            return NOBODY
        if header[: len(BEARER)].lower() != BEARER:
            raise RequestError(Reason.UNAUTHENTICATED, "the header authorization is no bearer token")
        return self._of_token(header[len(BEARER) :].strip())

    def check(self, identity: Identity) -> None:
        """Raise `RequestError` (TOKEN_EXPIRED) when what says who it is has expired meanwhile."""
        if identity.until is not None and identity.until <= self._clock():
            raise RequestError(Reason.TOKEN_EXPIRED, f"the {identity.shown_by} of {identity} has expired")

    def _of_certificate(self, shown: Identity, connection: Mapping[str, Iterable[bytes]]) -> Identity:
        facts = next((certificates.facts_of(pem) for pem in connection.get("x509_pem_cert", ())), None)
        if facts is None:
            return shown
        if self._revoked is not None:
            certificates.check_not_revoked(facts, self._revoked(), datetime.fromtimestamp(self._clock(), UTC))
        identity = replace(shown, until=facts.until)
        self.check(identity)
        return identity

    def _of_token(self, token: str) -> Identity:
        identity = self._of_file(token)
        if identity is None and self._keys is not None:
            identity = self._of_provider(token, self._keys)
        if identity is None:
            raise RequestError(Reason.UNAUTHENTICATED, "the token is not known here")
        self.check(identity)
        return identity

    def _of_file(self, token: str) -> Identity | None:
        if self._tokens is None:
            return None
        entry = self._tokens().get(tokens.hash_of(token))
        return entry.identity if entry is not None else None

    def _of_provider(self, token: str, keys: Followed[Mapping[str, Any]]) -> Identity:
        content = keys()
        if keys.versions != self._remembered_of:
            self._remembered.clear()  # a key may be gone because it was stolen
            self._remembered_of = keys.versions
        identity = self._remembered.get(token)
        if identity is None:
            identity = self._remembered[token] = jwts.identity_of(token, content, self._expected)
            if len(self._remembered) > REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        return identity
