"""Payload in records, sealed with payload keys: the one place where a log and its keys meet.

A record is what recovery needs, and payload: idempotency keys with what is kept with them, arguments, results, reasons. Where
there are payload keys, the fields with payload are sealed where they stand as a log serialises its record, and opened as the engine
reads it; neither cores nor logs know. Everything else stays in clear. So every decision is recovered and settled without a
key: what a commit or an abort needs (ids, participants, orders, locks, undo data) is never sealed.

A sealed value is AES-256-GCM (NIST SP 800-38D) under a *data key* that the process draws, and carries that key, sealed with the
payload key (an envelope): payload keys may live where only a command reaches, each of them seals a few data keys, and a value can
be opened wherever the cleaner has copied it to.

    00 'T' 'S' 01  length and id of the payload key  nonce  sealed data key  nonce  sealed value

The zero is no tag of protobuf, so nobody takes such bytes for a message. In a text the same stands in base64 behind `sealed:`.

What cannot be opened, since its key is not there, stays sealed: it is written back as it was, and opens when the key is back.
"""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError, Message

from troth.errors import Reason
from troth.logs import get_logger
from troth.payload_keys import Ring
from troth.v1 import common_pb2, record_pb2

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

log = get_logger("troth.log")

MAGIC = b"\x00TS\x01"
TEXT = "sealed:"
NONCE_BYTES = 12
DATA_KEY_BYTES = 32
_ENVELOPE_BYTES = NONCE_BYTES + DATA_KEY_BYTES + 16
"""A nonce, and the data key with the tag of GCM behind it."""
DATA_KEY_VALUES_MAX = 1 << 24
"""Values under one data key. Random nonces allow 2^32 (SP 800-38D, section 8.3)."""
DATA_KEYS_KEPT_MAX = 4096
"""Opened data keys that are remembered."""

_WRITTEN = {
    "ended": ("why",), "participant_bound": ("why",), "heuristic": ("why",), "forgotten": ("why",), "loss": ("why",),
    "review": ("request", "would"), "branch_finished": ("why",), "branch_parked": ("why",), "force_ordered": ("why",),
    "schema_changed": ("statement",),
}  # fmt: skip
"""Of each kind of record the fields that hold what people or the application wrote."""
_CLAIMS = frozenset({"decided", "ended", "key_opened", "forgotten"})
_WORKS = frozenset({"branch_active", "branch_prepared"})

_MARKED = b"\x92\x01"
"""The tag of `sealed_with`."""


