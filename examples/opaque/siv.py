"""A payload codec that encrypts: the coordinator passes on what it cannot read. Take it as it is, or as a pattern.

AES-SIV (RFC 5297) needs no nonce: the same payload is encrypted the same way each time, so a retry under an idempotency key is
known as one. Who reads along learns that two payloads are equal, and how long they are; nothing else. `what` is bound to each, so
one that is put in place of another does not open.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from participant_sdk import PayloadCodec

KEY_BYTES = 64
"""AES-256-SIV: two keys of 256 bits. `AESSIV.generate_key(512)` draws one."""


class SivCodec(PayloadCodec):
    """`keys` by their names, each of up to 255 characters; the first one encrypts, and each opens what it has encrypted.

    So a new key is added behind the others everywhere first, and goes to the front when everybody has it.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers = {name.encode("ascii"): AESSIV(key) for name, key in keys.items()}
        self._newest = next(iter(self._ciphers))

    @classmethod
    def parse(cls, text: str) -> SivCodec:
        """From lines such as `2026-11 BASE64`, as a secret's file has them."""
        return cls({name: base64.b64decode(key) for name, key in (line.split() for line in text.splitlines() if line.strip())})

    def encode(self, payload: bytes, what: str) -> bytes:
        """Length and name of the key, then the payload as AES-SIV makes it, behind a byte: it refuses to encrypt nothing."""
        head = bytes((len(self._newest),)) + self._newest
        return head + self._ciphers[self._newest].encrypt(b"\x00" + payload, [what.encode(), head])

    def decode(self, payload: bytes, what: str) -> bytes:
        """Raises `KeyError` for a key that is not there, and `InvalidTag` for what was changed."""
        head, sealed = payload[: 1 + payload[0]], payload[1 + payload[0] :]
        return self._ciphers[head[1:]].decrypt(sealed, [what.encode(), head])[1:]
