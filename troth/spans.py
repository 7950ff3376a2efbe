"""How spans are made and how a trace travels: W3C Trace Context, and OpenTelemetry's names for calls.

Imported only by who traces. A span says who, when and how it ended. It never has an argument, a result, a key or a path: a
trace is read by more people than a database. Of an error there is its type or its reason, and no message.

Names are those of the semantic conventions 1.45: for gRPC the span is named by `rpc.method`, for HTTP by the method. Of a call
between services `server.address` is missing, since gRPC tells its interceptors none; and so are the URLs of HTTP, which may
say what nobody should read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import Token
from types import TracebackType
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from troth import __version__, tracing
from troth.address import split_address
from troth.errors import ConfigError, TrothError
from troth.v1 import common_pb2

SCHEMA_URL = "https://opentelemetry.io/schemas/1.45.0"
HEADERS = ("traceparent", "tracestate")
"""What a trace is called in call metadata and HTTP headers."""
SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Status codes of gRPC that are the server's own fault; the others are no error of its span."""

_W3C = TraceContextTextMapPropagator()
Attributes = Mapping[str, Any]


def _told(attributes: Attributes) -> Attributes:
    """What there is nothing to say of is left out."""
    return attributes and {name: value for name, value in attributes.items() if value not in ("", None)}


def _said(span: Span) -> tuple[str, str]:
    """A span as the two headers say it; empty ones for none. It is the format that OpenTelemetry's propagator writes, without its
    dictionary and setters: a transaction that nobody samples is told by it, too."""
    here = span.get_span_context()
    if not here.is_valid:
        return "", ""
    state = here.trace_state
    traceparent = f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"
    return traceparent, state.to_header() if state else ""


