"""The metrics' web server, which also answers probes that speak neither gRPC nor TLS: a kubelet's, a load balancer's.

    /metrics   what Prometheus reads
    /live      200: the coordinator's loop turns; 503, or no answer: it stands still, and only a restart helps
    /ready     200: it takes new work; 503: it is beginning, draining, or has lost something
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

HEADERS = [("Content-Type", "text/plain"), ("Cache-Control", "no-store")]
"""Of an answer to a probe."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, and none that is waited for."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 30.0
    """Seconds that a connection may say nothing."""

    def log_message(self, *_: Any) -> None:
        """What is asked each second is no line of the log."""


class Endpoint:
    """One server, in a thread of its own. `asked` says from the coordinator's loop whether it is ready, or raises `TimeoutError`.

    Raises `OSError` when the address cannot be had.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, asked: Callable[[], bool]) -> None:
        self._metrics: Any = make_wsgi_app(registry)
        self._asked = asked
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        kind: type[_Server] = type("_Server", (_Server,), {"address_family": family})
        self._server = make_server(host, port, self._answer, kind, handler_class=_Handler)
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, name="troth-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environment: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path not in ("/live", "/ready"):
            answer: Iterable[bytes] = self._metrics(environment, start)
            return answer
        try:
            said = b"ok\n" if self._asked() or path == "/live" else b"not ready\n"
        except TimeoutError:
            said = b"the loop stands still\n"
        start("200 OK" if said == b"ok\n" else "503 Service Unavailable", HEADERS)
        return [said]
