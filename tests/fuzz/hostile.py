"""Messages of a peer that means no good: well formed, half right, or absurd.

`messages(Vote, ids)` draws a message of any generated type, field by field: texts, numbers and enums are drawn from what has
broken such code before (boundaries, unknown values, ids of others), and ids from a pool that the test names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

M = TypeVar("M", bound=Message)

TEXTS = (
    "", "a", "b", "h", "nobody", "\x00", "a\x00b", "é\U0001f600", "*", "../../etc/passwd", "'; DROP TABLE records; --",
    "UNKNOWN_REASON", "REFUSED", "housekeeping", "epoch", "x" * 5000,
)  # fmt: skip
BLOBS = (b"", b"\x00", b"\xff" * 9, b"\x0a\x02\x08\x02", b"x" * 2000)
_BITS = {
    FieldDescriptor.TYPE_UINT32: (0, 32), FieldDescriptor.TYPE_UINT64: (0, 64),
    FieldDescriptor.TYPE_INT32: (31, 31), FieldDescriptor.TYPE_INT64: (63, 63), FieldDescriptor.TYPE_SINT64: (63, 63),
}  # fmt: skip
"""Bits below and above zero of each integer type."""


def integers(field: FieldDescriptor) -> st.SearchStrategy[int]:
    """The ends of a field's range, small numbers, and a moment of the test's clock."""
    below, above = _BITS[field.type]
    ends = [0, 1, 2, 7, (1 << above) - 1] + ([-1, -(1 << below)] if below else [])
    if above > 32:
        ends += [1_800_000_000_000, 1_800_000_000_000 + 10**7, (1 << 63) - 1]
    return st.sampled_from(ends)


def enums(field: FieldDescriptor) -> st.SearchStrategy[int]:
    """Known values, unknown ones, and those that no version will ever know."""
    return st.sampled_from([*(value.number for value in field.enum_type.values), 99, -1, 2**31 - 1])


def ids_of(known: Iterable[str], session: str) -> list[str]:
    """Ids: those of the test, prefixes of them, those of others, and what is none."""
    known = list(known)
    coordinator, epoch, nonce, _ = session.split(".")
    return [
        *known, *(one[:-1] for one in known if one), *(one + "0" for one in known),
        f"{coordinator}.{epoch}.{nonce}.77.1", f"{coordinator}.{epoch}.{nonce}.0.1", f"{coordinator}.{epoch}.ffffffff.1.1",
        f"{coordinator}.0.{nonce}.1.1", f"{coordinator}.{int(epoch) + 1}.{nonce}.1.1", f"{coordinator}.{10**18}.{nonce}.1.1",
        f"{coordinator}0.{epoch}.{nonce}.1.1", f"c.{epoch}.{nonce}.1.1", f"{coordinator}.{epoch}.{nonce}.1.{10**19 - 1}",
        f"{coordinator}.{epoch}.{nonce}.1.{2**64 - 1}", f"{session}.", f"{session}.-1", f"{session}.01", "....", session,
        f"session/{session}", f"participant/{coordinator}", *TEXTS,
    ]  # fmt: skip


def messages(kind: type[M], ids: Sequence[str], names: Sequence[str] = TEXTS, **fixed: Any) -> st.SearchStrategy[M]:
    """Messages of one type; `fixed` gives the values of some fields."""
    fields = [field for field in kind.DESCRIPTOR.fields if field.name not in fixed]

    @st.composite
    def draw_message(draw: st.DrawFn) -> M:
        message = kind(**fixed)
        for field in fields:
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                _draw_messages(draw, message, field, ids, names)
            elif field.is_repeated:
                getattr(message, field.name).extend(draw(st.lists(_scalar(field, ids, names), max_size=3)))
            else:
                setattr(message, field.name, draw(_scalar(field, ids, names)))
        return message

    return draw_message()


def _draw_messages(draw: st.DrawFn, message: Message, field: FieldDescriptor, ids: Sequence[str], names: Sequence[str]) -> None:
    kind = field.message_type._concrete_class
    if field.message_type.GetOptions().map_entry:
        return
    if field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(messages(kind, ids, names), max_size=2)))
    elif draw(st.booleans()):
        getattr(message, field.name).CopyFrom(draw(messages(kind, ids, names)))


def _scalar(field: FieldDescriptor, ids: Sequence[str], names: Sequence[str]) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        if field.name == "transaction_id":
            return st.sampled_from(ids)
        return st.sampled_from(names if field.name in ("participant", "participants") else TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from(BLOBS)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_ENUM:
        return enums(field)
    return integers(field)
