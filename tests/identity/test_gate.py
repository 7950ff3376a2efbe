"""The gate: every call and every field of the contract is decided, once, under the policy that is in force."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from coordinator.config import ShellSettings
from coordinator.identity import asked, followed
from coordinator.identity.gate import CALLER_METADATA, Gate, Mode
from coordinator.identity.policy import Policy, decide
from coordinator.identity.who import Witness
from troth.errors import Reason, RequestError
from troth.identity.peer import NOBODY, Identity, named
from troth.quiet import Quiet
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2

WEB, NOTES, NODE = (named(f"spiffe://example.org/{name}") for name in ("web", "notes", "node"))
POLICY = """
[[grant]]
to = ["spiffe://example.org/notes"]
participate = ["notes"]
[[grant]]
to = ["spiffe://example.org/web"]
begin = ["notes/write", "ledger/*"]
[[grant]]
to = ["spiffe://example.org/node"]
roles = ["node"]
"""


@pytest.fixture
def make_gate(tmp_path: Path) -> Callable[..., Gate]:
    """Makes a gate on a policy."""

    def make(text: str = POLICY, judge: Callable[..., Any] = decide) -> Gate:
        (tmp_path / "policy.toml").write_text(text)
        shell = ShellSettings(policy=str(tmp_path / "policy.toml"))
        return Gate(shell, Witness(shell), Quiet(), judge)

    return make


def refused(act: Callable[[], object]) -> bool:
    try:
        act()
    except RequestError as error:
        assert error.reason is Reason.FORBIDDEN
        return True
    return False


# ---- nothing is forgotten


MODULES = (client_pb2, participant_pb2, admin_pb2)
SERVICES = [service for module in MODULES for service in module.DESCRIPTOR.services_by_name.values()]
METHODS = [f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods]


def test_every_rpc_of_the_contract_is_decided() -> None:
    assert {method for method in asked.CALLS if method.startswith("/troth.")} == set(METHODS)


def test_every_message_of_the_streams_is_decided() -> None:
    assert set(asked.CONNECT) == set(client_pb2.ConnectRequest.DESCRIPTOR.fields_by_name)
    assert set(asked.SESSION) == set(participant_pb2.SessionRequest.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("method", METHODS)
def test_nobody_may_do_anything_by_any_rpc(make_gate: Callable[..., Gate], method: str) -> None:
    """What is not refused at the door is decided inside, because what it is about is known there."""
    service, _, name = method.rpartition("/")
    (descriptor,) = (one.methods_by_name[name] for one in SERVICES if f"/{one.full_name}" == service)
    request = filled(descriptor.input_type._concrete_class)
    inside = {"/troth.v1.TransactionService/Connect", "/troth.v1.ParticipantService/Session"}
    assert refused(lambda: make_gate().call(NOBODY, method, request)) is (method not in inside)


def filled(kind: Any) -> Any:
    """A message with something in each field, so that it asks for whatever it can ask for."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, "x")
    if kind is client_pb2.RunRequest:
        message.branches.add(participant="notes").operations.add(name="write")
    return message


