"""What Troth says of itself: lines in Python's `logging`, each with an event and its fields.

    _log = get_logger("participant_sdk")
    _log.warning("not connected", participant=name, why=why)

An application sets these loggers (`participant_sdk`, `troth`, and those below them) as it sets those of any library. A line reads
`not connected participant=bank why='...'`; its record also has the parts, as `event` and `fields`, for handlers that write JSON.

To say something must change nothing of what is being done:

- A handler that raises (standard output is a pipe whose reader is gone, an encoding that has not the character) costs the line.
- Every text can be encoded: what is not printable, a lone surrogate for one, is escaped.
- An exception is told by a plain traceback, of at most `FRAMES_MAX` frames. The locals in it are not looked at: they hold what
  callers sent, and their `repr` is somebody else's code, as slow as it likes to be.
"""

from __future__ import annotations

import logging
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

FRAMES_MAX = 40
"""Innermost frames of a traceback that are written."""

Listener = Callable[[str, str, dict[str, Any]], None]
"""Takes the name of a level, an event, and its fields."""

_listener: Listener | None = None


class Logger:
    """Says what happens, under one name. Never raises."""

    __slots__ = ("_logging",)

    def __init__(self, name: str) -> None:
        self._logging = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        """What only whoever looks for a fault wants to know."""
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """What goes its way."""
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """What somebody should look at some time."""
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        """What went wrong. `exc_info` is the exception that says where."""
        self._say(logging.ERROR, event, fields, exc_info)

    def critical(self, event: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        """What ends the work of this process."""
        self._say(logging.CRITICAL, event, fields, exc_info)

    def _say(self, level: int, event: str, fields: dict[str, Any], error: BaseException | None = None) -> None:
        if _listener is not None:
            _listener(logging.getLevelName(level).lower(), event, fields if error is None else {**fields, "exc_info": error})
        elif self._logging.isEnabledFor(level):
            with suppress(Exception):  # whatever a handler raises: there is nowhere left to say it
                self._logging.handle(self._record(level, event, fields, error))

    def _record(self, level: int, event: str, fields: dict[str, Any], error: BaseException | None) -> logging.LogRecord:
        logger = self._logging
        file, line, function, _ = logger.findCaller(stacklevel=4)
        message = " ".join((event, *(f"{name}={_text(value)}" for name, value in fields.items())))
        about = None if error is None else (type(error), error, error.__traceback__)
        extra = {"event": event, "fields": fields}
        record = logger.makeRecord(logger.name, level, file, line, message, (), about, function, extra)
        if error is not None:
            record.exc_text = plain_traceback(error)  # where this is set, formatters take it as it is
        return record


def get_logger(name: str) -> Logger:
    """The logger of a name, such as `participant_sdk.session`."""
    return Logger(name)


def plain_traceback(error: BaseException) -> str:
    """Where an exception came from, without locals, and without what a terminal would obey."""
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-FRAMES_MAX)
    return visible_lines("".join(lines).rstrip("\n"))


def visible(text: str) -> str:
    """The text with every character that a terminal would obey, and not show, written as its escape; each encoding has the escapes.

    Much of what is shown comes from peers. Raw, it could move the cursor, colour or hide what is there, or reverse the direction
    of a line, so that a person reads what nobody wrote.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(one) if is_obeyed(one) else one for one in text)


def visible_lines(text: str) -> str:
    """The same of a text of several lines, which stay lines."""
    return "\n".join(map(visible, text.split("\n")))


def is_obeyed(character: str) -> bool:
    """Whether a terminal does something else with the character than to show it."""
    return unicodedata.category(character) in _OBEYED


_OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Controls, formats (directions of writing among them), halves of pairs, what is not assigned, separators of lines."""


def _escaped(one: str) -> str:
    number = ord(one)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def encodable(text: str) -> str:
    """The text with lone surrogates escaped, which no encoding takes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Let `listener` hear what is said, in place of `logging`; for tests and simulations. It may raise."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def quiet() -> AbstractContextManager[None]:
    """Nothing is said inside; for tests that expect failures by the hundred."""
    return heard_by(lambda level, event, fields: None)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    plain = text.isprintable() and text and " " not in text
    return text if plain else repr(text)  # escapes whatever is not printable, surrogates too
