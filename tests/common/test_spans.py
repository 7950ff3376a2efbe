"""How spans are made, named and ended, and how a trace travels."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from troth import tracing
from troth.errors import Reason, Refuse, RequestError
from troth.spans import Spans, offset_ns
from troth.v1 import common_pb2

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
NONE = common_pb2.TraceContext()


class Rig:
    """Spans, and those that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.provider = provider
        self.spans = Spans(provider)

    @property
    def last(self) -> ReadableSpan:
        return self._exporter.get_finished_spans()[-1]

    @property
    def told(self) -> dict[str, Any]:
        return dict(self.last.attributes or {})


@pytest.fixture
def rig() -> Iterator[Rig]:
    yield Rig()
    tracing.disable()


# ---- the switch


def test_tracing_is_off_until_it_is_enabled(rig: Rig) -> None:
    assert tracing.spans is None
    tracing.enable(rig.provider)
    assert tracing.spans is not None
    tracing.disable()
    assert tracing.spans is None


@pytest.mark.parametrize("missing, said", [
    ("opentelemetry", "it comes with the extra 'otel'"), ("something", "no something"),
])  # fmt: skip
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, missing: str, said: str) -> None:
    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "troth.spans":
            raise ModuleNotFoundError(f"no {missing}", name=missing)
        return imported(name, *arguments, **options)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=said):
        tracing.enable()
    assert tracing.spans is None


