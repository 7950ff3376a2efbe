"""Payload that only the client and the participant read; `examples/opaque` has the codec."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from participant_sdk import Embedded, LogResource, Participant, PayloadCodec
from participant_sdk.codec import Coded
from participant_sdk.registry import Registry
from tests.repo.sources import ROOT
from troth.errors import ConfigError, Reason, RequestError
from troth.v1 import common_pb2
from troth.values import decode_arguments, decode_results, encode_arguments

sys.path.insert(0, str(ROOT / "examples" / "opaque"))
from siv import KEY_BYTES, SivCodec

KEY = bytes(range(KEY_BYTES))
SIV = SivCodec({"k1": KEY})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8,
)  # fmt: skip


def reason_of(caught: pytest.ExceptionInfo[RequestError]) -> Reason:
    assert "planted" not in str(caught.value)
    return caught.value.reason


@given(st.dictionaries(st.text(), VALUES), VALUES)
def test_what_is_encoded_comes_back(arguments: dict[str, Any], result: Any) -> None:
    coded = Coded(SIV)
    data = coded.encoded_arguments("notes", "keep", encode_arguments(arguments))
    assert coded.decoded_arguments("notes/3", "keep", data) == arguments
    value = common_pb2.Value(encoded=coded.encoded_result("notes/3", result, "keep").data)
    results = common_pb2.Results(values=[value]).SerializeToString()
    assert coded.decoded_results("notes", results) == [result]


def test_nothing_of_it_can_be_read_on_the_way_and_equal_stays_equal() -> None:
    coded, planted = Coded(SIV), encode_arguments({"text": "planted"})
    data = coded.encoded_arguments("notes", "keep", planted)
    assert b"planted" not in data
    assert b"text" not in data
    assert coded.encoded_arguments("notes", "keep", planted) == data
    coded.check_steady()


def test_every_byte_that_is_changed_shows_and_so_does_another_place() -> None:
    coded = Coded(SIV)
    encoded = SIV.encode(encode_arguments({"text": "planted"}), "arguments of notes.keep")
    wrong = [encoded[:at] + bytes((encoded[at] ^ 1,)) + encoded[at + 1 :] for at in range(len(encoded))]
    for changed in (*wrong, *(encoded[:end] for end in range(1, len(encoded)))):
        with pytest.raises(RequestError) as caught:
            coded.decoded_arguments("notes", "keep", common_pb2.Arguments(encoded=changed).SerializeToString())
        assert reason_of(caught) is Reason.PAYLOAD_UNREADABLE
    for participant, operation in (("mail", "keep"), ("notes", "drop")):
        with pytest.raises(RequestError) as caught:
            coded.decoded_arguments(participant, operation, common_pb2.Arguments(encoded=encoded).SerializeToString())
        assert reason_of(caught) is Reason.PAYLOAD_UNREADABLE


def test_a_new_key_goes_behind_then_to_the_front_and_the_old_one_opens_what_it_has_encrypted() -> None:
    old, both = Coded(SIV), Coded(SivCodec({"k2": KEY[::-1], "k1": KEY}))
    data = encode_arguments({"text": "planted"})
    assert both.decoded_arguments("notes", "keep", old.encoded_arguments("notes", "keep", data)) == {"text": "planted"}
    with pytest.raises(RequestError, match="it raised KeyError") as caught:
        old.decoded_arguments("notes", "keep", both.encoded_arguments("notes", "keep", data))
    assert reason_of(caught) is Reason.PAYLOAD_UNREADABLE


class Broken(PayloadCodec):
    """Does what a codec must not."""

    def __init__(self, made: Any = b"") -> None:
        self.made, self.count = made, 0

    def encode(self, payload: bytes, what: str) -> bytes:
        self.count += 1
        if isinstance(self.made, Exception):
            raise self.made
        made: bytes = self.made
        return made if made != b"random" else bytes((self.count,))

    def decode(self, payload: bytes, what: str) -> bytes:
        return b"\xff"


@pytest.mark.parametrize("made", [b"", "text", None, ValueError("planted")])
def test_a_codec_that_fails_is_told_without_what_it_says(made: Any) -> None:
    with pytest.raises(RequestError) as caught:
        Coded(Broken(made)).encoded_arguments("notes", "keep", encode_arguments({"text": "planted"}))
    assert reason_of(caught) is Reason.PAYLOAD_UNREADABLE


def test_a_codec_that_makes_no_message_is_told() -> None:
    coded = Coded(Broken())
    with pytest.raises(RequestError, match="made no value") as caught:
        coded.decoded_result("notes", common_pb2.Value(encoded=b"x"))
    assert reason_of(caught) is Reason.PAYLOAD_UNREADABLE
    with pytest.raises(RequestError) as caught:
        coded.decoded_arguments("notes", "keep", common_pb2.Arguments(encoded=b"x").SerializeToString())
    assert reason_of(caught) is Reason.BAD_ARGUMENTS


def test_a_codec_that_is_not_steady_has_no_work_under_keys() -> None:
    coded = Coded(Broken(b"random"))
    for _ in range(2):
        with pytest.raises(RequestError, match="differently each time") as caught:
            coded.check_steady()
        assert reason_of(caught) is Reason.INVALID_ARGUMENT


def test_payload_in_clear_is_refused_unless_it_is_allowed() -> None:
    coded, clear = Coded(SIV), encode_arguments({"text": "planted"})
    for data in (clear, b"", b"\xff"):
        with pytest.raises(RequestError, match="in clear") as caught:
            coded.decoded_arguments("notes", "keep", data)
        assert reason_of(caught) is Reason.PAYLOAD_UNREADABLE
    with pytest.raises(RequestError, match="in clear") as caught:
        coded.decoded_result("notes", common_pb2.Value(text="planted"))
    assert reason_of(caught) is Reason.PAYLOAD_UNREADABLE
    lenient = SivCodec({"k1": KEY})
    lenient.clear_allowed = True
    assert Coded(lenient).decoded_arguments("notes", "keep", clear) == {"text": "planted"}
    assert Coded(lenient).decoded_result("notes", common_pb2.Value(text="planted")) == "planted"


def test_who_has_no_codec_says_so() -> None:
    coded = Coded(SIV)
    with pytest.raises(RequestError, match="no payload codec") as caught:
        decode_arguments(coded.encoded_arguments("notes", "keep", encode_arguments({"text": "planted"})))
    assert reason_of(caught) is Reason.PAYLOAD_UNREADABLE
    value = common_pb2.Value(encoded=coded.encoded_result("notes", "planted", "keep").data)
    with pytest.raises(RequestError, match="no payload codec") as caught:
        decode_results(common_pb2.Results(values=[value]).SerializeToString())
    assert reason_of(caught) is Reason.PAYLOAD_UNREADABLE


def test_an_operation_gets_arguments_in_clear_and_its_result_goes_encoded() -> None:
    registry = Registry(coded=Coded(SIV), participant="notes")

    def keep(resource: Any, *, text: str) -> str:
        return text

    registry.add(keep)
    operation = common_pb2.Operation(name="keep", arguments=registry.on_the_way("keep", encode_arguments({"text": "planted"})))
    registry.keys([operation])
    value = registry.bind(operation)(None)
    assert b"planted" not in value.data
    assert registry.result(common_pb2.Value(encoded=value.data)) == ("planted", None)
    nothing, error = registry.result(common_pb2.Value(text="planted"))
    assert (nothing, error and error.reason) == (None, Reason.PAYLOAD_UNREADABLE)


async def test_an_async_operation_too() -> None:
    registry = Registry(coded=Coded(SIV), participant="notes")

    async def keep(resource: Any, *, text: str) -> str:
        return text

    registry.add(keep)
    arguments = registry.on_the_way("keep", encode_arguments({"text": "planted"}))
    value = await registry.bind(common_pb2.Operation(name="keep", arguments=arguments))(None)
    assert registry.result(common_pb2.Value(encoded=value.data)) == ("planted", None)


def test_arguments_that_a_log_has_sealed_are_told_as_such() -> None:
    with pytest.raises(RequestError) as caught:
        Registry().arguments("keep", b"\x00TS\x01\x02k1 and so on")
    assert reason_of(caught) is Reason.PAYLOAD_KEY_MISSING


def test_keys_of_the_example_are_lines() -> None:
    text = f"k2 {base64.b64encode(KEY).decode()}\n\nk1 {base64.b64encode(KEY[::-1]).decode()}\n"
    assert SivCodec.parse(text).decode(SivCodec({"k1": KEY[::-1]}).encode(b"", "x"), "x") == b""


def test_a_codec_is_refused_where_the_coordinator_is_in_the_same_process(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in this process"):
        Participant(
            "notes", resource=LogResource(), data_directory=tmp_path, coordinator=Embedded(tmp_path / "c"), codec=SIV,
        )  # fmt: skip
