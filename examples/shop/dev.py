"""`troth dev`: a coordinator with its console and the shop's three services, to be tried out and looked at.

Everything is in one temporary directory, and ends with Ctrl-C. A page has three buttons: an order, one that is refused, and a crash
of payments after it has voted YES and before it hears how it ended. With --closed everybody shows a token, or a certificate of an
authority that is made for this run and thrown away with it, and a policy says what he may do.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import itertools
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import uvicorn
from processes import LOOK_SECONDS, SERVICES, Cluster, ProcessFailed
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import coordinator.console
from coordinator.console.guarding import SESSION_COOKIE, Forms, Strict
from coordinator.console.server import QuietServer
from participant_sdk.client import Aborted, Client, Committed, OutcomeUnknown, RequestError, call

if TYPE_CHECKING:
    from closed import Closed

STATIC = Path(coordinator.console.__file__).parent / "static"
VICTIM = "payments"
IN_DOUBT = "participant:after-send:votes=kill@1"
"""Killed when its vote is sent, for the first order after its start."""
BACK_SECONDS = 60.0
"""When who was crashed is started again, if nobody has done it before."""
DEATH_SECONDS = 10.0
"""How long its end is waited for."""
TOLD_MAX = 20
CUSTOMER, PRODUCT, PRICE_CENTS = "c001", "p001", 100
MUCH = 1_000_000
"""More than there is of anything."""


class Playground:
    """The page with the buttons, and what they do."""

    def __init__(self, cluster: Cluster, client: Client, console: str) -> None:
        self._cluster, self._client, self._console = cluster, client, console
        self._numbers = itertools.count(1)
        self._told: list[tuple[str, str]] = []
        self._forms = Forms()
        self._tasks: set[asyncio.Task[None]] = set()

    def app(self, listen: str) -> Strict:
        """What is served."""
        routes = [
            Route("/", self._page), Route("/{what}", self._press, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]  # fmt: skip
        return Strict(Starlette(routes=routes), listen)

    async def close(self) -> None:
        """Nothing is waited for any longer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- the page

    async def _page(self, request: Request) -> Response:
        session = self._forms.session_of(request)
        down = not self._cluster.services[VICTIM].running
        rows = "".join(f"<li><p>{text}</p>{self._link(name)}</li>" for text, name in reversed(self._told))
        buttons = "".join(self._button(session, *one) for one in (_BUTTONS_DOWN if down else _BUTTONS))
        response = HTMLResponse(_PAGE.format(console=html.escape(self._console), buttons=buttons, rows=rows))
        response.set_cookie(SESSION_COOKIE, session, httponly=True, samesite="strict")
        return response

    def _button(self, session: str, what: str, text: str, says: str) -> str:
        token, kind = self._forms.token(session, f"/{what}"), "danger" if what == "crash" else ""
        return (
            f'<li><form method="post" action="/{what}"><input type="hidden" name="token" value="{token}">'
            f'<button class="{kind}">{html.escape(text)}</button><p class="soft">{html.escape(says)}</p></form></li>'
        )

    def _link(self, name: str) -> str:
        if not name:
            return ""
        return f'<p><a href="{html.escape(self._console)}transactions/{html.escape(name)}">see it in the console</a></p>'

    async def _press(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        if self._forms.is_ours(request, form):
            what = request.path_params["what"]
            if what in _ACTS:
                await _ACTS[what](self)
        return RedirectResponse("/", 303)

    def _tell(self, text: str, transaction_id: str = "") -> None:
        self._told = [*self._told[-TOLD_MAX + 1 :], (html.escape(text), transaction_id)]

    # ---- what the buttons do

    async def order(self, quantity: int = 1) -> None:
        """One order, as one transaction over the three services."""
        name = f"try-{next(self._numbers)}"
        line = {"product": PRODUCT, "quantity": quantity, "unit_price_cents": PRICE_CENTS}
        calls = (
            call("orders", "place", order=name, customer=CUSTOMER, lines=[line]),
            call("inventory", "take", order=name, product=PRODUCT, quantity=quantity),
            call(VICTIM, "charge", order=name, customer=CUSTOMER, amount_cents=PRICE_CENTS),
        )
        try:
            done: Committed = await self._client.run(*calls, key=name, timeout=5.0)
            self._tell(f"The order {name} is committed, everywhere.", done.transaction_id)
        except Aborted as aborted:
            self._tell(f"The order {name} happened nowhere: {aborted}", aborted.transaction_id)
        except OutcomeUnknown as unknown:
            self._tell(f"How the order {name} ended is not known yet: {unknown}", unknown.transaction_id)
        except RequestError as refused:
            self._tell(f"The order {name} was not taken: {refused}")

    async def refuse(self) -> None:
        """An order that inventory refuses."""
        await self.order(MUCH)

    async def crash(self) -> None:
        """Payments dies when it has voted; the order is committed all the same, and payments hears of it when it is back."""
        service = self._cluster.services[VICTIM]
        if not service.running:
            return
        await service.stop()
        await service.start(IN_DOUBT)
        await self.order()
        try:
            await asyncio.wait_for(service.ended(), DEATH_SECONDS)
        except TimeoutError:
            return  # the order did not come so far
        self._tell(f"{VICTIM} was killed after it had voted YES: it is in doubt, and starts again in {BACK_SECONDS:.0f} s.")
        task = asyncio.create_task(self._back_later())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _back_later(self) -> None:
        await asyncio.sleep(BACK_SECONDS)
        await self.back()

    async def back(self) -> None:
        """Start it again."""
        service = self._cluster.services[VICTIM]
        if not service.running:
            await service.start()
            self._tell(f"{VICTIM} is back, was told how it ended, and has done it.")


_ACTS = {"order": Playground.order, "refuse": Playground.refuse, "crash": Playground.crash, "back": Playground.back}
_BUTTONS = (
    ("order", "Place an order", "Three services each do their part, in one transaction."),
    ("refuse", "Order more than there is", "Inventory refuses, so nothing happens anywhere."),
    ("crash", "Crash payments in the middle of an order", "It is killed between its vote and the decision: look at the console."),
)
_BUTTONS_DOWN = (
    ("order", "Place an order", "Payments is down: it cannot be asked."),
    ("back", "Start payments again", "It asks how it ended."),
)
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>troth dev</title><link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/console.css"></head>
<body><header><strong>troth dev</strong><nav><a href="{console}">Console</a></nav></header>
<main><h1>Try it</h1><div class="card"><ul class="offers">{buttons}</ul></div>
<h2>What happened, the newest first</h2><ul class="items">{rows}</ul></main></body></html>
"""


# ---- the process


def main() -> int:
    """Run until Ctrl-C or SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="troth dev", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="do not delete the directory at the end")
    parser.add_argument("--closed", action="store_true", help="with TLS both ways and a policy, by a throw-away authority")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="troth-dev-"))
    try:
        asyncio.run(_run(directory, keep=options.keep, closed=_closed(directory) if options.closed else None))
    except ProcessFailed as error:
        _say(f"troth dev: {error}")
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
    return 0


