"""What a newer version has written is not taken for something else."""

from __future__ import annotations

from typing import Any

import pytest

from troth.errors import LogForeign, Reason
from troth.newer import kind_of
from troth.v1 import common_pb2, record_pb2

OF_TOMORROW: Any = 99
RECORDS = (record_pb2.CoordinatorRecord, record_pb2.ParticipantRecord)


def enums() -> list[tuple[Any, str, str]]:
    """Every field of an enum in every kind of record, at any depth."""
    found = []
    for record in RECORDS:
        for kind in record.DESCRIPTOR.oneofs_by_name["kind"].fields:
            waiting, seen = [(kind.message_type, "")], set[str]()
            while waiting:
                message, path = waiting.pop()
                found += [(record, kind.name, f"{path}{one.name}") for one in message.fields if one.enum_type is not None]
                inner = [one for one in message.fields if one.message_type is not None and one.message_type.full_name not in seen]
                seen |= {one.message_type.full_name for one in inner}
                waiting += [(one.message_type, f"{path}{one.name}.") for one in inner]
    return found


@pytest.mark.parametrize(("record", "kind", "field"), enums(), ids=str)
def test_a_value_that_nobody_knows_is_refused(record: Any, kind: str, field: str) -> None:
    assert "." not in field, "it stands further down, where nobody looks"
    told = record()
    setattr(getattr(told, kind), field, OF_TOMORROW)
    with pytest.raises(LogForeign, match=f"record 7 has the {field} 99") as caught:
        kind_of(told, "record 7")
    assert caught.value.reason is Reason.LOG_TOO_NEW


def test_a_kind_that_nobody_knows_is_refused() -> None:
    number = 2000
    newer = bytes([number << 3 & 0x7F | 0x82, number >> 4, 0])  # an empty message as a field that no record has
    for record in RECORDS:
        told = record()
        told.MergeFromString(newer)
        assert number not in told.DESCRIPTOR.fields_by_number and told.SerializeToString() == newer
        with pytest.raises(LogForeign, match="record 7 is of a kind") as caught:
            kind_of(told, "record 7")
        assert caught.value.reason is Reason.LOG_TOO_NEW


def test_what_is_known_has_its_kind() -> None:
    ended = record_pb2.Ended(outcome=common_pb2.OUTCOME_ABORTED)
    assert kind_of(record_pb2.CoordinatorRecord(ended=ended), "it") == "ended"
    assert kind_of(record_pb2.ParticipantRecord(branch_prepared=record_pb2.BranchPrepared()), "it") == "branch_prepared"
