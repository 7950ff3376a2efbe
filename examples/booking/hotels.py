"""Hotels: Django on PostgreSQL. (A project of one file; a larger one has its settings in `settings.py`.)

    export DATABASE=postgresql:///hotels COORDINATOR=127.0.0.1:7420
    gunicorn --workers 2 --chdir examples/booking --config examples/booking/gunicorn_conf.py hotels:application
"""

from __future__ import annotations

import json
import os
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import models
from django.http import HttpRequest, JsonResponse
from django.urls import path
from psycopg.conninfo import conninfo_to_dict

from participant_sdk import Participant, Postgres, PostgresLog, Refuse

DATABASE = os.environ.get("DATABASE", "postgresql:///hotels")
ROOMS = int(os.environ.get("PLACES", "40"))
"""In each hotel."""
_names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            **{_names[name]: str(value) for name, value in conninfo_to_dict(DATABASE).items() if name in _names},
        }
    },
    MIDDLEWARE=["participant_sdk.frameworks.django.TransactionMiddleware"],
    ROOT_URLCONF=__name__,
    TROTH_PARTICIPANT=f"{__name__}.participant",
)
django.setup()

participant = Participant(
    "hotels", resource=Postgres(django="default"), log=PostgresLog(DATABASE),
    coordinator=os.environ.get("COORDINATOR", "127.0.0.1:7420"),
)  # fmt: skip


class Room(models.Model):  # type: ignore[misc]  # Django is not typed
    """A room that somebody has in a hotel."""

    trip = models.TextField(primary_key=True)
    hotel = models.TextField()

    class Meta:
        """One table, made by the demo."""

        app_label = "hotels"
        db_table = "room"


def book(request: HttpRequest) -> JsonResponse:
    """Take a room, in the transaction of the caller."""
    asked: dict[str, Any] = json.loads(request.body)
    with participant.branch_sync():
        Room.objects.create(trip=asked["trip"], hotel=asked["place"])
        if Room.objects.filter(hotel=asked["place"]).count() > ROOMS:
            raise Refuse("NO_ROOM", f"{asked['place']} is full")
    return JsonResponse({"hotel": asked["place"]})


def who(request: HttpRequest) -> JsonResponse:
    """Which process answers, and whether transactions reach it."""
    return JsonResponse({"pid": os.getpid(), "slot": participant.slot, "ready": participant.health.ready})


urlpatterns = [path("book", book), path("", who)]
application = get_wsgi_application()
