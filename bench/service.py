"""What every measured process shares: an event loop, a bare gRPC server with identity serialisers, an orderly end."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bench.processes import write_address

Handler = Callable[[bytes, Any], Awaitable[bytes]]
SERVICE = "bench.Bench"


def loop_factory() -> asyncio.AbstractEventLoop:
    """uvloop when it is there: the same loop for everything that is compared."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(work)


def run_role(work: Callable[[Path, list[str]], Coroutine[Any, Any, None]]) -> None:
    """Run a participant, or with `--participants ADDRESS,ADDRESS` the coordinator, in `--directory DIR`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--participants", default="")
    options = parser.parse_args()
    run_loop(work(options.directory, [one for one in options.participants.split(",") if one]))


async def serve(directory: Path, handlers: Mapping[str, Handler], interceptors: Sequence[Any] = (), *, stream: Any = None) -> None:
    """Serve unary methods `/bench.Bench/NAME`, and a stream of bytes as `/bench.Bench/Stream`, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(interceptors=interceptors, options=[("grpc.so_reuseport", 0)])
    methods: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in handlers.items()}
    if stream is not None:
        methods["Stream"] = grpc.stream_stream_rpc_method_handler(stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    write_address(directory, f"127.0.0.1:{port}")
    await stop.wait()
    await server.stop(grace=1)


def method(channel: grpc.aio.Channel, name: str) -> Any:
    """A call that sends and returns bytes."""
    return channel.unary_unary(f"/{SERVICE}/{name}")


def stream(channel: grpc.aio.Channel) -> Any:
    """A call that opens the stream of bytes."""
    return channel.stream_stream(f"/{SERVICE}/Stream")


def provide_traces() -> Any:
    """Give this process a tracer provider that samples and sends as the environment says. Its `shutdown` sends what waits."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider
