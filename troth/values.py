"""Python values ↔ the typed values of the wire.

| Python            | wire    | comes back as |
|-------------------|---------|---------------|
| `None`            | no kind | `None`        |
| `bool`            | boolean | `bool`        |
| `int`, 64 bit     | integer | `int`         |
| `float`           | real    | `float`       |
| `str`             | text    | `str`         |
| `bytes`           | blob    | `bytes`       |
| `decimal.Decimal` | decimal | `Decimal`     |
| `list`, `tuple`   | list    | `list`        |
| `dict[str, ...]`  | map     | `dict`        |

Everything else is refused, and the message names the path to it, such as `lines[3].price`. Nothing is pickled, and
nothing is converted silently: an `IntEnum` or a datetime has a meaning that the other side would not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from google.protobuf.message import DecodeError

from troth.errors import Reason, RequestError
from troth.v1 import common_pb2

INTEGER_MIN = -(2**63)
INTEGER_MAX = 2**63 - 1
DEPTH_MAX = 16
"""Levels of lists and dicts. A level costs up to three messages, and protobuf parsers give up at 100 of them."""
DECIMAL_CHARACTERS_MAX = 400
"""Length of a decimal number on the wire."""

_SEALED = b"\x12"
"""The tag of `Results.sealed`; values have another one."""
_DECIMAL_PATTERN = re.compile(r"-?[0-9]+(\.[0-9]+)?\Z")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A serialised Value that a payload codec has encoded; stands in place of what an operation returned."""

    data: bytes


