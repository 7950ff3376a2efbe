"""Every named failpoint of both roles, drawn from the protos, and how to make a process come by."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor import Descriptor

from troth.v1 import client_pb2, participant_pb2, record_pb2

NOT_REACHED = {
    # The greeting is exchanged before the link takes over; `timestamp` is a field for later.
    "hello": "not by the link",
    "timestamp": "nobody keeps such a clock yet",
    # What is stamped on a frame that is written for other messages, and what only a cell, or a service without lock keys, says.
    "position": "it rides with the others",
    "directory": "cells: tests/crash/test_cell_of_nodes.py",
    "undeclared": "operations that declare no keys",
    # What only an operator or a fault brings about: other tests do that.
    "heuristic": "operators",
    "forgotten": "operators",
    "forces": "operators",
    "review": "operators",
    "branch_parked": "a fault",
    "loss": "a log that went back in time",
    "schema_changed": "a new release of the service",
    # After an hour of retention.
    "horizon": "time",
    "force_ordered": "written offline",
}

ONLY_BANKS = {"callers", "invariants"}
"""What the shop's services do not ask or tell, and the banks of tests/crash do."""

UNSEEN = {
    # It is put into the frame of the last reports while that is written; `reports` is killed at the same places.
    "participant:before-send:reports_complete",
    "participant:after-send:reports_complete",
    # The first frame is read before the link takes over.
    "participant:on-receive:welcome",
}


def _fields(descriptors: Iterable[Descriptor]) -> list[str]:
    names = {field.name for descriptor in descriptors for field in descriptor.fields}
    return sorted(names - NOT_REACHED.keys())


def _kinds(descriptor: Descriptor) -> list[str]:
    return [field.name for field in descriptor.oneofs_by_name["kind"].fields if field.name not in NOT_REACHED]


def _points(role: str, moments: tuple[str, ...], names: Iterable[str]) -> list[str]:
    points = [f"{role}:{moment}:{name}" for name in names for moment in moments]
    return [point for point in points if point not in UNSEEN]


UP = (participant_pb2.SessionRequest.DESCRIPTOR,)
DOWN = (participant_pb2.SessionResponse.DESCRIPTOR,)
CLIENT_UP = client_pb2.ConnectRequest.DESCRIPTOR
CLIENT_DOWN = client_pb2.ConnectResponse.DESCRIPTOR
LOG, SEND, RECEIVE = ("before-sync", "after-sync"), ("before-send", "after-send"), ("on-receive",)

GROUPS = {
    "coordinator-log": _points("coordinator", LOG, _kinds(record_pb2.CoordinatorRecord.DESCRIPTOR)),
    "coordinator-sends": _points("coordinator", SEND, _fields((*DOWN, CLIENT_DOWN))),
    "coordinator-receives": _points("coordinator", RECEIVE, _fields((*UP, CLIENT_UP))),
    "participant-log": [
        *_points("participant", LOG, _kinds(record_pb2.ParticipantRecord.DESCRIPTOR)),
        "participant:after-apply:operation",
    ],
    "participant-sends": _points("participant", SEND, _fields(UP)),
    "participant-receives": _points("participant", RECEIVE, _fields(DOWN)),
}
