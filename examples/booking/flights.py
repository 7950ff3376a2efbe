"""Flights: FastAPI and SQLAlchemy on PostgreSQL.

    export DATABASE=postgresql:///flights COORDINATOR=127.0.0.1:7420
    uvicorn --workers 2 --app-dir examples/booking flights:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel
from sqlalchemy import URL, func, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from participant_sdk import Participant, Postgres, PostgresLog, Refuse
from participant_sdk.frameworks.asgi import TransactionMiddleware

DATABASE = os.environ.get("DATABASE", "postgresql:///flights")
SEATS = int(os.environ.get("PLACES", "40"))
"""On each flight."""


class Base(DeclarativeBase):
    """The models of this service."""


class Seat(Base):
    """A seat that somebody has on a flight."""

    __tablename__ = "seat"
    trip: Mapped[str] = mapped_column(primary_key=True)
    flight: Mapped[str]


url = URL.create("postgresql+psycopg", query={name: str(value) for name, value in conninfo_to_dict(DATABASE).items()})
flights = Participant(
    "flights", resource=Postgres(engine=create_async_engine(url)), log=PostgresLog(DATABASE),
    coordinator=os.environ.get("COORDINATOR", "127.0.0.1:7420"),
)  # fmt: skip


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """In each worker, after the fork."""
    async with flights:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(TransactionMiddleware, participant=flights)


class Booking(BaseModel):
    """What is asked for."""

    trip: str
    place: str


@app.post("/book")
async def book(booking: Booking) -> dict[str, str]:
    """Take a seat, in the transaction of the caller."""
    async with flights.branch() as session:
        session.add(Seat(trip=booking.trip, flight=booking.place))
        await session.flush()
        taken = await session.scalar(select(func.count()).select_from(Seat).where(Seat.flight == booking.place))
        if taken > SEATS:
            raise Refuse("NO_SEAT", f"{booking.place} has no seat left")
    return {"flight": booking.place}


@app.get("/")
async def who() -> dict[str, object]:
    """Which process answers, and whether transactions reach it."""
    return {"pid": os.getpid(), "slot": flights.slot, "ready": flights.health.ready}
