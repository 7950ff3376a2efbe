"""Who a peer is: the name that its certificate gives it, or the token that it shows.

A certificate may say many things of its holder. One of them is taken, and always the same: its SPIFFE id if it has one (SPIFFE
X.509-SVID, section 2: a single URI), otherwise its first DNS name. The common name is not one: for years nobody has checked it
(RFC 9525, section 2), and it is no name of anything.

The names of the kinds cannot be taken for one another: a SPIFFE id begins with `spiffe://`, a DNS name has no colon, and whoever
shows a token is called `token:NAME` or `oidc:NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CERTIFICATE, TOKEN, OIDC, SOCKET, NOTHING = "certificate", "token", "oidc", "socket", "nothing"

_LABEL = "[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?=[a-z]){_LABEL}", re.ASCII | re.IGNORECASE)
"""Its last label begins with a letter: an IP address is no name. Nor is a wildcard: it is many."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a peer is, and what says so."""

    name: str
    """`spiffe://domain/path`, a DNS name in lower case, `token:NAME`, `oidc:NAME` or `socket:admin`; empty for nobody."""
    shown_by: str
    """`certificate`, `token`, `oidc`, `socket` or `nothing`."""
    until: float | None = None
    """When what says so expires, in seconds since the Unix epoch; `None` for never, or not known."""

    def __str__(self) -> str:
        return self.name or "nobody"


NOBODY = Identity("", NOTHING)
OPERATOR_AT_THE_SOCKET = Identity("socket:admin", SOCKET)
"""Whoever may open the coordinator's unix socket: the file's mode says who that is."""


def named(name: str) -> Identity:
    """The identity of a name that somebody tells who is believed."""
    kind = name.partition(":")[0]
    return Identity(name, kind if kind in (TOKEN, OIDC, SOCKET) else CERTIFICATE) if name else NOBODY


def identity_of(auth_context: Mapping[str, Iterable[bytes]] | None) -> Identity:
    """The identity behind a call, from what gRPC says of its connection; `NOBODY` where there is none.

    A certificate was checked by gRPC before: it comes from a named authority and is in date.
    """
    if not auth_context:
        return NOBODY
    for raw in auth_context.get("peer_spiffe_id", ()):
        return Identity(raw.decode("utf-8", "replace"), CERTIFICATE)
    for raw in auth_context.get("x509_subject_alternative_name", ()):
        text = raw.decode("utf-8", "replace")
        if _DNS_NAME.fullmatch(text):
            return Identity(text.lower(), CERTIFICATE)
    return NOBODY
