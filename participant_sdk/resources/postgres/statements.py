"""What an operation may not say to PostgreSQL, found by reading its statements before they are sent.

The branch's transaction belongs to the coordinator: whoever ends it makes undecided rows durable, or loses them. What outlives the
transaction in the session would reach the next branch on the same connection. And a change of the schema would hold its lock
on a whole table for as long as the branch is in doubt.

The reader knows PostgreSQL's comments, quotes and dollar quotes, so that it finds every statement of a text. It does not look
into functions: those cannot end a transaction, and what they set for the session is the author's affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from participant_sdk.resources.relational import reading

_TOKEN = re.compile(
    r"(?P<line>--[^\n]*)"
    r"|(?P<block>/\*)"
    r"|(?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')"
    r"|(?P<text>'(?:[^']|'')*')"
    r'|(?P<name>"(?:[^"]|"")*")'
    r"|\$(?P<tag>[A-Za-z_\u0080-\uffff][\w]*)?\$"
    r"|(?P<end>;)"
    r"|(?P<word>[A-Za-z_\u0080-\uffff][\w$]*)"
    r"|(?P<other>\s+|[^\w\s'\"]|\w+)",
    re.DOTALL,
)
_BLOCK = re.compile(r"/\*|\*/")

_TRANSACTION = frozenset({"COMMIT", "END", "ABORT", "BEGIN", "START"})
_SESSION = frozenset({"RESET", "DISCARD", "LISTEN", "UNLISTEN", "NOTIFY", "LOAD", "PREPARE", "DEALLOCATE"})
_SCHEMA = frozenset(
    {"CREATE", "ALTER", "DROP", "TRUNCATE", "GRANT", "REVOKE", "COMMENT", "REINDEX", "CLUSTER", "VACUUM", "REFRESH", "SECURITY",
     "REASSIGN", "IMPORT"}
)  # fmt: skip
_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
_SETS_ALLOWED = frozenset({"LOCAL", "CONSTRAINTS", "TRANSACTION"})


def forbidden(text: str) -> str:
    """Why the SQL text may not be sent by an operation; empty when it may."""
    for words in statements(text):
        if why := _forbidden(words):
            return f"{' '.join(words[:2])}: {why}"
    return ""


def writes(text: str) -> bool:
    """Whether the SQL text has a statement that begins with a word that writes."""
    return any(words[0] in _WRITES for words in statements(text))


def _forbidden(words: list[str]) -> str:
    first, rest = words[0], words[1:]
    if first in _TRANSACTION or (first == "PREPARE" and rest[:1] == ["TRANSACTION"]):
        return "the transaction is ended by the coordinator's decision"
    if first == "ROLLBACK" and "TO" not in rest:
        return "the transaction is ended by the coordinator's decision; raise Refuse to roll it back"
    if first in _SESSION or (first == "SET" and not _SETS_ALLOWED.intersection(rest[:1])):
        return "it outlives the transaction and would reach the next one; use SET LOCAL"
    if first in _SCHEMA:
        return "the schema is changed outside of transactions of the coordinator"
    return ""


def statements(text: str) -> Iterator[list[str]]:
    """The first words of each statement of a text, in capitals."""
    return reading.statements(text, _TOKEN, _end)


def _end(text: str, token: re.Match[str]) -> int:
    """Where a token ends; comments of blocks nest, and dollar quotes end with their own tag."""
    if token["block"]:
        depth, at = 1, token.end()
        while depth and (mark := _BLOCK.search(text, at)):
            depth += 1 if mark[0] == "/*" else -1
            at = mark.end()
        return at if not depth else len(text)
    if token[0].startswith("$") and token[0].endswith("$"):
        closed = text.find(token[0], token.end())
        return len(text) if closed < 0 else closed + len(token[0])
    return token.end()