def _closed(directory: Path) -> Closed:
    """The authority of this run. Raises `ProcessFailed` where certificates cannot be made."""
    try:
        from closed import Closed
    except ImportError as error:
        raise ProcessFailed(f"there is nothing that makes certificates: pip install '.[pki]' ({error})") from None
    return Closed(directory, SERVICES)


async def _run(directory: Path, *, keep: bool, closed: Closed | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    console, ours = _free_port(), _free_port()
    _say(f"everything lives in {directory}, {'and stays there' if keep else 'and is deleted when you stop'}; starting ...")
    settings = (f"console_listen=127.0.0.1:{console}", *(closed.settings() if closed is not None else ()))
    cluster = Cluster(directory, settings, closed.tls if closed is not None else None)
    try:
        await cluster.start()
        async with Client(cluster.coordinator.address, tls=closed.tls("caller") if closed is not None else None) as client:
            playground = Playground(cluster, client, f"http{'s' if closed is not None else ''}://127.0.0.1:{console}/")
            config = uvicorn.Config(
                playground.app(f"127.0.0.1:{ours}"), host="127.0.0.1", port=ours, log_config=None, access_log=False, lifespan="off"
            )
            server = QuietServer(config)
            serving = asyncio.create_task(server.serve())
            while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn signals nothing
                await asyncio.sleep(LOOK_SECONDS)
            _tell_places(cluster, ours, console, closed)
            await stop.wait()
            server.should_exit = True
            await serving
            await playground.close()
    finally:
        _say("stopping ...")
        await cluster.stop()


def _tell_places(cluster: Cluster, ours: int, console: int, closed: Closed | None) -> None:
    _say(f"  try it       http://127.0.0.1:{ours}/      an order, one that is refused, a crash")
    if closed is None:
        _say(f"  console      http://127.0.0.1:{console}/")
    else:
        _say(f"  console      https://127.0.0.1:{console}/     it asks for the token {closed.token}")
    asked = f"troth txn list --coordinator {cluster.coordinator.address}"
    if closed is not None:
        asked = f". {closed.shell(cluster.coordinator.address)} && troth txn list"
    _say(f"  coordinator  {cluster.coordinator.address}    {asked}")
    for name, service in cluster.services.items():
        _say(f"  {name:<11}  {service.address}")
    _say("Ctrl-C stops all of it.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
