"""Cars: Flask on MariaDB, with SQL through PyMySQL.

    export DATABASE=mysql+pymysql://cars@localhost/cars COORDINATOR=127.0.0.1:7420
    gunicorn --workers 2 --chdir examples/booking --config examples/booking/gunicorn_conf.py cars:application
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, request

from participant_sdk import MariaDB, MariadbLog, Participant, Refuse
from participant_sdk.frameworks.flask import install

DATABASE = os.environ.get("DATABASE", "mysql+pymysql://cars@localhost/cars")
CARS = int(os.environ.get("PLACES", "40"))
"""In each town."""

# The views block, and so does their driver; the log is written from the background, by one that does not.
participant = Participant(
    "cars", resource=MariaDB(DATABASE), log=MariadbLog(DATABASE.replace("+pymysql", "")),
    coordinator=os.environ.get("COORDINATOR", "127.0.0.1:7420"),
)  # fmt: skip
application = Flask(__name__)
install(application, participant)


@application.post("/book")
def book() -> dict[str, Any]:
    """Take a car, in the transaction of the caller."""
    asked = request.get_json()
    with participant.branch_sync() as db, db.cursor() as cursor:
        cursor.execute("INSERT INTO car (trip, town) VALUES (%s, %s)", (asked["trip"], asked["place"]))
        cursor.execute("SELECT count(*) FROM car WHERE town = %s", (asked["place"],))
        (taken,) = cursor.fetchone()
        if taken > CARS:
            raise Refuse("NO_CAR", f"there is no car left in {asked['place']}")
    return {"town": asked["place"]}


@application.get("/")
def who() -> dict[str, Any]:
    """Which process answers, and whether transactions reach it."""
    return {"pid": os.getpid(), "slot": participant.slot, "ready": participant.health.ready}
