"""Flask.

    app = Flask(__name__)
    install(app, bank)

A view that is called in a transaction has it: `with bank.branch_sync() as db`. What it raises is answered with its reason, if it
tells one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from participant_sdk.frameworks.calls import refusal
from participant_sdk.frameworks.wsgi import TransactionMiddleware

if TYPE_CHECKING:
    from flask import Flask

    from participant_sdk.participant import Participant


def install(app: Flask, participant: Participant) -> None:
    """Let the application's views take part in transactions, as the participant."""
    from werkzeug.exceptions import HTTPException

    def answer(error: Exception) -> Any:
        if isinstance(error, HTTPException):
            return error
        told = refusal(error, participant.name)
        if told is None:
            raise error
        return told.body, told.status, told.headers

    app.register_error_handler(Exception, answer)
    app.wsgi_app = TransactionMiddleware(app.wsgi_app, participant)  # type: ignore[method-assign]  # as Flask says to do it