# ---- how a trace travels


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{'b' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01"])
def test_what_is_no_trace_context_is_no_parent(rig: Rig, traceparent: str) -> None:
    assert rig.spans.parent(common_pb2.TraceContext(traceparent=traceparent)) is None
    assert rig.spans.parent(None) is None


def test_of_a_trace_that_nobody_keeps_nothing_is_made(rig: Rig) -> None:
    unsampled = f"{PARENT[:-1]}0"
    assert [rig.spans.sampled(one) for one in (None, NONE, common_pb2.TraceContext(traceparent=unsampled))] == [None] * 3
    assert rig.spans.sampled(common_pb2.TraceContext(traceparent=PARENT)) is not None
    assert not rig.spans.is_recording()
    with rig.provider.get_tracer("test").start_as_current_span("kept"):
        assert rig.spans.is_recording()


def test_a_trace_goes_into_a_message_and_out_of_it(rig: Rig) -> None:
    message = common_pb2.TraceContext()
    rig.spans.carry(message)
    assert message == NONE, "there is no trace here"
    came = common_pb2.TraceContext(traceparent=PARENT, tracestate="a=b")
    rig.spans.carry(message, rig.spans.parent(came))
    assert message == came
    rig.spans.carry(message)
    assert message == came, "what is there stays"


def test_headers_say_more_than_the_message(rig: Rig) -> None:
    carried = common_pb2.TraceContext(traceparent=PARENT)
    header = {"traceparent": f"00-{'c' * 32}-{'d' * 16}-00"}.get
    assert rig.spans.headers(rig.spans.caller(header, carried))["traceparent"] == header("traceparent")
    assert rig.spans.headers(rig.spans.caller({}.get, carried))["traceparent"] == PARENT
    assert rig.spans.caller({}.get, NONE) is None


def test_here_is_nowhere_outside_of_a_trace(rig: Rig) -> None:
    assert rig.spans.here() is None and not rig.spans.is_anywhere()
    with rig.spans.around("work", {}):
        assert rig.spans.here() is not None and rig.spans.is_anywhere()
        with rig.spans.inside(None):
            assert rig.spans.here() is None and not rig.spans.is_anywhere()


# ---- calls


@pytest.mark.parametrize("target, told", [
    ("127.0.0.1:7420", {"server.address": "127.0.0.1", "server.port": 7420}), ("somewhere", {"server.address": "somewhere"}),
    ("a:1,b:2", {}), ("", {}),
])  # fmt: skip
def test_a_call_of_grpc_is_named_by_its_method(rig: Rig, target: str, told: dict[str, Any]) -> None:
    rig.spans.calls_grpc("/p.S/M", target).ended("OK")
    assert (rig.last.name, rig.last.kind, rig.last.status.status_code) == ("p.S/M", SpanKind.CLIENT, StatusCode.UNSET)
    assert rig.told == {"rpc.system.name": "grpc", "rpc.method": "p.S/M", "rpc.response.status_code": "OK", **told}


@pytest.mark.parametrize("status, of_client, of_server", [
    ("ABORTED", StatusCode.ERROR, StatusCode.UNSET), ("INTERNAL", StatusCode.ERROR, StatusCode.ERROR),
])  # fmt: skip
def test_a_status_is_an_error_of_whose_fault_it_is(rig: Rig, status: str, of_client: Any, of_server: Any) -> None:
    rig.spans.calls_grpc("/p.S/M").ended(status)
    assert rig.last.status.status_code is of_client and rig.told["error.type"] == status
    rig.spans.serves_grpc("/p.S/M", (), NONE).ended(status)
    assert (rig.last.status.status_code, rig.last.kind) == (of_server, SpanKind.SERVER)


@pytest.mark.parametrize("status, of_client, of_server", [
    (200, StatusCode.UNSET, StatusCode.UNSET), (409, StatusCode.ERROR, StatusCode.UNSET), (503, StatusCode.ERROR, StatusCode.ERROR),
])  # fmt: skip
def test_a_request_of_http_is_named_by_its_method(rig: Rig, status: int, of_client: Any, of_server: Any) -> None:
    rig.spans.calls_http("POST", "there", None).ended(status)
    told = {"http.request.method": "POST", "http.response.status_code": status}
    assert rig.last.status.status_code is of_client and rig.told.items() >= {**told, "server.address": "there"}.items()
    rig.spans.serves_http("POST", {"traceparent": PARENT}.get, NONE).ended(status)
    assert rig.last.status.status_code is of_server and rig.told.items() >= told.items()
    assert rig.last.context.trace_id == int("a" * 32, 16)


def test_a_call_is_a_part_of_what_another_instrumentation_has_made(rig: Rig) -> None:
    with rig.spans.around("theirs", {}) as theirs:
        call = rig.spans.serves_grpc("/p.S/M", (("traceparent", PARENT),), NONE)
    with call.around():
        rig.spans.start("within", {}).end()
    assert rig.last.parent is not None and rig.last.parent.span_id == call.span.get_span_context().span_id
    copy_context().run(call.attach)
    call.ended("OK")
    assert rig.last.kind is SpanKind.INTERNAL
    assert rig.last.parent is not None and rig.last.parent.span_id == theirs.get_span_context().span_id


# ---- what is done


@pytest.mark.parametrize("error, told", [
    (Refuse("NO_FUNDS", "a secret"), {"error.type": "REFUSED", "troth.reason": "REFUSED", "troth.code": "NO_FUNDS"}),
    (RequestError(Reason.INTERNAL, "a secret"), {"error.type": "INTERNAL", "troth.reason": "INTERNAL"}),
    (LookupError("a secret"), {"error.type": "LookupError"}),
])  # fmt: skip
def test_an_error_is_told_without_its_words(rig: Rig, error: Exception, told: dict[str, str]) -> None:
    with pytest.raises(type(error)), rig.spans.around("work", {"a": "", "b": None, "c": 1}):
        raise error
    assert rig.told == {"c": 1, **told} and rig.last.status.status_code is StatusCode.ERROR
    assert "secret" not in rig.last.to_json() and not rig.last.events


def test_a_link_begins_a_trace_of_its_own(rig: Rig) -> None:
    parent = rig.spans.parent(common_pb2.TraceContext(traceparent=PARENT))
    with rig.spans.around("elsewhere", {}):
        rig.spans.start("again", {}, link=parent, start_ns=5).end(9)
    assert (rig.last.name, rig.last.start_time, rig.last.end_time) == ("elsewhere", rig.last.start_time, rig.last.end_time)
    again = rig._exporter.get_finished_spans()[0]
    assert again.parent is None and [link.context.trace_id for link in again.links] == [int("a" * 32, 16)]
    assert (again.start_time, again.end_time) == (5, 9)


def test_what_is_over_is_told_with_its_times(rig: Rig) -> None:
    parent = rig.spans.parent(common_pb2.TraceContext(traceparent=PARENT))
    assert parent is not None
    span = rig.spans.serves("asked", {}, parent, 3)
    rig.spans.past("done", {"a": 1}, rig.spans.context_of(span), 5, 7)
    assert (rig.last.start_time, rig.last.end_time, rig.told) == (5, 7, {"a": 1})
    span.end(8)
    assert (rig.last.kind, rig.last.start_time) == (SpanKind.SERVER, 3)
    assert offset_ns() > 0
