"""Who may talk to the console: headers, hosts, and the tokens of forms."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from troth.address import is_loopback, split_address

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none at all a browser says that its forms come from "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SESSION_COOKIE = "troth_console"
TOKEN_COOKIE = "troth_token"
BODY_BYTES_MAX = 16_384


class Strict:
    """Puts the headers on each answer, and takes a request only under a name of its own: a page elsewhere, whose name somebody has
    made lead here, gets nothing."""

    def __init__(self, app: ASGIApp, listen: str) -> None:
        self._app = app
        host, _ = split_address(listen)
        self._hosts = {"localhost", "127.0.0.1", "[::1]", host} if is_loopback(listen) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        host = Request(scope).headers.get("host", "")
        if self._hosts is not None and host.rpartition(":")[0] not in self._hosts and host not in self._hosts:
            await PlainTextResponse("This console has another name.", 421)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


class Forms:
    """Makes and checks the tokens that forms carry: each belongs to one browser and one page."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def session_of(self, request: Request) -> str:
        """The browser, or a new one."""
        return request.cookies.get(SESSION_COOKIE) or secrets.token_urlsafe(24)

    def token(self, session: str, path: str) -> str:
        """The token of a form that is sent to a path."""
        return hmac.new(self._secret, f"{session}\n{path}".encode(), hashlib.sha256).hexdigest()

    def is_ours(self, request: Request, form: dict[str, str]) -> bool:
        """Whether a form comes from a page of ours, in this browser."""
        session = request.cookies.get(SESSION_COOKIE, "")
        origin = request.headers.get("origin", "")
        ours = not origin or origin.partition("://")[2] == request.headers.get("host", "")
        return bool(session) and ours and hmac.compare_digest(form.get("token", ""), self.token(session, request.url.path))


class WebCall:
    """In place of gRPC's context: a browser's request, with the token that it keeps, if any."""

    def __init__(self, request: Request) -> None:
        self._token = request.cookies.get(TOKEN_COOKIE, "")

    def auth_context(self) -> dict[str, Any]:
        """A browser shows no certificate here."""
        return {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """The token, as a call has it."""
        return (("authorization", f"Bearer {self._token}"),) if self._token else ()
