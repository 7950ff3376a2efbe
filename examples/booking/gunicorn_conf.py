"""gunicorn: the participant starts in each worker when that begins, so that it recovers before the first request."""

from __future__ import annotations

from typing import Any


def post_worker_init(worker: Any) -> None:
    """In the worker, after the fork; its application has been loaded."""
    __import__(worker.app.app_uri.split(":")[0]).participant.start_in_background()
