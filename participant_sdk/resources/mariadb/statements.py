"""What an operation may not say to MariaDB, found by reading its statements before they are sent.

Inside of an XA transaction the server itself refuses what would end it (error 1399, also for the implicit commit of a DDL
statement): here it is said in better words. What outlives the transaction in the session would reach the next branch on the same
connection, and the server lets it pass: SET, temporary tables, locks of names and of tables. What changes a table that is not
transactional cannot be undone.

The reader knows MariaDB's comments and quotes. It does not look into procedures.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from participant_sdk.resources.relational import reading

_TOKEN = re.compile(
    r"(?P<line>--(?=\s|\Z)[^\n]*|\#[^\n]*)"
    r"|(?P<executed>/\*M?!)"
    r"|(?P<block>/\*)"
    r"|(?P<text>'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\")"
    r"|(?P<name>`(?:[^`]|``)*`)"
    r"|(?P<end>;)"
    r"|(?P<word>[A-Za-z_\u0080-\uffff][\w$]*)"
    r"|(?P<other>\s+|[^\w\s'\"`]|\w+)",
    re.DOTALL,
)
_NAME = re.compile(r"[\w$]+")
_LOCKING = re.compile(r"\b(GET_LOCK|RELEASE_LOCK|RELEASE_ALL_LOCKS)\s*\(", re.IGNORECASE)

_TRANSACTION = frozenset({"COMMIT", "BEGIN", "START", "XA"})
_SESSION = frozenset(
    {"USE", "LOCK", "UNLOCK", "FLUSH", "RESET", "PREPARE", "EXECUTE", "DEALLOCATE", "HANDLER", "KILL", "CHANGE", "STOP", "PURGE",
     "INSTALL", "UNINSTALL", "SHUTDOWN", "CACHE", "BACKUP"}
)  # fmt: skip
_SCHEMA = frozenset(
    {"CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME", "GRANT", "REVOKE", "ANALYZE", "OPTIMIZE", "REPAIR", "CHECK"}
)
_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "WITH"})


def forbidden(text: str) -> str:
    """Why the SQL text may not be sent by an operation; empty when it may."""
    for words in statements(text):
        if why := _forbidden(words):
            return f"{' '.join(words[:2])}: {why}"
    if found := _LOCKING.search(text):
        return f"{found[1].upper()}: the lock outlives the transaction; lock a row instead"
    if "/*!" in text or "/*M!" in text:
        return "/*! ... */: what stands in a comment that the server executes is not read here; write it without"
    return ""


def forbidden_table(text: str, tables: Collection[str]) -> str:
    """Why a text may not be sent that changes one of these tables, none of which is transactional."""
    if not tables or not any(words[0] in _WRITES for words in statements(text)):
        return ""
    named = {word.lower() for word in _NAME.findall(text)}.intersection(tables)
    if not named:
        return ""
    table = min(named)
    return f"the table {table} is not transactional: what is written there cannot be undone. ALTER TABLE {table} ENGINE = InnoDB"


def _forbidden(words: list[str]) -> str:
    first, rest = words[0], words[1:]
    if first in _TRANSACTION:
        return "the transaction is ended by the coordinator's decision"
    if first == "ROLLBACK" and "TO" not in rest:
        return "the transaction is ended by the coordinator's decision; raise Refuse to roll it back"
    if first in _SESSION or (first == "SET" and rest[:1] != ["STATEMENT"]):
        return "it outlives the transaction and would reach the next one; use SET STATEMENT ... FOR, or in MySQL the hint SET_VAR"
    if first in _SCHEMA:
        return "the schema is changed outside of transactions of the coordinator: it would commit this one"
    return ""


def statements(text: str) -> Iterator[list[str]]:
    """The first words of each statement of a text, in capitals."""
    return reading.statements(text, _TOKEN, _end)


def _end(text: str, token: re.Match[str]) -> int:
    """Where a token ends; of a comment that is executed only the mark is one."""
    if not token["block"]:
        return token.end()
    closed = text.find("*/", token.end())
    return len(text) if closed < 0 else closed + 2
