"""One HTTP call of a service inside a transaction: what all middlewares share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from participant_sdk.context import Scope, cause_told, parse_context, within
from participant_sdk.frameworks.headers import FAILED_FROM, STATUS_OF_CODE, context_of, of_cause, of_response
from troth import tracing
from troth.errors import Reason, RequestError, TrothError
from troth.v1 import common_pb2

Headers = list[tuple[str, str]]


class Refusal(NamedTuple):
    """An answer that says why a call failed."""

    status: int
    headers: Headers
    body: bytes


def refusal(error: BaseException, participant: str) -> Refusal | None:
    """The answer for an error that tells a cause: a `TrothError`, a failed call of another service that came back with one, or a
    group of such. `None` for any other error."""
    cause = cause_told(error, participant)
    return None if cause is None else _refusal(cause)


def _refusal(cause: common_pb2.Cause) -> Refusal:
    reason = Reason.__members__.get(cause.reason, Reason.INTERNAL)  # of a newer service, further on
    body = f"{cause.reason}: {cause.message}\n".encode()
    headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body))), of_cause(cause)]
    return Refusal(STATUS_OF_CODE[reason.grpc_code], headers, body)


class HttpCall:
    """A call from its context to its answer. Raises `RequestError` (INVALID_ARGUMENT) when its header is no context."""

    def __init__(
        self, context: Iterable[str | bytes], participant: str, method: str, header: Callable[[str], str | None]
    ) -> None:  # fmt: skip
        self._scope = Scope(parse_context(context_of(context)), tells=True)
        self._participant = participant
        if tracing.spans is not None:
            self._scope.span = tracing.spans.serves_http(method, header, self._scope.context.trace)

    @contextlib.contextmanager
    def inside(self) -> Iterator[Scope]:
        """Be the scope of what runs in the block; it may be entered again."""
        with within(self._scope):
            yield self._scope

    async def answers(self, status: int) -> Headers | Refusal:
        """The answer begins: what its headers say besides, or the answer that it has to be instead. No work counts after this, so
        whoever is not called again votes here."""
        try:
            if status < FAILED_FROM:
                await self._scope.end()
            return self._says(status)
        except TrothError as error:
            return self._says_instead(error)

    def answers_in_thread(self, status: int) -> Headers | Refusal:
        """The same where the handler ran in a thread."""
        try:
            if status < FAILED_FROM:
                self._scope.end_in_thread()
            return self._says(status)
        except TrothError as error:
            return self._says_instead(error)

    def _says(self, status: int) -> Headers:
        headers = [self._acknowledged()]
        self._ended(status)
        return headers

    def _acknowledged(self) -> tuple[str, str]:
        self._scope.uncounted.count()
        return of_response(self._scope.trailers())

    def _says_instead(self, error: TrothError) -> Refusal:
        told = self.fails(error)
        assert told is not None
        return told

    def _ended(self, status: int) -> None:
        self._scope.work.over = True
        if self._scope.span is not None:
            self._scope.span.ended(status)
            self._scope.span = None

    def fails(self, error: BaseException) -> Refusal | None:
        """The call fails before its answer began: the answer, if the error tells one, with what was done all the same."""
        told = refusal(error, self._participant)
        self._ended(500 if told is None else told.status)
        if told is not None:
            with contextlib.suppress(RequestError):  # it is too long to be said; the cause is not
                told.headers.append(self._acknowledged())
        return told

    def over(self) -> None:
        """It has been answered, or never will be."""
        self._scope.work.over = True
        if self._scope.span is not None:
            self._scope.span.fails("cancelled")