class RecordCodec:
    """Seals what the log of a role serialises, and opens what was read from it. Without a ring nothing is sealed."""

    def __init__(self, role: str, keyring: Callable[[], Ring] | None = None) -> None:
        self._role = role
        self._kind = record_pb2.CoordinatorRecord if role == "coordinator" else record_pb2.ParticipantRecord
        self._box = Box(keyring) if keyring is not None else None
        self._left: dict[bytes, str] = {}
        """Values that were left sealed, and the key of each."""
        self.needed: Counter[str] = Counter()
        """How many of the records that were read need which key."""

    @property
    def missing(self) -> list[str]:
        """Keys that are not there."""
        return sorted({key_id for key_id in self._left.values() if self._box is None or not self._box.has(key_id)})

    @property
    def unopened(self) -> list[str]:
        """Keys that are there, and have not opened what bears their name: it was changed, or the key is another one."""
        return sorted(set(self._left.values()).difference(self.missing))

    @property
    def unreadable(self) -> bool:
        """Whether anything was left sealed."""
        return bool(self._left)

    @property
    def seal(self) -> Callable[[Message], bytes] | None:
        """What serialises a record in place of protobuf; `None` where there is nothing to seal."""
        return None if self._box is None and not self._left else self._sealed

    def opened(self, bodies: Sequence[bytes]) -> list[bytes]:
        """The bodies of a log's records with the payload in clear, as far as the keys are there."""
        return [self._opened(body) if _MARKED in body else body for body in bodies]

    def tell(self) -> None:
        """Say what the log needs of payload keys, and what of it is not there."""
        if self.needed:
            log.info("the log needs payload keys", role=self._role, keys=dict(self.needed))
        if self.missing:
            told = Reason.PAYLOAD_KEY_MISSING
            log.warning(
                "payload keys are missing: what they have sealed stays sealed, and everything else goes on",
                role=self._role, reason=told.name, keys=self.missing, hint=told.hint,
            )  # fmt: skip
        if self.unopened:
            log.error(
                "sealed payload does not open: it was changed, or a payload key is not the one that had its name; it is left so",
                role=self._role, reason=Reason.PAYLOAD_UNREADABLE.name, keys=self.unopened,
                hint="Bring back the key, if it is another one; otherwise find out who has written to the log: `troth log verify`.",
            )  # fmt: skip

    def _sealed(self, record: Message) -> bytes:
        copy: Any = type(record)()
        copy.CopyFrom(record)
        for message, field in _places(copy):
            key_id = self._left.get(_sealed_value(message, field), "")
            if not key_id and self._box is not None:
                _put_sealed(message, field, self._box.sealed(_clear(message, field), _name(message, field)))
                key_id = self._box.key_id
            copy.sealed_with = key_id or copy.sealed_with
        return bytes(copy.SerializeToString())

    def _opened(self, body: bytes) -> bytes:
        record = parsed(self._kind, body)
        if record is None or not record.sealed_with:
            return body
        needed: set[str] = set()
        for message, field in _places(record):
            sealed = _sealed_value(message, field)
            if key_id := key_of(sealed):
                needed.add(key_id)
                content = self._box.opened(sealed, key_id, _name(message, field)) if self._box is not None else None
                if content is None:
                    self._left[sealed] = key_id
                else:
                    _put_clear(message, field, content)
        self.needed.update(needed)
        record.ClearField("sealed_with")
        return bytes(record.SerializeToString())


def parsed(kind: type[Message], body: bytes) -> Any | None:
    """The record; `None` for what is none."""
    record: Any = kind()
    try:
        record.ParseFromString(body)
    except DecodeError:
        return None
    return record


def keys_of(record: Any) -> set[str]:
    """The payload keys that a record needs."""
    places = _places(record) if record.sealed_with else ()
    return {key_id for message, field in places if (key_id := key_of(_sealed_value(message, field)))}


def show_sealed(record: Any) -> None:
    """Say of each sealed value of a record, where it stands, which key it needs: for people."""
    for message, field in _places(record) if record.sealed_with else ():
        if key_id := key_of(_sealed_value(message, field)):
            told = f"(sealed with {key_id})"
            there = getattr(message, field)
            if isinstance(there, common_pb2.Results):
                there.CopyFrom(common_pb2.Results(sealed=told.encode()))
            else:
                setattr(message, field, told.encode() if isinstance(there, bytes) else told)


def key_of(value: bytes) -> str:
    """The payload key of a sealed value; empty for one in clear."""
    if not value.startswith(MAGIC):
        return ""
    start = len(MAGIC) + 1
    return value[start : start + value[len(MAGIC)]].decode("ascii", "replace") if len(value) > start else ""


# ---- where payload stands


def _places(record: Any) -> Iterator[tuple[Any, str]]:
    """Each field of a record that has payload in it: the message that it is a field of, and its name."""
    kind = record.WhichOneof("kind") or ""
    body: Any = getattr(record, kind, None)
    found = [(body, field) for field in _WRITTEN.get(kind, ())]
    if kind in _CLAIMS:
        found += [(body.claim, "key"), (body.claim, "body_hash"), (body.claim, "result")]
    if kind in _WORKS:
        found += [(body.work, "results"), *((operation, "arguments") for operation in body.work.operations)]
    if kind == "branch_finished":
        found.append((body, "results"))
    return ((message, field) for message, field in found if _clear(message, field))


def _clear(message: Any, field: str) -> bytes:
    """A value as the bytes that are sealed."""
    value = getattr(message, field)
    if isinstance(value, common_pb2.Results):
        return bytes(value.SerializeToString())
    return value if isinstance(value, bytes) else str(value).encode()


