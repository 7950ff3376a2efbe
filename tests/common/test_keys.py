"""The hash of a body: the same for the same request, however a client wrote it down."""

from __future__ import annotations

import pytest

from troth.keys import body_hash, canonical_arguments, first_body_hash
from troth.v1 import client_pb2, common_pb2
from troth.values import encode_arguments

ENTRY_A, ENTRY_B = b"\n\x07\n\x01a\x12\x02\x10\x02", b"\n\x07\n\x01b\x12\x02\x10\x04"
"""Entries of a serialised Arguments message: a = 1, b = 2."""


def work(participant: str, *operations: tuple[str, bytes]) -> client_pb2.BranchRequest:
    """One participant's work."""
    listed = [common_pb2.Operation(name=name, arguments=arguments) for name, arguments in operations]
    return client_pb2.BranchRequest(participant=participant, operations=listed)


BODY = [work("south", ("credit", ENTRY_B + ENTRY_A)), work("north", ("debit", ENTRY_A), ("note", b""))]


def test_the_example_of_the_documentation() -> None:
    told = "043f3ca13821463a3f093ef1ff62505454c3306c417cdabe958c7e92813a7a67"
    assert body_hash(BODY).hex() == told


def test_the_order_of_participants_and_of_entries_means_nothing() -> None:
    again = [BODY[1], work("south", ("credit", ENTRY_A + ENTRY_B))]
    assert body_hash(again) == body_hash(BODY)
    assert first_body_hash(again) != first_body_hash(BODY)


def test_entries_deeper_down_are_sorted_too() -> None:
    one = common_pb2.Arguments()
    for name in "ab":
        one.values["m"].map.entries[name].integer = 1
    first, second = one.SerializeToString(deterministic=True), b""
    inner = [b"\n\x07\n\x01b\x12\x02\x10\x02", b"\n\x07\n\x01a\x12\x02\x10\x02"]
    second = b"\n\x19\n\x01m\x12\x14B\x12" + b"".join(inner)
    assert first != second and canonical_arguments(second) == canonical_arguments(first) == first


@pytest.mark.parametrize(
    "other",
    [
        [BODY[0]],
        [BODY[0], work("north", ("note", b""), ("debit", ENTRY_A))],
        [BODY[0], work("north", ("debit", ENTRY_B), ("note", b""))],
        [BODY[0], work("north", ("debit", ENTRY_A), ("not", b"e"))],
        [BODY[0], work("east", ("debit", ENTRY_A), ("note", b""))],
        [BODY[0], BODY[1], work("east")],
    ],
)  # fmt: skip
def test_another_body_has_another_hash(other: list[client_pb2.BranchRequest]) -> None:
    assert body_hash(other) != body_hash(BODY)


def test_what_is_no_arguments_message_is_taken_as_it_is() -> None:
    assert canonical_arguments(b"\xff\xff") == b"\xff\xff"


def test_fields_of_later_versions_count() -> None:
    later = ENTRY_A + b"\x98\x06\x05"
    assert canonical_arguments(later) != canonical_arguments(ENTRY_A)


def test_what_the_client_sends_is_canonical() -> None:
    data = encode_arguments({"b": 2, "a": {"y": [1, {"z": 1, "x": 2}], "w": None}})
    assert canonical_arguments(data) == data
