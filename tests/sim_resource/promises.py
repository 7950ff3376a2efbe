"""What DESIGN section 6 promises, sentence by sentence. Each has at least one mutant that breaks it; a test checks that.

Most mutants are in this package. What needs more than one service on its file (several logs, a server database, an event loop) is
broken at another level, or pinned by a test of its own: `elsewhere` names it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """One promise."""

    key: str
    sentence: str
    elsewhere: str = ""
    """`core: NAME` or `engine: NAME`, a mutant of that level; or the file of the tests that pin it."""


PROMISES = (
    Promise("refuse", "The function raises `Refuse` when it must not happen."),
    Promise("own connection", "The work is done on the resource's own connection, in the function and nowhere else."),
    Promise("found keys", "What an operation finds while it runs is locked before it reads or changes it (decision 34)."),
    Promise("once", "The function runs once; its results are real."),
    Promise(
        "one participant, one resource", "The service's file belongs to its participant.", "tests/resources/test_sqlite_file.py"
    ),
    Promise("identity", "The SDK's log holds identity, incarnation, epochs seen.", "engine: the identity log writes nothing"),
    Promise(
        "branches of others", "... and the branches of resources that cannot.", "engine: the last record of a batch is lost"
    ),
    Promise("remember how to undo", "Do it, and remember how to undo it: a session records what the function changes."),
    Promise("one local transaction", "The change and its inverse with the branch's state go into one local transaction ..."),
    Promise("synced with the group", "... synced with the group."),
    Promise("durable before YES", "PREPARED, with all that is needed to finish either way, is durable before YES."),
    Promise("commit drops the undo", "Commit drops the undo."),
    Promise("commit cannot fail", "It cannot fail."),
    Promise("abort restores", "Abort applies the inverse, exactly."),
    Promise("triggers off", "... triggers off ..."),
    Promise("no actions", "... no foreign-key actions ..."),
    Promise("aborted in one transaction", "... with the ABORTED state in one transaction."),
    Promise("unforced", "Interactive calls are the same with an unforced ACTIVE state ..."),
    Promise("undone at recovery", "... undone at recovery."),
    Promise("newest first", "Undo runs newest first."),
    Promise("row locks", "Rows that a branch changed are locked against all others."),
    Promise("until the outcome", "... from the change to the outcome: not shorter, and not longer."),
    Promise("inside the apply", "Checked inside the apply, where a conflict undoes the savepoint ..."),
    Promise("conflict is retryable", "... and votes NO, retryable."),
    Promise("re-derived", "... re-derived at recovery."),
    Promise("declared keys", "Declared keys protect what it read."),
    Promise("whole by default", "... or by default the whole resource."),
    Promise("exclusive", "Only the SDK's connection sees the file."),
    Promise(
        "nobody reads undecided data",
        "Nobody reads undecided data: participant.read and participant.local take the same locks.",
    ),
    Promise("transaction control", "Transaction control is denied to operations."),
    Promise("pragma", "PRAGMA is denied."),
    Promise("attach", "ATTACH is denied."),
    Promise("ddl", "DDL is denied."),
    Promise("no key", "A table without a primary key is refused."),
    Promise("nullable key", "... with a nullable one ..."),
    Promise("virtual", "... or a virtual one: its changes are not captured."),
    Promise("cached", "... nor those of a statement cached before the session attached."),
    Promise("deferred", "Deferred foreign keys are checked after each operation."),
    Promise("fingerprint", "Each undo carries a fingerprint of its tables."),
    Promise("schema waits", "Schema changes go through the SDK and wait until nothing is undecided."),
    Promise(
        "lost group", "If a group's transaction is lost, nothing of it was said; what cannot be run again votes NO, retryable."
    ),
    Promise("queued again", "Phase-two steps of a lost group are queued again."),
    Promise("hazard", "An inverse that does not apply parks that branch as HAZARD ..."),
    Promise("hazard keeps locks", "... with its locks ..."),
    Promise("everything else goes on", "... everything else goes on."),
    Promise("server databases", "PostgreSQL, MariaDB: natively.", "tests/participant/test_external.py"),
    Promise(
        "anything else",
        "Anything else implements the contract, and proves itself.",
        "engine: a hook that failed is not called again",
    ),
    Promise("threads", "A plain `def` runs whole on the database's thread.", "tests/resources/test_sqlite_operations.py"),
    Promise("wait-die", "Conflicts: wait-die ..."),
    Promise("bounded", "... bounded ..."),
    Promise("first attempt", "... by the first-attempt time, which survives retries."),
    Promise("the dead may retry", "What dies votes NO 'conflict, retryable'."),
    Promise("apply", "If an apply refuses, that append's record and effects are dropped; the rest of the batch goes on."),
    Promise("slips", "Whatever an author's function raises, its operation is refused, and everything else goes on."),
    Promise("offline", "Operators reach a participant's branches offline."),
    Promise("online", "... and through the coordinator while it is connected."),
    Promise("given back", "What is held only for a while is given back: the write-ahead log is moved into the file."),
)
"""In the order of the section."""
