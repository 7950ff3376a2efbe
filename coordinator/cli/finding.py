"""What `troth doctor` says of a database, whichever server it is on."""

from __future__ import annotations

from dataclasses import dataclass

OLD_SECONDS = 60.0
"""In doubt for longer than this is worth a look."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: str
    """ok, warning or problem."""
    what: str
    fix: str = ""
    """What to do, in words."""
    sql: str = ""
    """And as SQL."""


@dataclass(frozen=True, slots=True)
class Held:
    """One prepared transaction, and what it blocks."""

    gid: str
    """Its name, as the server's statements take it."""
    participant: str
    """Whose it is; empty for that of other software."""
    transaction: str
    owner: str
    """The role that prepared it, where the server tells."""
    age_seconds: float
    """Since it was prepared; where the server does not tell, since its transaction began; negative where it knows neither."""
    tables: list[str]
    waiting: int


def old(held: Held, undo: str) -> Finding | None:
    """What to do about a transaction that is prepared for long. Nothing by hand, unless nobody else can; `undo` rolls it back."""
    if 0 <= held.age_seconds < OLD_SECONDS:
        return None
    since = f"for {held.age_seconds:.0f} s" if held.age_seconds >= 0 else "since before the server's start"
    what = f"{held.gid} is prepared {since}, and {held.waiting} sessions wait for it"
    if not held.participant:
        by = f", as {held.owner}" if held.owner else ""
        fix = f"It is of other software{by}: ask there; it keeps its locks, and holds back vacuum."
        return Finding("warning", what, fix, undo)
    fix = f"`troth txn explain {held.transaction}`: are its coordinator and a process of {held.participant} up? By hand comes last."
    return Finding("warning", what, fix)


def outbox_denied(user: str, grants: list[str]) -> Finding:
    """Its operations cannot leave messages, or its relay cannot deliver them."""
    return Finding("problem", f"{user} may not use the outbox", "Grant it.", "; ".join(grants))


def lacks_index() -> Finding:
    """The outbox was made by an earlier version."""
    what = "the outbox lacks its index of topics: a relay reads all that waits for each batch"
    return Finding("warning", what, "Run `troth store init --participant NAME` on it, at a quiet time.")


def set_aside(messages: int) -> Finding | None:
    """What no relay delivers any more."""
    if not messages:
        return None
    return Finding("warning", f"{messages} messages of the outbox are set aside", "Look: `troth outbox list`.")
