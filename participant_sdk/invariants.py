"""Invariants: what must be true of a service's committed data, whatever transactions there were.

    @stock.invariant(every_seconds=60)
    def never_negative(db: Database) -> str | None:
        "No stock is below zero."
        row = db.one("SELECT item, left_over FROM stock WHERE left_over < 0")
        return f"{row[0]} has {row[1]}" if row else None

Transactions keep several services equal to each other; they do not make what the services do right. An invariant says what right
is, and is looked at now and then, in committed data alone (`watch` does it). What is found is logged, is a metric, and is told to
the coordinator, so that its operators see it. Nothing else happens: no transaction is refused for it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from participant_sdk.core.work import WHOLE_RESOURCE
from participant_sdk.lock_keys import LockKey, wrong_keys
from troth.errors import ConfigError, RequestError
from troth.ids import check_name
from troth.logs import encodable

INVARIANTS_MAX = 50
"""Of one participant."""
DETAIL_CHARACTERS_MAX = 300
"""Of what is told of one."""


class Standing(Enum):
    """What an invariant was found to be."""

    HOLDS = "holds"
    VIOLATED = "violated"
    UNCHECKED = "could not be checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of an invariant."""

    standing: Standing
    since_ms: int
    """Since when it is so, as far as this process knows: milliseconds since the Unix epoch."""
    detail: str
    """What is wrong, in the words of the function, or why it could not be checked."""


class Unclear(Exception):
    """A check has come to no end, or to none that says anything: why."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """One declared invariant."""

    name: str
    function: Callable[..., Any]
    says: str
    """What it says must be so: the first line of the function's docstring."""
    every_seconds: float
    seconds_max: float
    locks: Sequence[LockKey]
    alone: bool
    """Whether the function takes nothing, and looks for itself."""
    is_async: bool

    def judged(self, value: object) -> str:
        """What is wrong, given what the function returned; empty when the invariant holds. Raises `Unclear`."""
        if value is None or value is True or value == "":
            return ""
        if value is False:
            return (self.says or "it does not hold")[:DETAIL_CHARACTERS_MAX]
        if isinstance(value, str):
            return encodable(value[:DETAIL_CHARACTERS_MAX])[:DETAIL_CHARACTERS_MAX]
        raise Unclear(f"it returned a {type(value).__name__}: return None or True when it holds, else what is wrong as a str")


class Invariants:
    """The invariants of one participant, by name. `resource` is what they look at."""

    def __init__(self, resource: Any) -> None:
        self._resource = resource
        self._declared: dict[str, Invariant] = {}
        self._closed = False

    def add(
        self, function: Callable[..., Any], name: str, every_seconds: float, seconds_max: float, locks: Sequence[LockKey] | None
    ) -> None:
        """Declare one. Raises `ConfigError`; nothing has changed then."""
        if not inspect.isfunction(function):
            raise ConfigError(f"{function!r} is no function", hint="Give a def or an async def.")
        name = name or function.__name__
        try:
            check_name("invariant", name)
        except RequestError as error:
            raise ConfigError(error.message, hint="Pass name= to invariant().") from None
        if self._closed:
            raise ConfigError(f"invariant {name}: the participant has started", hint="Declare invariants before.")
        if name in self._declared:
            raise ConfigError(f"invariant {name} is declared twice", hint="Give one of them another name.")
        if len(self._declared) >= INVARIANTS_MAX:
            raise ConfigError(f"there are more than {INVARIANTS_MAX} invariants", hint="Look at several things in one function.")
        for what, seconds in (("every_seconds", every_seconds), ("seconds_max", seconds_max)):
            if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds < math.inf:
                raise ConfigError(f"invariant {name}: {what} is {seconds!r}", hint="It is a number of seconds above zero.")
        alone, is_async = _takes_nothing(name, function), inspect.iscoroutinefunction(function)
        if not alone:
            self._check_given(name, is_async, locks)
        says = inspect.cleandoc(function.__doc__ or "").partition("\n")[0]
        self._declared[name] = Invariant(
            name, function, says, float(every_seconds), float(seconds_max), (WHOLE_RESOURCE,) if locks is None else locks, alone,
            is_async,
        )  # fmt: skip

    def close(self) -> Sequence[Invariant]:
        """Take no more; returns all."""
        self._closed = True
        return list(self._declared.values())

    def _check_given(self, name: str, is_async: bool, locks: Sequence[LockKey] | None) -> None:
        """Whether the resource has something to give to such a function that shows nothing undecided."""
        resource = self._resource
        if not resource.atomic and not hasattr(resource, "look"):
            raise ConfigError(
                f"invariant {name}: {type(resource).__name__} has nothing to give to it",
                hint="Write it without a parameter, and look at what is committed by yourself.",
            )
        reason = resource.async_reason if is_async else getattr(resource, "plain_reason", "")
        if reason:
            raise ConfigError(f"invariant {name} cannot be {'async def' if is_async else 'def'}: {reason}")
        if locks is None:
            return
        if not resource.atomic:
            raise ConfigError(f"invariant {name} has locks", hint="The database shows it nothing undecided: leave them out.")
        if wrong := wrong_keys(locks):
            raise ConfigError(f"invariant {name}: locks is {wrong}", hint='For example ["stock"], what the operations name.')


def _takes_nothing(name: str, function: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) > 1 or parameters[0].kind not in positional:
        hint = "Write it as def never_negative(db), or without a parameter."
        raise ConfigError(f"invariant {name} takes more than the database", hint=hint)
    return False