def _sealed_value(message: Any, field: str) -> bytes:
    """What stands in place of a value; empty where it is in clear."""
    value = getattr(message, field)
    if isinstance(value, common_pb2.Results):
        value = value.sealed
    elif isinstance(value, str):
        try:
            value = base64.b64decode(value.removeprefix(TEXT), validate=True) if value.startswith(TEXT) else b""
        except ValueError:
            value = b""
    return value if key_of(value) else b""


def _put_sealed(message: Any, field: str, sealed: bytes) -> None:
    there = getattr(message, field)
    if isinstance(there, common_pb2.Results):
        there.CopyFrom(common_pb2.Results(sealed=sealed))
    else:
        setattr(message, field, sealed if isinstance(there, bytes) else TEXT + base64.b64encode(sealed).decode())


def _put_clear(message: Any, field: str, value: bytes) -> None:
    there = getattr(message, field)
    if isinstance(there, common_pb2.Results):
        there.CopyFrom(common_pb2.Results.FromString(value))
    else:
        setattr(message, field, value if isinstance(there, bytes) else value.decode())


def _name(message: Any, field: str) -> bytes:
    """What a value is bound to: one that was moved to another field does not open."""
    return f"{message.DESCRIPTOR.full_name}.{field}".encode()


# ---- the box


class Box:
    """Seals values with the newest key of a ring, and opens what any of its keys has sealed. For one thread."""

    def __init__(self, keyring: Callable[[], Ring]) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM
        self._keyring = keyring
        self._newest = keyring().newest
        self._key: AESGCM | None = None
        self._head = b""
        self._sealed = 0
        self._opened: dict[bytes, AESGCM | None] = {}

    def has(self, key_id: str) -> bool:
        """Whether there is a key of this name."""
        return self._keyring().secret_of(key_id) is not None

    @property
    def key_id(self) -> str:
        """The payload key that has sealed the value before."""
        return self._newest.id

    def sealed(self, value: bytes, field: bytes) -> bytes:
        """The value, sealed."""
        newest = self._keyring().newest
        if self._key is None or self._sealed >= DATA_KEY_VALUES_MAX or newest != self._newest:
            self._newest = newest
            self._draw()
        assert self._key is not None
        self._sealed += 1
        nonce = os.urandom(NONCE_BYTES)
        return self._head + nonce + self._key.encrypt(nonce, value, field)

    def _draw(self) -> None:
        """Draw a data key, and seal it with the payload key."""
        data_key, key_id, nonce = os.urandom(DATA_KEY_BYTES), self.key_id.encode(), os.urandom(NONCE_BYTES)
        envelope = nonce + self._cipher(self._newest.secret).encrypt(nonce, data_key, key_id)
        self._key, self._sealed = self._cipher(data_key), 0
        self._head = MAGIC + bytes((len(key_id),)) + key_id + envelope

    def opened(self, value: bytes, key_id: str, field: bytes) -> bytes | None:
        """The value in clear; `None` when it does not open: its key is missing or is another one, or it was changed."""
        from cryptography.exceptions import InvalidTag

        start = len(MAGIC) + 1 + len(key_id)
        head, rest = value[: start + _ENVELOPE_BYTES], value[start + _ENVELOPE_BYTES :]
        if head not in self._opened:
            if len(self._opened) >= DATA_KEYS_KEPT_MAX:
                self._opened.clear()
            self._opened[head] = self._unsealed(head[start:], key_id)
        data_key = self._opened[head]
        try:
            return data_key.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], field) if data_key is not None else None
        except (InvalidTag, ValueError):
            return None

    def _unsealed(self, envelope: bytes, key_id: str) -> AESGCM | None:
        from cryptography.exceptions import InvalidTag

        secret = self._keyring().secret_of(key_id)
        try:
            if secret is not None:
                return self._cipher(self._cipher(secret).decrypt(envelope[:NONCE_BYTES], envelope[NONCE_BYTES:], key_id.encode()))
        except (InvalidTag, ValueError):
            pass
        return None
