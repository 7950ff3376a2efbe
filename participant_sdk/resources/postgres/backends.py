"""Which of the server's backends work for which branch: told by `application_name`, for the time of a branch's transaction.

    troth payments/2 5f0c8a1e 0b5c9e1a77d02f43      whose, of which life of its process, for which branch

It is seen by everybody in `pg_stat_activity`, at once, and through a proxy too. Names are cut and digested to the 63 bytes that
PostgreSQL keeps of it.
"""

from __future__ import annotations

import hashlib

APPLICATION_BYTES_MAX = 63
_NAME_CHARACTERS_MAX = 28

END_EARLIER = (
    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND split_part(application_name, ' ', 1) = 'troth' AND split_part(application_name, ' ', 2) = %s"
    " AND split_part(application_name, ' ', 3) <> %s"
)
"""Ends what other lives of this participant's process still do; a row for each that is there."""
END_BRANCH = (
    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND split_part(application_name, ' ', 1) = 'troth' AND split_part(application_name, ' ', 4) = %s"
)
"""Ends whoever works for a branch."""


def application_name(participant: str, nonce: str, gid: str) -> str:
    """What the backend of a branch is called."""
    return f"troth {short_name(participant)} {nonce} {digest(gid)}"


def short_name(participant: str) -> str:
    """A participant's or a slot's name, or a part of it that stands for it."""
    if len(participant) <= _NAME_CHARACTERS_MAX:
        return participant
    return f"{participant[:15]}~{digest(participant)[:12]}"


def digest(text: str) -> str:
    """Sixteen digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