class _Inside(AbstractContextManager[None]):
    """See `Spans.inside`. A class, since one that is made of a generator takes three times as long."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = contexts.attach(self._context)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        contexts.detach(self._token)


class _Around(AbstractContextManager[Span]):
    """See `Spans.around`."""

    __slots__ = ("_context", "_span", "_token")

    def __init__(self, span: Span, context: Context) -> None:
        self._span = span
        self._context = context

    def __enter__(self) -> Span:
        self._token = contexts.attach(self._context)
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            Spans.tell_error(self._span, error)
        contexts.detach(self._token)
        self._span.end()


class Call:
    """The span of one call, at either end of it."""

    __slots__ = ("_is_http", "_is_server", "context", "span")

    def __init__(self, span: Span, context: Context, *, is_server: bool, is_http: bool) -> None:
        self.span = span
        self.context = context
        """In which what belongs to the call is done."""
        self._is_server = is_server
        self._is_http = is_http

    def attach(self) -> Token[Context]:
        """Be around what is done here, until `detach`; a task that ends with the call need not."""
        return contexts.attach(self.context)

    def around(self) -> AbstractContextManager[None]:
        """Be around a block."""
        return Spans.inside(self.context)

    def ended(self, status: object) -> None:
        """It ended with a status: the name of one of gRPC's, or a number of HTTP's."""
        if self._is_http:
            self.span.set_attribute("http.response.status_code", int(str(status)))
            failed = int(str(status)) >= (500 if self._is_server else 400)
        else:
            self.span.set_attribute("rpc.response.status_code", str(status))
            failed = str(status) in SERVER_ERRORS if self._is_server else status != "OK"
        if failed:
            self.fails(str(status))
        else:
            self.span.end()

    def fails(self, error_type: str) -> None:
        """It ended with an error."""
        Spans.fails(self.span, error_type)
        self.span.end()


class Spans:
    """Makes the spans of one process."""

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("troth", __version__, provider, SCHEMA_URL)

    # ---- how a trace travels

    @staticmethod
    def parent(carried: common_pb2.TraceContext | None) -> Context | None:
        """What a message carries, as a parent; `None` for what is no trace context."""
        if carried is None or not carried.traceparent:
            return None
        headers = {"traceparent": carried.traceparent, "tracestate": carried.tracestate}
        context = _W3C.extract({name: value for name, value in headers.items() if value}, Context())
        return context if trace.get_current_span(context).get_span_context().is_valid else None

    @classmethod
    def sampled(cls, carried: common_pb2.TraceContext | None) -> Context | None:
        """The same, of a trace that somebody keeps: of one that its first process has not sampled nothing is made any more."""
        return cls.parent(carried) if carried is not None and tracing.is_sampled(carried.traceparent) else None

    @staticmethod
    def headers(context: Context | None = None) -> dict[str, str]:
        """The headers that carry a context, the present one by default."""
        said = _said(trace.get_current_span(context))
        return {name: value for name, value in zip(HEADERS, said, strict=True) if value}

    @classmethod
    def carry(cls, message: common_pb2.TraceContext, context: Context | None = None) -> None:
        """Put a context, the present one by default, into a message; where there is none, what is there stays."""
        cls.carry_span(message, trace.get_current_span(context))

    @staticmethod
    def carry_span(message: common_pb2.TraceContext, span: Span) -> None:
        """The same of a span that is in no context."""
        said = _said(span)
        if said[0]:
            message.traceparent, message.tracestate = said

    def caller(self, header: Callable[[str], str | None], carried: common_pb2.TraceContext) -> Context | None:
        """Who calls: as the headers say, which a proxy may have changed, or else as the message does."""
        said = [header(name) or "" for name in HEADERS]
        return self.parent(common_pb2.TraceContext(traceparent=said[0], tracestate=said[1])) or self.parent(carried)

    # ---- calls

    def calls_grpc(self, method: str, target: str = "", parent: Context | None = None) -> Call:
        """A call that is made, of `/package.Service/Method`; `target` is where, if that is known."""
        return self._call(method, _grpc(method, target), parent, SpanKind.CLIENT)

    def serves_grpc(self, method: str, metadata: Iterable[tuple[str, Any]], carried: common_pb2.TraceContext) -> Call:
        """A call that has come."""
        return self._serves(method, _grpc(method), dict(metadata).get, carried)

    def calls_http(self, method: str, host: str, port: int | None) -> Call:
        """A request that is made."""
        attributes = {"http.request.method": method, "server.address": host, "server.port": port}
        return self._call(method, attributes, None, SpanKind.CLIENT, is_http=True)

    def serves_http(self, method: str, header: Callable[[str], str | None], carried: common_pb2.TraceContext) -> Call:
        """A request that has come."""
        return self._serves(method, {"http.request.method": method}, header, carried, is_http=True)

    def _serves(
        self, name: str, attributes: Attributes, header: Callable[[str], Any], carried: common_pb2.TraceContext, *,
        is_http: bool = False,
    ) -> Call:  # fmt: skip
        # Where the service traces its calls by other means, this is a part of what they have made.
        around = trace.get_current_span()
        if around.is_recording():
            return self._call(name, attributes, None, SpanKind.INTERNAL, is_http=is_http, is_server=True)
        parent = self.caller(header, carried)
        return self._call(name, attributes, parent, SpanKind.SERVER, is_http=is_http, is_server=True)

    def _call(
        self, name: str, attributes: Attributes, parent: Context | None, kind: SpanKind, *, is_http: bool = False,
        is_server: bool = False,
    ) -> Call:  # fmt: skip
        span = self._tracer.start_span(name.lstrip("/"), parent, kind, _told(attributes))
        context = trace.set_span_in_context(span, parent)
        return Call(span, context, is_server=is_server, is_http=is_http)

    # ---- what is done

    def start(
        self, name: str, attributes: Attributes, *, parent: Context | None = None, kind: SpanKind = SpanKind.INTERNAL,
        start_ns: int | None = None, link: Context | None = None,
    ) -> Span:  # fmt: skip
        """A span that the caller ends. With a `link` it begins a trace of its own, which points to that one."""
        links = [Link(trace.get_current_span(link).get_span_context())] if link is not None else None
        around = Context() if link is not None else parent
        return self._tracer.start_span(name, around, kind, _told(attributes), links, start_ns)

    def serves(self, name: str, attributes: Attributes, parent: Context, start_ns: int | None = None) -> Span:
        """A span of what was asked for by another process, in a message of a stream."""
        return self.start(name, attributes, parent=parent, kind=SpanKind.SERVER, start_ns=start_ns)

    def past(self, name: str, attributes: Attributes, parent: Context, start_ns: int, end_ns: int) -> None:
        """A span of what is over."""
        self.start(name, attributes, parent=parent, start_ns=start_ns).end(end_ns)

    @staticmethod
    def here() -> Context | None:
        """The present context, if it is in a trace."""
        present = contexts.get_current()
        return present if present and trace.get_current_span(present).get_span_context().is_valid else None

    @staticmethod
    def is_anywhere() -> bool:
        """Whether there is anything around what is done here: a trace, or what else travels in a context."""
        return bool(contexts.get_current())

    @staticmethod
    def is_recording() -> bool:
        """Whether the present span is one that somebody keeps."""
        return trace.get_current_span().is_recording()

    @staticmethod
    def context_of(span: Span) -> Context:
        """A context whose spans are children of a span."""
        return trace.set_span_in_context(span, Context())

    def around(self, name: str, attributes: Attributes, parent: Context | None = None) -> AbstractContextManager[Span]:
        """A span around a block, which begins here; what leaves the block is told by its type, or its reason."""
        return self.around_span(self.start(name, attributes, parent=parent), parent)

    @staticmethod
    def around_span(span: Span, parent: Context | None = None) -> AbstractContextManager[Span]:
        """The same, of a span that has begun."""
        return _Around(span, trace.set_span_in_context(span, parent))

    @staticmethod
    def fails(span: Span, error_type: str) -> None:
        """It failed, or what it tells of did."""
        span.set_attribute("error.type", error_type)
        span.set_status(StatusCode.ERROR)

    @staticmethod
    def tell_error(span: Span, error: BaseException) -> None:
        """Why it failed, without the words of the error: they may have a payload in them."""
        if isinstance(error, TrothError):
            Spans.fails(span, error.reason.name)
            span.set_attribute(tracing.REASON, error.reason.name)
            if code := getattr(error, "code", ""):
                span.set_attribute(tracing.CODE, code)
        else:
            Spans.fails(span, type(error).__qualname__)

    @staticmethod
    def inside(context: Context | None) -> AbstractContextManager[None]:
        """Be inside of a context for the time of the block; of `None`, outside of any."""
        return _Inside(Context() if context is None else context)


def offset_ns() -> int:
    """What is to be added to a monotonic time, in nanoseconds, to have the time since the Unix epoch."""
    return time.time_ns() - time.monotonic_ns()


def _grpc(method: str, target: str = "") -> Attributes:
    attributes: dict[str, Any] = {"rpc.system.name": "grpc", "rpc.method": method.lstrip("/")}
    if target and "," not in target:
        try:
            attributes["server.address"], attributes["server.port"] = split_address(target)
        except ConfigError:
            attributes["server.address"] = target
    return attributes
