"""A small Django project: its settings, a model, and views that work in a transaction. `configure` makes it, once in a process."""

from __future__ import annotations

import sys
from typing import Any

import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

from participant_sdk import Participant, Postgres

TABLES = (
    "CREATE TABLE shop (id bigserial PRIMARY KEY, name text NOT NULL UNIQUE);"
    "CREATE TABLE offer (id bigserial PRIMARY KEY, shop_id bigint NOT NULL REFERENCES shop,"
    " price integer NOT NULL CHECK (price >= 0), made timestamptz NOT NULL DEFAULT now());"
)
bank: Participant
"""Of the test that runs."""


def configure(dsn: str) -> None:
    """Set Django up on a database."""
    if settings.configured:
        return
    told = conninfo_to_dict(dsn)
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": told["dbname"], "USER": told.get("user", ""),
                "HOST": told.get("host", ""), "PORT": str(told.get("port", ""))}  # fmt: skip
    settings.configure(
        DATABASES={"default": database, "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], USE_TZ=True, SECRET_KEY="test",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        MIDDLEWARE=["participant_sdk.frameworks.django.TransactionMiddleware"], TROTH_PARTICIPANT=f"{__name__}.bank",
    )  # fmt: skip
    django.setup()


def shop_of(coordinator: str, directory: Any, **options: Any) -> Participant:
    """The participant, with an operation on models; views use it as well."""
    global bank
    from django.db import transaction

    from participant_sdk import Refuse

    Shop, Offer = models()
    bank = Participant(
        "shop", resource=Postgres(django="default", **options), data_directory=directory, coordinator=coordinator
    )

    @bank.operation
    def offer(db: Any, *, shop: str, prices: list[int]) -> list[int]:
        assert db.in_atomic_block
        owner, _ = Shop.objects.select_for_update().get_or_create(name=shop)
        with transaction.atomic():
            made = Offer.objects.bulk_create([Offer(shop=owner, price=price) for price in prices])
        if sum(prices) > 1000:
            raise Refuse("TOO_DEAR")
        assert [one.price for one in owner.offers.order_by("id").iterator()][-len(prices) :] == prices
        return [one.pk for one in made]

    return bank


_models: Any = None


def models() -> Any:
    """The models; they can be made when Django is set up."""
    global _models
    if _models is None:
        from django.db import models as fields

        class Shop(fields.Model):
            name = fields.TextField(unique=True)

            class Meta:
                app_label, db_table = "django_shop", "shop"

        class Offer(fields.Model):
            shop = fields.ForeignKey(Shop, fields.CASCADE, related_name="offers")
            price = fields.IntegerField()
            made = fields.DateTimeField(db_default=fields.functions.Now())

            class Meta:
                app_label, db_table = "django_shop", "offer"

        _models = Shop, Offer
    return _models


# ---- the views


def put(request: Any, name: str) -> Any:
    """Make a shop, by its model in a block."""
    from django.http import JsonResponse

    Shop, _ = models()
    with bank.branch_sync() as db:
        Shop.objects.create(name=name)
        from django.db import connection

        assert connection.connection is db.connection
    return JsonResponse({"seen": Shop.objects.filter(name=name).exists()})


def refuse(request: Any, name: str) -> Any:
    """An operation that refuses."""
    bank.branch_sync().run("offer", shop=name, prices=[2000])


def bug(request: Any, name: str) -> Any:
    """A bug, after some work."""
    bank.branch_sync().run("offer", shop=name, prices=[1])
    raise LookupError("a bug")


async def later(request: Any, name: str) -> Any:
    """A view that is a coroutine: what it does with the database is done in a thread."""
    from asgiref.sync import sync_to_async

    return await sync_to_async(put)(request, name)


def urlpatterns_of() -> list[Any]:
    """Where the views are."""
    from django.urls import path

    return [path(f"{view.__name__}/<name>", view) for view in (put, refuse, bug, later)]


def __getattr__(name: str) -> Any:
    if name == "urlpatterns":
        return urlpatterns_of()
    raise AttributeError(name)


sys.modules.setdefault("django_shop", sys.modules[__name__])
