"""Named crash points, for tests and for the demo.

`TROTH_FAILPOINTS="coordinator:after-sync:decided=kill@3"` makes the process kill itself (SIGKILL) the third time it has made
a COMMIT decision durable. Actions: `kill`, `stop` (SIGSTOP) and `exit` (status 70, without any clean-up). A name is
`ROLE:MOMENT:WHAT`:

    before-sync, after-sync    WHAT is the kind of a record, such as `decided` or `branch_prepared`
    after-apply                WHAT is `operation`: executed, but the record is not durable
    before-send, after-send    WHAT is the field of a frame, such as `prepares`; after-send is after the write to the stream
    on-receive                 WHAT is the field of a frame

Nothing is checked in a process in which no failpoint is armed. `observed` has a function called instead, for tests that crash
what runs inside of their own process.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from troth.errors import ConfigError

VARIABLE = "TROTH_FAILPOINTS"
EXIT_STATUS = 70
_RULE = re.compile(r"(?P<name>[a-z_-]+:[a-z-]+:[a-z_]+)=(?P<action>kill|stop|exit)(?:@(?P<nth>[1-9][0-9]{0,8}))?\Z")


@dataclass(slots=True)
class _Rule:
    action: str
    remaining: int


_rules: dict[str, _Rule] = {}
_observer: Callable[[str], None] | None = None
armed = False
"""Whether any failpoint is armed; hot paths look at this first."""


def arm(rules: str) -> None:
    """Arm the failpoints of a text like the variable's; an empty one disarms all."""
    global armed
    _rules.clear()
    for text in filter(None, (part.strip() for part in rules.split(","))):
        match = _RULE.match(text)
        if match is None:
            raise ConfigError(
                f"{text!r} is not a failpoint", hint=f"Write ROLE:MOMENT:WHAT=kill|stop|exit[@N] in {VARIABLE}."
            )
        _rules[match["name"]] = _Rule(match["action"], int(match["nth"] or 1))
    armed = bool(_rules) or _observer is not None


def arm_from_environment() -> None:
    """Arm what the environment says; called once by each entry point of a process."""
    arm(os.environ.get(VARIABLE, ""))


@contextmanager
def observed(observer: Callable[[str], None]) -> Iterator[None]:
    """Let `observer` hear of every point that this process comes by, on whichever thread that is.

    What it raises ends the engine that came by, as far as that can be done inside of a process: nothing more is written or said.
    """
    global armed, _observer
    assert _observer is None, "the failpoints are observed already"
    _observer, armed = observer, True
    try:
        yield
    finally:
        _observer, armed = None, bool(_rules)


def hit(role: str, moment: str, what: str) -> None:
    """Say that the process has come to a point; it may not survive that."""
    if _observer is not None:
        _observer(f"{role}:{moment}:{what}")
    rule = _rules.get(f"{role}:{moment}:{what}") if armed else None
    if rule is None:
        return
    rule.remaining -= 1
    if rule.remaining == 0:
        _act(rule.action)


def _act(action: str) -> None:
    if action == "exit":
        os._exit(EXIT_STATUS)
    os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