def test_a_method_and_a_field_that_nobody_has_thought_of_are_refused(
    make_gate: Callable[..., Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = make_gate()
    assert refused(lambda: gate.call(WEB, "/troth.v1.AdminService/Forgotten", None))
    monkeypatch.setattr(asked, "CONNECT", {})
    monkeypatch.setattr(asked, "SESSION", {})
    assert refused(lambda: gate.client_frame(WEB, client_pb2.ConnectRequest(answered_below=1)))
    assert refused(lambda: gate.participant_frame(NOTES, "notes", participant_pb2.SessionRequest(reports_complete=True)))


# ---- what is asked for


@pytest.mark.parametrize("field", sorted(asked.SESSION))
def test_a_participant_s_every_message_needs_the_name(make_gate: Callable[..., Gate], field: str) -> None:
    frame = frame_with(field)
    gate = make_gate()
    for name in ("notes", "notes/3"):
        assert not refused(lambda name=name: gate.participant_frame(NOTES, name, frame))
    for identity, name in ((WEB, "notes"), (NOTES, "ledger"), (NOTES, "ledger/3"), (NOBODY, "notes")):
        assert refused(lambda identity=identity, name=name: gate.participant_frame(identity, name, frame))


def frame_with(field: str) -> participant_pb2.SessionRequest:
    frame = participant_pb2.SessionRequest()
    descriptor = frame.DESCRIPTOR.fields_by_name[field]
    if descriptor.is_repeated:
        getattr(frame, field).add()
    elif descriptor.message_type is not None:
        getattr(frame, field).SetInParent()
    else:
        setattr(frame, field, 1)
    return frame


def run_request(*operations: tuple[str, str]) -> client_pb2.RunRequest:
    return client_pb2.RunRequest(branches=[
        client_pb2.BranchRequest(participant=participant, operations=[common_pb2.Operation(name=name)])
        for participant, name in operations
    ])  # fmt: skip


def test_one_operation_that_is_not_given_forbids_the_whole_transaction(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    assert not gate.why_not(WEB, asked.runs(run_request(("notes", "write"), ("ledger", "book"))))
    assert "begin on notes/erase" in gate.why_not(WEB, asked.runs(run_request(("ledger", "book"), ("notes", "erase"))))
    assert not gate.why_not(WEB, asked.begins(None))
    assert gate.why_not(NOTES, asked.begins(None))


def test_who_may_do_nothing_that_a_client_does_opens_no_client_stream(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    gate.client_hello(WEB)
    assert refused(lambda: gate.client_hello(NOTES))
    assert refused(lambda: gate.client_hello(NOBODY))


def test_what_was_shown_is_looked_at_again_with_each_frame(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    late = Identity(WEB.name, WEB.shown_by, until=1.0)
    for frame in (lambda: gate.client_frame(late, client_pb2.ConnectRequest()),
                  lambda: gate.participant_frame(late, "notes", participant_pb2.SessionRequest())):  # fmt: skip
        with pytest.raises(RequestError) as caught:
            frame()
        assert caught.value.reason is Reason.TOKEN_EXPIRED


def test_a_node_alone_may_say_whose_a_call_is(make_gate: Callable[..., Gate]) -> None:
    gate, passed_on = make_gate(), ((CALLER_METADATA, WEB.name.encode()),)
    assert gate.behind(NODE, passed_on) == WEB
    assert gate.behind(NODE, (("other", "x"),)) == NODE
    assert refused(lambda: gate.behind(NOTES, passed_on))


# ---- decisions are made once, under the policy that is in force


def test_a_decision_is_made_once(make_gate: Callable[..., Gate]) -> None:
    made: list[tuple[str, str, str]] = []

    def judge(policy: Policy, name: str, action: str, object_name: str) -> Any:
        made.append((name, action, object_name))
        return decide(policy, name, action, object_name)

    gate = make_gate(judge=judge)
    request = run_request(("notes", "write"), ("ledger", "book"))
    for _ in range(100):
        assert not gate.why_not(WEB, asked.runs(request))
    assert made == [(WEB.name, "begin", "notes/write"), (WEB.name, "begin", "ledger/book")]


def test_a_policy_is_taken_while_it_runs_and_a_bad_one_leaves_the_last_good_one(
    make_gate: Callable[..., Gate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "LOOK_SECONDS", 0.0)
    gate, file = make_gate(), tmp_path / "policy.toml"
    wanted = asked.runs(run_request(("notes", "write")))
    assert not gate.why_not(WEB, wanted)
    file.write_text(POLICY + "nonsense")
    assert not gate.why_not(WEB, wanted)
    file.write_text(POLICY.replace("notes/write", "notes/read"))
    assert gate.why_not(WEB, wanted)
    file.write_text("mode = 'dry-run'\n" + POLICY.replace("notes/write", "notes/read"))
    assert not gate.why_not(WEB, wanted)
    assert gate.mode is Mode.DRY_RUN


def test_a_dry_run_allows_and_tells(make_gate: Callable[..., Gate]) -> None:
    told: list[tuple[str, str, str]] = []
    gate = make_gate("mode = 'dry-run'\n" + POLICY)
    gate.on_refusal = lambda identity, action, object_name, why: told.append((str(identity), action, object_name))
    gate.call(NOBODY, "/troth.v1.AdminService/Drain", admin_pb2.DrainRequest())
    gate.call(NOBODY, "/troth.v1.AdminService/Forgotten", None)
    gate.client_hello(NOBODY)
    gate.client_frame(NOBODY, client_pb2.ConnectRequest())
    gate.participant_frame(NOBODY, "notes", frame_with("votes"))
    assert [one[1] for one in told] == ["drain", "unknown", "begin", "participate"]
    assert gate.refused == len(told)


def test_without_a_policy_the_gate_is_open() -> None:
    shell = ShellSettings()
    gate = Gate(shell, Witness(shell), Quiet())
    gate.call(NOBODY, "/troth.v1.AdminService/Drain", None)
    gate.client_hello(NOBODY)
    gate.participant_frame(NOBODY, "notes", None)
    assert gate.behind(WEB, ((CALLER_METADATA, b"token:ada"),)) == WEB
    assert (gate.mode, gate.decision("x", "drain", "*").allowed) == (Mode.OPEN, True)


# ---- haste


def test_one_identity_begins_so_many_a_second_and_others_are_not_kept_out(tmp_path: Path) -> None:
    now = 7.1
    shell = ShellSettings(identity_begins_per_second=2)
    gate = Gate(shell, Witness(shell), Quiet(), clock=lambda: now)
    assert [bool(gate.too_fast(one)) for one in (WEB, WEB, WEB, NOTES, NOBODY)] == [False, False, True, False, False]
    now = 8.0
    assert not gate.too_fast(WEB)