class _Wrong(Exception):
    """What is wrong with a value; the path to it is collected on the way out."""

    def __init__(self, why: str, reason: Reason | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.reason = reason
        self.steps: list[str] = []

    def error(self, reason: Reason, root: str) -> RequestError:
        return RequestError(self.reason or reason, f"{root}{''.join(reversed(self.steps))} {self.why}")


# ---- what the rest of the system uses


def encode_value(value: object, path: str = "value", reason: Reason = Reason.BAD_ARGUMENTS) -> common_pb2.Value:
    """The wire form of a value. Raises `RequestError` with `reason`; the message names the place, from `path` on."""
    out = common_pb2.Value()
    try:
        _encode(value, out, 0)
    except _Wrong as wrong:
        raise wrong.error(reason, path) from None
    return out


def decode_value(value: common_pb2.Value, path: str = "value", reason: Reason = Reason.BAD_ARGUMENTS) -> Any:
    """The Python form of a value. Raises `RequestError` with `reason`, for a decimal number that is none."""
    try:
        return _decode(value)
    except _Wrong as wrong:
        raise wrong.error(reason, path) from None


def encode_arguments(arguments: Mapping[str, object]) -> bytes:
    """Keyword arguments of an operation, as a serialised Arguments message. Raises `RequestError` (BAD_ARGUMENTS)."""
    message = common_pb2.Arguments()
    values = message.values
    for name, value in arguments.items():
        try:
            _encode(value, values[_name(name)], 0)
        except _Wrong as wrong:
            raise wrong.error(Reason.BAD_ARGUMENTS, name) from None
    return message.SerializeToString(deterministic=True)


def decode_arguments(data: bytes) -> dict[str, Any]:
    """The keyword arguments in a serialised Arguments message. Raises `RequestError` (BAD_ARGUMENTS, PAYLOAD_UNREADABLE)."""
    message = common_pb2.Arguments()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise RequestError(Reason.BAD_ARGUMENTS, "the arguments are no Arguments message") from None
    values = message.values
    if message.encoded:
        raise RequestError(Reason.PAYLOAD_UNREADABLE, "the arguments are encoded, and whoever got them has no payload codec")
    arguments: dict[str, Any] = {}
    for name in values:
        try:
            arguments[name] = _decode(values[name])
        except _Wrong as wrong:
            raise wrong.error(Reason.BAD_ARGUMENTS, name) from None
    return arguments


def encode_result(value: object, operation: str) -> common_pb2.Value:
    """What an operation returned. Raises `RequestError` (BAD_RESULT); the message names the operation and the path."""
    return encode_value(value, f"{operation}()", Reason.BAD_RESULT)


def add_result(results: common_pb2.Results, value: object, operation: str) -> None:
    """Put what an operation returned behind the results of those before it. Raises `RequestError` as `encode_result` does; the
    results are then of no use."""
    try:
        _encode(value, results.values.add(), 0)
    except _Wrong as wrong:
        raise wrong.error(Reason.BAD_RESULT, f"{operation}()") from None


def are_sealed(data: bytes) -> bool:
    """Whether a serialised Results message is one of a log, sealed: whoever sent it does not have the key."""
    return data.startswith(_SEALED)


def decode_results(data: bytes) -> list[Any]:
    """The values in a serialised Results message, one an operation. Raises `RequestError` (BAD_RESULT, PAYLOAD_UNREADABLE)."""
    return [decode_value(value, f"result[{at}]", Reason.BAD_RESULT) for at, value in enumerate(values_of(data))]


def values_of(data: bytes) -> Sequence[common_pb2.Value]:
    """The same in the wire form. Raises `RequestError` (BAD_RESULT)."""
    message = common_pb2.Results()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise RequestError(Reason.BAD_RESULT, "the results are no Results message") from None
    return message.values


# ---- to the wire


def _encode(value: object, out: common_pb2.Value, depth: int) -> None:
    # The exact type decides: a subclass (an IntEnum, a str with a meaning) would come back as something else.
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        raise _Wrong(f"is {_kind(value)}: use None, bool, int, float, str, bytes, Decimal, list or dict")
    encoder(value, out, depth)


def _encode_none(value: None, out: common_pb2.Value, depth: int) -> None:
    out.SetInParent()  # so that a null stands in a map or a list


def _encode_bool(value: bool, out: common_pb2.Value, depth: int) -> None:
    out.boolean = value


def _encode_float(value: float, out: common_pb2.Value, depth: int) -> None:
    out.real = value


def _encode_bytes(value: bytes, out: common_pb2.Value, depth: int) -> None:
    out.blob = value


def _encode_int(value: int, out: common_pb2.Value, depth: int) -> None:
    if not INTEGER_MIN <= value <= INTEGER_MAX:
        raise _Wrong("is a whole number of more than 64 bits: use a Decimal or a str")
    out.integer = value


def _encode_str(value: str, out: common_pb2.Value, depth: int) -> None:
    _check_unicode(value)
    out.text = value


def _encode_decimal(value: Decimal, out: common_pb2.Value, depth: int) -> None:
    if not value.is_finite():
        raise _Wrong(f"is the Decimal {value}, which is no number")
    # Looked at before it is written out: Decimal("1E+999999") has a million digits in the usual notation.
    exponent = value.as_tuple().exponent
    digits = len(value.as_tuple().digits)
    assert isinstance(exponent, int)
    if digits + abs(exponent) + 3 > DECIMAL_CHARACTERS_MAX:
        raise _Wrong(f"is a Decimal of more than {DECIMAL_CHARACTERS_MAX} characters")
    out.decimal = format(value, "f")


def _encode_list(value: list[object] | tuple[object, ...], out: common_pb2.Value, depth: int) -> None:
    _check_depth(depth)
    out.list.SetInParent()
    for at, item in enumerate(value):
        try:
            _encode(item, out.list.items.add(), depth + 1)
        except _Wrong as wrong:
            wrong.steps.append(f"[{at}]")
            raise


def _encode_dict(value: dict[object, object], out: common_pb2.Value, depth: int) -> None:
    _check_depth(depth)
    out.map.SetInParent()
    for name, item in value.items():
        if type(name) is not str:
            raise _Wrong(f"has a key that is {_kind(name)}: keys must be str")
        _check_unicode(name)
        try:
            _encode(item, out.map.entries[name], depth + 1)
        except _Wrong as wrong:
            wrong.steps.append(f".{name}")
            raise


def _encode_encoded(value: Encoded, out: common_pb2.Value, depth: int) -> None:
    out.encoded = value.data


_ENCODERS: dict[type, Callable[[Any, common_pb2.Value, int], None]] = {
    type(None): _encode_none,
    bool: _encode_bool,
    int: _encode_int,
    float: _encode_float,
    str: _encode_str,
    bytes: _encode_bytes,
    Decimal: _encode_decimal,
    list: _encode_list,
    tuple: _encode_list,
    dict: _encode_dict,
    Encoded: _encode_encoded,
}


def _check_depth(depth: int) -> None:
    if depth >= DEPTH_MAX:
        raise _Wrong(f"is nested more than {DEPTH_MAX} levels deep, or contains itself")


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Wrong("is a text that is not valid Unicode: use bytes") from None


def _name(name: object) -> str:
    if type(name) is not str:
        raise RequestError(Reason.BAD_ARGUMENTS, f"an argument's name is {_kind(name)}: names must be str")
    _check_unicode(name)
    return name


def _kind(value: object) -> str:
    name = type(value).__qualname__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


# ---- from the wire


def _decode(value: common_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None:
        return None
    content = getattr(value, kind)
    decoder = _DECODERS.get(kind)
    return content if decoder is None else decoder(content)


def _decode_list(message: common_pb2.ListValue) -> list[Any]:
    out: list[Any] = []
    for at, item in enumerate(message.items):
        try:
            out.append(_decode(item))
        except _Wrong as wrong:
            wrong.steps.append(f"[{at}]")
            raise
    return out


def _decode_map(message: common_pb2.MapValue) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, item in message.entries.items():
        try:
            out[name] = _decode(item)
        except _Wrong as wrong:
            wrong.steps.append(f".{name}")
            raise
    return out


def _decode_decimal(text: str) -> Decimal:
    if len(text) > DECIMAL_CHARACTERS_MAX or not _DECIMAL_PATTERN.match(text):
        raise _Wrong("is no decimal number in the usual notation")
    return Decimal(text)


def _decode_encoded(data: bytes) -> Any:
    raise _Wrong("is encoded, and whoever got it has no payload codec", Reason.PAYLOAD_UNREADABLE)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "list": _decode_list, "map": _decode_map, "decimal": _decode_decimal, "encoded": _decode_encoded,
}  # fmt: skip
"""Of the kinds whose content is not yet the value."""
