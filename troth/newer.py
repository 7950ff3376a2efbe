"""Records of a newer version: one of an unknown kind, or with a value that this version does not have, is not read as another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from troth.errors import LogForeign, Reason
from troth.v1 import record_pb2

_Values = Mapping[int, Any]


def _enums_of(record: Any) -> dict[str, Sequence[tuple[str, _Values]]]:
    """Of each kind of a record the fields that are of an enum, with the values that this version has."""
    kinds = record.DESCRIPTOR.oneofs_by_name["kind"].fields
    enums = {
        kind.name: [(one.name, one.enum_type.values_by_number) for one in kind.message_type.fields if one.enum_type is not None]
        for kind in kinds
    }
    return {kind: found for kind, found in enums.items() if found}


_ENUMS = _enums_of(record_pb2.CoordinatorRecord) | _enums_of(record_pb2.ParticipantRecord)
"""Kinds of both sides have names of their own."""


def kind_of(record: record_pb2.CoordinatorRecord | record_pb2.ParticipantRecord, what: str) -> str:
    """The kind of a record; `what` names it in an error.

    Raises `LogForeign` (LOG_TOO_NEW). An enum's unknown value comes as its number: whoever only asks whether it is COMMITTED takes
    it for ABORTED, and a log that has one was written by a version that says more than these two.
    """
    kind = record.WhichOneof("kind")
    if kind is None:
        raise LogForeign(Reason.LOG_TOO_NEW, f"{what} is of a kind that this version does not know")
    for name, values in _ENUMS.get(kind, ()):
        value = getattr(getattr(record, kind), name)
        if value not in values:
            raise LogForeign(Reason.LOG_TOO_NEW, f"{what} has the {name} {value}, which this version does not know")
    return str(kind)
