"""What Troth says of itself: what a line has, and that saying it changes nothing."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from troth import logs

NAME = "troth.tried"
SURROGATE = "cut in two: \ud83d"


@pytest.fixture
def written() -> Iterator[io.TextIOWrapper]:
    """A stream as strict as a UTF-8 terminal, on which the logger writes."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict", write_through=True)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(filename)s %(message)s"))
    logger = logging.getLogger(NAME)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


class Forbidden:
    """An author's object, of which nobody may ask what it looks like."""

    def __repr__(self) -> str:
        raise AssertionError("somebody looked")


def failure(card: str, thing: object) -> ValueError:
    try:
        raise ValueError(SURROGATE)
    except ValueError as error:
        return error


def test_a_line_has_its_event_and_its_fields(written: io.TextIOWrapper) -> None:
    log = logs.get_logger(NAME)
    log.debug("not this")
    log.info("connected", participant="bank", epoch=3)
    log.warning("not connected", why="no route", to="")
    log.critical("stopped")
    assert text(written).splitlines() == [
        "INFO test_logs.py connected participant=bank epoch=3",
        "WARNING test_logs.py not connected why='no route' to=''",
        "CRITICAL test_logs.py stopped",
    ]


def test_a_record_has_the_parts(caplog: pytest.LogCaptureFixture) -> None:
    logs.get_logger(NAME).error("went wrong", exc_info=failure("", None), participant="bank")
    (record,) = caplog.records
    assert (vars(record)["event"], vars(record)["fields"]) == ("went wrong", {"participant": "bank"})
    assert record.exc_info is not None and isinstance(record.exc_info[1], ValueError)


def test_an_exception_is_a_traceback_without_locals(written: io.TextIOWrapper) -> None:
    logs.get_logger(NAME).error("went wrong", exc_info=failure("4111-1111-1111-1234", Forbidden()))
    said = text(written)
    assert "Traceback (most recent call last)" in said and "raise ValueError(SURROGATE)" in said
    assert "4111" not in said


def test_a_deep_traceback_is_cut(written: io.TextIOWrapper) -> None:
    def deep(level: int) -> None:
        if level == 0:
            raise ValueError("at the bottom")
        shallow(level)

    def shallow(level: int) -> None:
        deep(level - 1)

    try:
        deep(100)
    except ValueError as error:
        logs.get_logger(NAME).error("went wrong", exc_info=error)
    assert text(written).count(", in deep") + text(written).count(", in shallow") == logs.FRAMES_MAX


def test_what_no_encoding_takes_is_escaped(written: io.TextIOWrapper) -> None:
    log = logs.get_logger(NAME)
    log.error("went wrong", exc_info=failure("", None), why=SURROGATE, name="\x1b[2J\nERROR forged")
    first, *rest = text(written).splitlines()
    assert first == r"ERROR test_logs.py went wrong why='cut in two: \ud83d' name='\x1b[2J\nERROR forged'"
    assert rest[-1] == r"ValueError: cut in two: \ud83d"


def test_a_traceback_moves_no_cursor(written: io.TextIOWrapper) -> None:
    logs.get_logger(NAME).error("went wrong", exc_info=ValueError("\x1b[2J of Zoë, 口座 \u202e\nin two lines\U000e0041"))
    assert text(written).splitlines()[1:] == [r"ValueError: \x1b[2J of Zoë, 口座 \u202e", r"in two lines\U000e0041"]


def test_a_text_that_no_encoding_takes_can_be_made_one() -> None:
    assert logs.encodable(SURROGATE) == r"cut in two: \ud83d" and logs.encodable("Zoë\n") == "Zoë\n"


class _Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_handler_that_raises_costs_the_line() -> None:
    logger = logging.getLogger(NAME)
    broken = _Broken()
    logger.addHandler(broken)
    try:
        logs.get_logger(NAME).error("went wrong", exc_info=failure("", None))
    finally:
        logger.removeHandler(broken)


def test_a_listener_hears_everything_in_place_of_logging(written: io.TextIOWrapper) -> None:
    heard: list[tuple[str, str, dict[str, Any]]] = []
    error = failure("", None)
    with logs.heard_by(lambda *line: heard.append(line)):
        logs.get_logger(NAME).debug("one", n=1)
        logs.get_logger(NAME).error("two", exc_info=error)
    with logs.quiet():
        logs.get_logger(NAME).error("three")
    assert heard == [("debug", "one", {"n": 1}), ("error", "two", {"exc_info": error})]
    assert text(written) == ""
