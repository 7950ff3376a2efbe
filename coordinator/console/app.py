"""The console's routes. Each page works without JavaScript; with it, what is shown stays as it is now (`live`)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from coordinator.console import pages
from coordinator.console.actions import Offer
from coordinator.console.guarding import BODY_BYTES_MAX, SESSION_COOKIE, TOKEN_COOKIE, Forms, Strict, WebCall
from coordinator.console.pages import Page
from coordinator.inside import Asker, Inside
from coordinator.shell_settings import ShellSettings
from troth import __version__
from troth.errors import Reason, RequestError
from troth.identity.peer import NOBODY, Identity
from troth.logs import visible

HERE = Path(__file__).parent
LIVE_MAX = 64
"""Browsers that are told of changes at once."""
LIVE_SECONDS = 2.0
"""How often a page that is watched is looked at."""
LIVE_SHARE = 50
"""A page that takes long to make, such as a listing of all that is retained, is looked at less often: after so many times what it
took. So who watches takes a fiftieth of the time that there is, and less of a coordinator that has no time."""
LIVE_SECONDS_MAX = 10.0
"""But no less often than this."""
VERBS = frozenset({"abort", "commit", "abandon", "forget"})
_UNAUTHENTICATED = frozenset({Reason.UNAUTHENTICATED, Reason.TOKEN_EXPIRED})

Show = Callable[[Inside, Asker, Request], Awaitable[Page]]


class Console:
    """The pages of one process."""

    def __init__(self, inside: Inside, shell: ShellSettings) -> None:
        self._inside = inside
        self._secure = bool(shell.tls_certificate)
        self._closed = bool(shell.tokens or shell.jwt_keys)
        self._forms = Forms()
        self._watching = 0
        self.ending = asyncio.Event()
        """Set when the process ends: whoever is told of changes is told no more."""
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._templates.globals.update(pages.TEMPLATE_GLOBALS, version=__version__)
        self._templates.filters["visible"] = visible
        self.app: ASGIApp = Strict(Starlette(routes=self._routes()), shell.console_listen)

    def _routes(self) -> list[Route | Mount]:
        shown: dict[str, Show] = {
            "/": lambda inside, who, request: pages.home(inside, who),
            "/transactions": lambda inside, who, request: pages.transactions(inside, who, request.query_params),
            "/transactions/{id}": lambda inside, who, request: pages.transaction(inside, who, request.path_params["id"]),
            "/participants": lambda inside, who, request: pages.participants(inside, who, request.query_params),
            "/participants/{name:path}": lambda inside, who, request: pages.participant(inside, who, request.path_params["name"]),
        }
        self._shown = shown
        return [
            Route("/transactions/{id}/{verb}", self._act, methods=["GET", "POST"]),
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            Route("/live", self._live),
            *(Route(path, self._page(show)) for path, show in shown.items()),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]

    # ---- pages

    def _page(self, show: Show) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            page = await self._made(show, request)
            return self._response(page, request)

        return answer

    async def _made(self, show: Show, request: Request) -> Page:
        """The page, or the one that says why not."""
        try:
            identity = self._identity(request)
            page = await show(self._inside, WebCall(request), request)
            page.values["identity"] = identity
            return page
        except RequestError as error:
            return _why_not(error)

    def _identity(self, request: Request) -> Identity:
        """Who looks. Where tokens are taken, a browser has to show one: it may stand on a machine with others."""
        identity = self._inside.common.witness.identity(WebCall(request))
        if self._closed and not identity.name:
            raise RequestError(Reason.UNAUTHENTICATED, "the console does not know who you are")
        return identity

    def _response(self, page: Page, request: Request) -> Response:
        session = self._forms.session_of(request)
        response = HTMLResponse(self._html("base.html", page, request, session), page.status)
        if request.cookies.get(SESSION_COOKIE) != session:
            response.set_cookie(SESSION_COOKIE, session, httponly=True, samesite="strict", secure=self._secure)
        return response

    def _html(self, template: str, page: Page, request: Request, session: str) -> str:
        values = {"identity": NOBODY, **page.values}
        token = self._forms.token(session, request.url.path)
        return self._templates.get_template(template).render(
            page=page, main=page.template, path=request.url.path, token=token, **values
        )  # fmt: skip

    # ---- doing something

    async def _act(self, request: Request) -> Response:
        offer = Offer(request.path_params["id"], request.path_params["verb"], request.query_params.get("participant", ""), "")
        if offer.verb not in VERBS:
            return self._response(_why_not(RequestError(Reason.INVALID_ARGUMENT, f"{offer.verb[:40]!r} is nothing to do")), request)
        if request.method == "GET":
            page = await self._made(lambda inside, who, _: pages.preview(inside, who, self._identity(request), offer, {}), request)
            return self._response(page, request)
        form = await _form_of(request)
        page = await self._made(lambda inside, who, _: self._do(inside, who, offer, form, request), request)
        return self._response(page, request)

    async def _do(self, inside: Inside, asker: Asker, offer: Offer, form: dict[str, str], request: Request) -> Page:
        identity = self._identity(request)
        wrong = self._what_is_wrong(offer, form, identity, request)
        if wrong:
            return await pages.preview(inside, asker, identity, offer, form, wrong)
        request_ = pages.request_of(offer, identity.name or form["who"].strip(), form["why"].strip())
        response = await inside.ask(pages.method_of(offer), request_, asker)
        if response.HasField("refusal"):
            return await pages.preview(inside, asker, identity, offer, form, response.refusal.message)
        page = await pages.transaction(inside, asker, offer.transaction_id)
        page.values["done"] = getattr(response, "message", "") or f"{offer.transaction_id} is forgotten."
        return page

    def _what_is_wrong(self, offer: Offer, form: dict[str, str], identity: Identity, request: Request) -> str:
        if not self._forms.is_ours(request, form):
            return "This form is not from this console, or the daemon was restarted since: look at the preview again."
        if form.get("typed", "").strip() != offer.word:
            return f"Type {offer.word} to do it."
        if not form.get("why", "").strip():
            return "Say why: it is recorded."
        return "" if identity.name or form.get("who", "").strip() else "Say who you are: it is recorded."

    async def _sign_in(self, request: Request) -> Response:
        page = Page("sign_in.html", "Sign in", {"wrong": ""})
        if request.method == "GET":
            return self._response(page, request)
        form = await _form_of(request)
        if not self._forms.is_ours(request, form):
            page.values["wrong"], page.status = "This form is not from this console: try again.", 422
            return self._response(page, request)
        response = RedirectResponse("/", 303)
        response.set_cookie(TOKEN_COOKIE, form.get("bearer", "").strip(), httponly=True, samesite="strict", secure=self._secure)
        return response

    # ---- live

    async def _live(self, request: Request) -> Response:
        """Tells a browser what its page shows, whenever that changes."""
        if self._watching >= LIVE_MAX:
            return PlainTextResponse("Too many pages are watched.", 503)
        target = urlsplit(request.query_params.get("page", "/"))
        show, parameters = self._shown_at(target.path)
        if show is None:
            return PlainTextResponse("No page of that name is live.", 404)
        scope = {**request.scope, "path": target.path, "query_string": target.query.encode(), "path_params": parameters}
        return StreamingResponse(self._changes(show, Request(scope), request), media_type="text/event-stream")

    def _shown_at(self, path: str) -> tuple[Show | None, dict[str, str]]:
        for pattern, show in self._shown.items():
            match = Route(pattern, _unused).path_regex.match(path)
            if match:
                return show, match.groupdict()
        return None, {}

    async def _changes(self, show: Show, target: Request, request: Request) -> AsyncIterator[str]:
        self._watching += 1
        last = ""
        try:
            while not self.ending.is_set() and not await request.is_disconnected():
                began = time.monotonic()
                page = await self._made(show, target)
                html = self._html(page.template, page, target, self._forms.session_of(request))
                pause = pause_seconds(time.monotonic() - began)
                mark = hashlib.sha256(html.encode()).hexdigest()
                if mark != last:
                    last = mark
                    yield f"event: main\ndata: {json.dumps(html)}\n\n"
                else:
                    yield ": nothing new\n\n"
                try:
                    await asyncio.wait_for(self.ending.wait(), pause)
                except TimeoutError:
                    continue
        finally:
            self._watching -= 1


def pause_seconds(took: float) -> float:
    """How long a watched page is left alone that took so many seconds to make."""
    return min(max(LIVE_SECONDS, took * LIVE_SHARE), LIVE_SECONDS_MAX)


async def _unused(request: Request) -> Response:
    raise AssertionError("only its pattern is used")


def _why_not(error: RequestError) -> Page:
    """The page that says why something is not shown or done."""
    sign_in = error.reason in _UNAUTHENTICATED
    status = 401 if sign_in else 403 if error.reason.name == "FORBIDDEN" else 503 if error.reason.retryable else 400
    values = {"reason": error.reason.name, "message": error.message, "hint": error.hint, "sign_in": sign_in}
    return Page("error.html", "That cannot be shown", values, status)


async def _form_of(request: Request) -> dict[str, str]:
    """The fields of a form; one that is too large has none."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            return {}
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
