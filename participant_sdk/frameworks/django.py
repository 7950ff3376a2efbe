"""Django.

    MIDDLEWARE = ["participant_sdk.frameworks.django.TransactionMiddleware", ...]
    TROTH_PARTICIPANT = "shop.payments.bank"              # where the service's Participant is

A view that is called in a transaction has it: `with bank.branch_sync()`, and in that block models use the branch's connection where
the resource is `Postgres(django="default")`. What a view raises is answered with its reason, if it tells one.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpResponse
from django.utils.module_loading import import_string

from participant_sdk.context import current_scope
from participant_sdk.frameworks.calls import Headers, HttpCall, Refusal, refusal
from participant_sdk.frameworks.wsgi import CONTEXT_VARIABLE, header_of
from participant_sdk.participant import Participant
from troth.errors import RequestError


class TransactionMiddleware:
    """Gives views the transaction in which they are called, and acknowledges what they did in it. Put it first."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        self._participant: Participant = import_string(settings.TROTH_PARTICIPANT)
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """One call."""
        if iscoroutinefunction(self):
            return self._in_loop(request)
        self._participant.start_in_background()
        call = self._call(request)
        if call is None:
            return self._get_response(request)
        if isinstance(call, Refusal):
            return _response(call)
        try:
            with call.inside():
                response = self._get_response(request)
            return _answered(response, call.answers_in_thread(response.status_code))
        finally:
            call.over()

    async def _in_loop(self, request: Any) -> Any:
        await asyncio.to_thread(self._participant.start_in_background)
        call = self._call(request)
        if call is None:
            return await self._get_response(request)
        if isinstance(call, Refusal):
            return _response(call)
        try:
            with call.inside():
                response = await self._get_response(request)
            return _answered(response, await call.answers(response.status_code))
        finally:
            call.over()  # also where whoever called is gone, and the view was cancelled

    def _call(self, request: Any) -> HttpCall | Refusal | None:
        context = request.META.get(CONTEXT_VARIABLE)
        if context is None:
            return None
        try:
            return HttpCall([context], self._participant.name, request.method, functools.partial(header_of, request.META))
        except RequestError as error:
            return refusal(error, self._participant.name)

    def process_exception(self, request: Any, exception: Exception) -> Any:
        """What a view raised; one that tells no cause is Django's affair."""
        told = None if current_scope() is None else refusal(exception, self._participant.name)
        return None if told is None else _response(told)


def _answered(response: Any, said: Headers | Refusal) -> Any:
    if isinstance(said, Refusal):
        response.close()
        return _response(said)
    return _with(response, said)


def _response(told: Refusal) -> Any:
    return _with(HttpResponse(told.body, status=told.status), told.headers)


def _with(response: Any, headers: Headers) -> Any:
    for name, value in headers:
        response.headers[name] = value
    return response
