"""Lock keys, as authors name them.

    @bank.operation(locks=lambda account: [f"account/{account}", Read("rates")])

A key stands for whatever the author means by it. Who names it as a text has it alone, who names it as `Read` shares it with others
who only read; either until the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from participant_sdk.core.work import NO_KEYS, WHOLE_RESOURCE, Keys, keys_of
from troth.errors import Reason, RequestError
from troth.logs import encodable, get_logger

_log = get_logger("participant_sdk")

LOCK_KEYS_MAX = 1000
"""Lock keys of one operation."""
LOCK_KEY_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Read:
    """A lock key for what is only read, shared with others who only read it.

    `Read("*")` is for an operation that reads anything and changes nothing.
    """

    key: str


LockKey = str | Read
Locks = Callable[..., Iterable[LockKey]] | Sequence[LockKey]
"""The lock keys of an operation: a function of its arguments (by name, any subset of them), or the keys themselves."""


class NoLocks(tuple[str, ...]):
    """The type of `NO_LOCKS`."""


NO_LOCKS = NoLocks()
"""Lock keys of work that an author declares to need none: others may read its rows before they are decided, and it theirs.

An empty list is not taken for that: whoever names nothing gets the whole resource, where undecided rows could be seen."""


UNDECLARED: Sequence[LockKey] = (WHOLE_RESOURCE,)
"""The keys of work that names none, recognised by being this very object: its author may not know what that costs."""


def tell_undeclared(participant: str, operation: str) -> None:
    """Tell an author, for the first time, that somebody waited for an operation without keys."""
    _log.warning(
        "an operation that declares no lock keys has the whole resource: somebody waited for it, or it for somebody",
        participant=participant, operation=operation, hint="Say in locks= what it reads or changes.",
    )  # fmt: skip


def wrong_keys(keys: object) -> str:
    """What is wrong with lock keys; empty when nothing is."""
    if not isinstance(keys, list | tuple | set | frozenset):
        return f"a {type(keys).__name__}: lock keys are a list of str"
    if len(keys) > LOCK_KEYS_MAX:
        return f"{len(keys)} keys, more than {LOCK_KEYS_MAX}"
    for key in keys:
        text = key.key if type(key) is Read else key
        if type(text) is not str:
            return f"a {type(text).__name__} among the keys: keys are str, or Read of a str"
        if not 0 < len(text) <= LOCK_KEY_CHARACTERS_MAX:
            return f"{text[:40]!r}: keys are str of 1 to {LOCK_KEY_CHARACTERS_MAX}"
        if not text.isascii() and encodable(text) != text:
            return f"{text[:40]!r}, which cannot be written in UTF-8"
    return ""


def without_keys(keys: object, whole: bool) -> Sequence[LockKey]:
    """What having named no keys means."""
    return UNDECLARED if whole and not isinstance(keys, NoLocks) else ()


def sorted_keys(keys: Sequence[LockKey]) -> Keys:
    """Lock keys by kind, each once, sorted."""
    if not keys:
        return NO_KEYS
    return keys_of({key for key in keys if type(key) is str}, {key.key for key in keys if type(key) is Read})


def keys_not_held(held: Keys | None, keys: Sequence[LockKey]) -> Keys:
    """The keys of a `lock()` inside an operation, if it does not hold all of them; else none. Local work, which has no `held`, has
    named its keys before. Raises `RequestError` (INVALID_ARGUMENT)."""
    if held is None:
        hint = "Name the keys of participant.read and participant.local as locks=."
        raise RequestError(Reason.INVALID_ARGUMENT, "lock() is for operations", hint=hint)
    if not keys or (wrong := wrong_keys(list(keys))):
        what = wrong if keys else "no key at all"
        raise RequestError(Reason.INVALID_ARGUMENT, f"lock() was given {what}", hint='For example db.lock("stock/chair").')
    asked = sorted_keys(keys)
    return asked if held.lacks(asked) else NO_KEYS


def reads_only(keys: Sequence[LockKey]) -> bool:
    """Whether these are the keys of an operation that says that it changes nothing."""
    return bool(keys) and all(type(key) is Read for key in keys)


def keys_of_local_work(locks: Sequence[LockKey], *, reads: bool) -> Keys:
    """The lock keys of `participant.read` and `participant.local`. Raises `RequestError` (INVALID_ARGUMENT)."""
    if wrong := wrong_keys(locks):
        raise RequestError(Reason.INVALID_ARGUMENT, f"locks is {wrong}", hint='For example locks=["stock/chair"].')
    named = locks or without_keys(locks, True)
    return sorted_keys([Read(key) if reads and type(key) is str else key for key in named])
