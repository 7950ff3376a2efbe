"""Reading SQL before it is sent: the first words of each statement of a text, past comments and quotes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

WORDS_MAX = 3
"""Words at the beginning of a statement that tell what it is."""


def statements(text: str, token: re.Pattern[str], end: Callable[[str, re.Match[str]], int]) -> Iterator[list[str]]:
    """The first words of each statement, in capitals. `token` has the groups word, end, other, line and block; `end` says where a
    token ends that it matched only the beginning of."""
    words: list[str] = []
    at, complete = 0, False
    while at < len(text):
        found = token.match(text, at)
        if found is None:  # a quote that is never closed: the server refuses it
            break
        at = end(text, found)
        if found["end"]:
            if words:
                yield words
            words, complete = [], False
        elif found["word"] and not complete and len(words) < WORDS_MAX:
            words.append(found["word"].upper())
        elif not found["other"] or not found["other"].isspace():
            complete = complete or not (found["line"] or found["block"])
    if words:
        yield words
