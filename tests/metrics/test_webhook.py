"""`on_attention`: who is told what needs people, and when."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from coordinator.attention import attention
from coordinator.config import load
from coordinator.inside import Inside
from coordinator.server import Daemon, make_daemon
from coordinator.webhook import Webhook
from troth.errors import ConfigError
from troth.v1 import admin_pb2


class Hook:
    """A web address that keeps what it is told, and refuses as long as it is told to."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.refuses = False
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not hook.refuses:
                    hook.told.append(json.loads(body))
                self.send_response(503 if hook.refuses else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    thread = threading.Thread(target=hook.server.serve_forever)
    thread.start()
    yield hook
    hook.server.shutdown()
    thread.join()
    hook.server.server_close()


@pytest.fixture
async def daemon(tmp_path: Path) -> Any:
    daemon = make_daemon(load(environment={}, flags={"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1")}).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


async def test_what_comes_is_told_once_it_is_taken_and_once_only(daemon: Daemon, hook: Hook) -> None:
    inside = Inside(daemon._routes)
    webhook = Webhook(hook.url, "c1", inside)
    await webhook.look()
    assert hook.told == [] and await attention(inside) == []
    await daemon.admin.Drain(admin_pb2.DrainRequest(), None)
    hook.refuses = True
    with pytest.raises(OSError, match="503"):
        await webhook.look()
    hook.refuses = False
    await webhook.look()
    await webhook.look()
    (told,) = hook.told
    assert [(item["kind"], item["subject"]) for item in told["came"]] == [("draining", "c1")]
    assert (told["coordinator"], told["went"], len(told["now"])) == ("c1", [], 1)
    webhook._told["loss", "bank"] = (await attention(inside))[0]
    await webhook.look()
    assert len(hook.told[1]["went"]) == 1 and hook.told[1]["came"] == []


@pytest.mark.parametrize("url", ["ftp://a/b", "hook.example", "https://"])
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="on_attention"):
        load(environment={}, flags={"on_attention": url})
