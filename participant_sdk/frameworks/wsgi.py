"""WSGI: whatever speaks it. Flask and Django have their own (`flask`, `django`), which also answer what their handlers raise.

    application = TransactionMiddleware(application, participant=bank)

The participant is started in the background of each process at its first call, unless that was done before
(`Participant.start_in_background`, say in gunicorn's `post_worker_init`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from participant_sdk.frameworks.calls import Headers, HttpCall, Refusal, refusal
from participant_sdk.metadata import CONTEXT_KEY
from troth.errors import RequestError

if TYPE_CHECKING:
    from participant_sdk.participant import Participant

StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

CONTEXT_VARIABLE = f"HTTP_{CONTEXT_KEY.upper().replace('-', '_')}"
"""Where WSGI has the header."""


def header_of(environ: Mapping[str, Any], name: str) -> str | None:
    """A header of a request."""
    return environ.get(f"HTTP_{name.upper().replace('-', '_')}")


class TransactionMiddleware:
    """Gives handlers the transaction in which they are called, and acknowledges what they did in it; see
    `participant_sdk.frameworks.asgi`."""

    def __init__(self, app: App, participant: Participant) -> None:
        self._app = app
        self._participant = participant

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """One call."""
        self._participant.start_in_background()
        context = environ.get(CONTEXT_VARIABLE)
        if context is None:
            return self._app(environ, start_response)
        try:
            call = HttpCall([context], self._participant.name, environ["REQUEST_METHOD"], functools.partial(header_of, environ))
        except RequestError as error:
            told = refusal(error, self._participant.name)
            assert told is not None
            return _answer(told, start_response)
        return _Answering(call, start_response).run(self._app, environ)


class _Answering:
    """The answer of one call: it begins when the application has given its status, and the first of its body."""

    def __init__(self, call: HttpCall, start_response: StartResponse) -> None:
        self._call = call
        self._start_response = start_response
        self._begun: tuple[str, Headers, Any] | None = None
        self._said: Headers | None = None
        self._written: list[bytes] = []

    def run(self, app: App, environ: dict[str, Any]) -> Iterable[bytes]:
        try:
            with self._call.inside():
                body = app(environ, self._remember)
                chunks = iter(body)
                first = [] if self._begun is not None else list(itertools.islice(chunks, 1))
        except Exception as error:
            told = self._call.fails(error)
            if told is None:
                raise
            return _answer(told, self._start_response)
        else:
            return self._begin(_Body(itertools.chain(self._written, first, chunks), body))
        finally:
            self._call.over()

    def _remember(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        if self._said is not None:  # an error in the body: the server takes the new status, or breaks off
            return self._start_response(status, [*headers, *self._said], exc_info)
        self._begun = status, headers, exc_info
        return self._written.append

    def _begin(self, body: _Body) -> Iterable[bytes]:
        assert self._begun is not None, "the application answered without a status"
        status, headers, exc_info = self._begun
        said = self._call.answers_in_thread(int(status.split(" ")[0]))
        if isinstance(said, Refusal):
            body.close()
            return _answer(said, self._start_response)
        self._said = said
        self._start_response(status, [*headers, *said], *([exc_info] if exc_info else []))
        return body


class _Body:
    """The application's body, which is to be closed at its end."""

    def __init__(self, chunks: Iterator[bytes], body: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def _answer(told: Refusal, start_response: StartResponse) -> Iterable[bytes]:
    start_response(f"{told.status} {HTTPStatus(told.status).phrase}", told.headers)
    return [told.body]
