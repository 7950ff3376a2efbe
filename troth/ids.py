"""Identities: what they look like, and how they are checked.

A transaction id is `COORDINATOR.EPOCH.NONCE.SESSION.NUMBER`, for example `c1.7.9f2c4e1a.3.42`. The client knows it before the
coordinator has answered, because it numbers its transactions itself under the session that Welcome gave it. Ids are compared
whole, never by prefix (a prefix comparison lost branches in DTM), and the nonce keeps two lives of a coordinator
apart whose epoch went back with a restored disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from troth.errors import Reason, RequestError

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
NONCE_PATTERN = re.compile(r"[0-9a-f]{8,32}\Z")
SLOT_PATTERN = re.compile(r"(0|[1-9][0-9]{0,5})\Z")
"""The number behind a participant's name, in the name of one of its slots."""
NAME_BYTES_MAX = 63
NUMBER_DIGITS_MAX = 19
"""Of each number in an id: all of them fit into 64 bits."""
ID_BYTES_MAX = NAME_BYTES_MAX + 32 + 3 * NUMBER_DIGITS_MAX + 4
"""Of a whole transaction id."""


def check_name(kind: str, name: str) -> str:
    """Return `name`, or raise `RequestError` (INVALID_NAME) when it is no legal name for a `kind` of thing."""
    if not isinstance(name, str) or not NAME_PATTERN.match(name):
        raise RequestError(
            Reason.INVALID_NAME,
            f"{repr(name)[:82]} is not a {kind} name: use 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter or digit",
        )
    return name


def check_participant(name: str) -> str:
    """Return the name of a participant or of a slot of one (`payments/2`), or raise `RequestError` (INVALID_NAME)."""
    service, slash, slot = name.partition("/") if isinstance(name, str) else (name, "", "")
    check_name("participant", service)
    if slash and not SLOT_PATTERN.match(slot):
        raise RequestError(Reason.INVALID_NAME, f"{name[:82]!r} is no slot of {service}: one looks like '{service}/0'")
    return name


def service_of(name: str) -> str:
    """The participant that a slot belongs to; a participant without slots is its own."""
    return name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class TransactionId:
    """A parsed transaction id. The text form is the one that travels and is compared."""

    coordinator: str
    epoch: int
    nonce: str
    session: int
    number: int

    def __str__(self) -> str:
        return f"{self.session_prefix}.{self.number}"

    @property
    def session_prefix(self) -> str:
        """The session's name: the id without its number."""
        return f"{self.coordinator}.{self.epoch}.{self.nonce}.{self.session}"

    @staticmethod
    def parse(text: str) -> TransactionId:
        """Parse the text form, or raise `RequestError` (INVALID_TRANSACTION_ID)."""
        parts = text.split(".")
        if len(parts) != 5 or not NAME_PATTERN.match(parts[0]) or not NONCE_PATTERN.match(parts[2]):
            raise _invalid(text)
        epoch, session, number = (_canonical_number(part, text) for part in (parts[1], parts[3], parts[4]))
        return TransactionId(parts[0], epoch, parts[2], session, number)


def _canonical_number(part: str, text: str) -> int:
    # One id has one text: no leading zeros, no signs, no other digits than ASCII, at most 64 bits.
    if not (part.isascii() and part.isdigit()) or (len(part) > 1 and part[0] == "0") or len(part) > NUMBER_DIGITS_MAX:
        raise _invalid(text)
    return int(part)


def _invalid(text: str) -> RequestError:
    return RequestError(
        Reason.INVALID_TRANSACTION_ID,
        f"{text[:120]!r} is not a transaction id; one looks like 'c1.7.9f2c4e1a.3.42'",
    )
