"""Typed values: what goes in comes out, and what cannot go in is named by its path."""

from __future__ import annotations

import enum
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.errors import Reason, RequestError
from troth.v1 import common_pb2
from troth.values import (
    DEPTH_MAX,
    Encoded,
    add_result,
    decode_arguments,
    decode_results,
    decode_value,
    encode_arguments,
    encode_result,
    encode_value,
)

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False, allow_infinity=False, places=4)
)
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def refusal(value: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        encode_arguments({"lines": value})
    assert caught.value.reason is Reason.BAD_ARGUMENTS
    return caught.value


@given(st.dictionaries(st.text(), values))
def test_arguments_come_back_as_they_were(arguments: dict[str, Any]) -> None:
    back = decode_arguments(encode_arguments(arguments))
    assert back == arguments
    assert {name: type(value) for name, value in back.items()} == {n: type(v) for n, v in arguments.items()}


def test_tuples_come_back_as_lists() -> None:
    assert decode_value(encode_value((1, (2, 3)))) == [1, [2, 3]]


def test_nulls_keep_their_places() -> None:
    assert decode_arguments(encode_arguments({"a": None, "b": [None, {"c": None}], "d": {}, "e": []})) == {
        "a": None, "b": [None, {"c": None}], "d": {}, "e": [],
    }


def test_nan_and_infinity_are_floats() -> None:
    assert math.isnan(decode_value(encode_value(math.nan)))
    assert decode_value(encode_value(-math.inf)) == -math.inf


def test_decimals_keep_their_scale() -> None:
    assert str(decode_value(encode_value(Decimal("12.50")))) == "12.50"
    assert decode_value(encode_value(Decimal("1E+5"))) == 100000


def test_every_kind_comes_back_as_it_was() -> None:
    kinds = [None, True, False, 7, -(2**63), 2**63 - 1, 1.5, "text", b"bytes", Decimal("-0.10"), [], {}]
    back = decode_value(encode_value(kinds))
    assert back == kinds
    assert [type(value) for value in back] == [type(value) for value in kinds]


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "where", "why"),
    [
        (object(), "lines is an object", "use None"),
        ([1, {"price": {1, 2}}], "lines[1].price is a set", "use None"),
        ([Colour.RED], "lines[0] is a Colour", "use None"),
        ({3: 1}, "lines has a key that is an int", "keys must be str"),
        ([2**63], "lines[0]", "more than 64 bits"),
        ({"d": Decimal("NaN")}, "lines.d", "no number"),
        (Decimal("1E+999999"), "lines", "more than 400 characters"),
        ("\ud800", "lines", "not valid Unicode"),
        ({"\ud800": 1}, "lines", "not valid Unicode"),
    ],
)
def test_what_cannot_be_encoded_is_named(value: object, where: str, why: str) -> None:
    error = refusal(value)
    assert where in error.message
    assert why in error.message


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert "contains itself" in refusal(endless).message


def test_the_deepest_legal_value_survives_a_log_record() -> None:
    deep: object = 1
    for _ in range(DEPTH_MAX):
        deep = {"in": deep}
    assert decode_arguments(encode_arguments({"deep": deep})) == {"deep": deep}
    refusal({"in": deep})


def test_argument_names_must_be_texts() -> None:
    with pytest.raises(RequestError, match="names must be str"):
        encode_arguments({1: 2})  # type: ignore[dict-item]  # the mistake under test


def test_results_name_the_operation() -> None:
    with pytest.raises(RequestError) as caught:
        encode_result({"rows": [object()]}, "debit")
    assert caught.value.reason is Reason.BAD_RESULT
    assert "debit().rows[0] is an object" in caught.value.message

    with pytest.raises(RequestError) as added:
        add_result(common_pb2.Results(), {"rows": [object()]}, "debit")
    assert (added.value.reason, added.value.message) == (caught.value.reason, caught.value.message)


def test_results_come_back_in_order() -> None:
    results = common_pb2.Results(values=[encode_result(v, "f") for v in (1, None, "x")])
    add_result(results, [2], "f")
    assert decode_results(results.SerializeToString()) == [1, None, "x", [2]]


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05abc"])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError) as arguments:
        decode_arguments(data)
    with pytest.raises(RequestError) as results:
        decode_results(data)
    assert (arguments.value.reason, results.value.reason) == (Reason.BAD_ARGUMENTS, Reason.BAD_RESULT)


@pytest.mark.parametrize("text", ["", "1e5", "NaN", "+1", "1.", "1" * 401, "٣"])
def test_a_decimal_that_is_none_is_refused(text: str) -> None:
    value = common_pb2.Value(list=common_pb2.ListValue(items=[common_pb2.Value(decimal=text)]))
    with pytest.raises(RequestError, match=r"value\[0\] is no decimal"):
        decode_value(value)


def test_a_wrong_argument_is_named() -> None:
    data = common_pb2.Arguments(values={"price": common_pb2.Value(decimal="much")}).SerializeToString()
    with pytest.raises(RequestError, match="price is no decimal"):
        decode_arguments(data)


def test_a_wrong_value_in_a_map_is_named() -> None:
    value = common_pb2.Value(map=common_pb2.MapValue(entries={"price": common_pb2.Value(decimal="much")}))
    with pytest.raises(RequestError, match=r"value\.price is no decimal"):
        decode_value(value)


def test_what_a_codec_has_encoded_is_told_as_such() -> None:
    with pytest.raises(RequestError, match="no payload codec") as caught:
        decode_arguments(common_pb2.Arguments(encoded=b"x").SerializeToString())
    assert caught.value.reason is Reason.PAYLOAD_UNREADABLE
    results = common_pb2.Results()
    add_result(results, Encoded(b"x"), "keep")
    with pytest.raises(RequestError, match=r"result\[0\] is encoded") as caught:
        decode_results(results.SerializeToString())
    assert caught.value.reason is Reason.PAYLOAD_UNREADABLE
