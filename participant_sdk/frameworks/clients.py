"""HTTP clients that carry a transaction: `httpx.AsyncClient`, `httpx.Client` and `requests.Session`.

They are changed in place, by what they have for that: hooks, and adapters. Outside of a transaction their calls pass unchanged.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from participant_sdk.carriers import Carried, Find, headers_of
from participant_sdk.frameworks.headers import FAILED_FROM, nobody_knows, of_request
from participant_sdk.metadata import said
from troth import tracing
from troth.errors import ConfigError, Reason, RequestError
from troth.v1 import client_pb2

Http = TypeVar("Http")
_CARRIED = "troth_carried"
"""Under this name a request has its transaction."""


def carry(http: Http, find: Find) -> Http:
    """Make an HTTP client's calls take part in the transaction around them; returns the client. Raises `ConfigError`."""
    if hasattr(http, "event_hooks"):
        asynchronous = inspect.iscoroutinefunction(getattr(http, "send", None))
        _add_hooks(http, *(_async_hooks(find) if asynchronous else _hooks(find)))
    elif hasattr(http, "adapters") and hasattr(http, "mount"):
        for prefix, adapter in list(http.adapters.items()):
            http.mount(prefix, _CarryingAdapter(adapter, find))
    else:
        message = f"a {type(http).__name__} cannot carry a transaction"
        raise ConfigError(message, hint="Give an httpx.AsyncClient, an httpx.Client or a requests.Session.")
    return http


# ---- httpx


def _add_hooks(http: Any, request: Callable[..., Any], response: Callable[..., Any]) -> None:
    hooks = http.event_hooks
    # First of all at the answer: whoever raises for its status comes after it was counted.
    http.event_hooks = {"request": [*hooks["request"], request], "response": [response, *hooks["response"]]}


def _hooks(find: Find) -> tuple[Callable[..., Any], Callable[..., Any]]:
    # A call that breaks has no answer and no hook: it stays under way, and nobody commits behind it.
    def begins(request: Any) -> None:
        carried = find()
        request.extensions = {**request.extensions, _CARRIED: carried}
        if carried is not None:
            request.headers.update(_begun(carried, request.method, request.url.host, request.url.port))

    def ends(response: Any) -> None:
        carried = response.request.extensions.get(_CARRIED)
        if carried is not None:
            ended(carried, response.status_code, response.headers, response.request.url)

    return begins, ends


def _async_hooks(find: Find) -> tuple[Callable[..., Any], Callable[..., Any]]:
    begins, ends = _hooks(find)

    async def begins_in_loop(request: Any) -> None:
        begins(request)

    async def ends_in_loop(response: Any) -> None:
        ends(response)

    return begins_in_loop, ends_in_loop


# ---- requests


class _CarryingAdapter:
    """A transport adapter around the one that was mounted."""

    def __init__(self, adapter: Any, find: Find) -> None:
        self._adapter = adapter
        self._find = find

    def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        """Send one request, within the transaction around it if there is one. A redirection is another request."""
        carried = self._find()
        if carried is None:
            return self._adapter.send(request, *arguments, **options)
        url = urlsplit(request.url)
        request.headers.update(_begun(carried, request.method, url.hostname or "", url.port))
        try:
            response = self._adapter.send(request, *arguments, **options)
        except BaseException:
            carried.lost()
            raise
        try:
            ended(carried, response.status_code, response.headers, request.url)
        except BaseException:
            response.close()
            raise
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


# ---- both


def _begun(carried: Carried, method: str, host: str, port: int | None) -> dict[str, str]:
    if tracing.spans is not None:
        carried.span = tracing.spans.calls_http(method, host, port)
    metadata = headers_of(carried)
    try:
        return of_request(metadata)
    except BaseException:
        carried.over()  # it was not made
        raise


def ended(carried: Carried, status: int, headers: Any, url: Any) -> None:
    """Tell what an answer says. Raises `RequestError` (NO_CONTEXT) when a call succeeded of which nobody says what it did: a proxy
    that drops headers must not make a commit of half the work."""
    if carried.span is not None:
        carried.span.ended(status)
    told = said(headers)
    succeeded = status < FAILED_FROM
    silent = succeeded and not told
    if silent:
        carried.count(client_pb2.AcknowledgedOperations(unknown=True))
    carried.ended(succeeded, told, nobody_knows(status))
    if silent:
        raise RequestError(
            Reason.NO_CONTEXT, f"{url} answered {status} in a transaction, and not what it did in it",
            hint="Give that service the middleware, let proxies pass headers that begin with troth-, or call it by another client.",
        )  # fmt: skip
