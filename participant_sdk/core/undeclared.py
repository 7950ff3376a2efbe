"""What it costs not to declare lock keys is shown to the author: the first wait of each such operation is told, once."""

from __future__ import annotations

from collections.abc import Iterable

from participant_sdk.core.branches import Branch
from participant_sdk.core.effects import Send, UndeclaredWait
from participant_sdk.core.machine import Machine
from participant_sdk.core.work import Keys
from troth.v1 import common_pb2


def declares_nothing(m: Machine, b: Branch, operations: tuple[str, ...]) -> None:
    """Work of a branch asks for the whole resource for want of keys."""
    b.undeclared = (*b.undeclared, *operations)
    m.undeclared_known = True


def waited(m: Machine, b: Branch, keys: Keys) -> None:
    """A branch did not get its locks at once: it stands in line, or died. Its own operations are told, and those in its way."""
    if not m.undeclared_known:
        return
    in_the_way = m.locks.waits_for(b.transaction_id) if m.locks.waits(b.transaction_id) else m.locks.before(b.transaction_id, keys)
    names = list(b.undeclared)
    for owner in in_the_way:
        other = m.branches.get(owner) if isinstance(owner, str) else None
        if other is not None:
            names += other.undeclared
    new = [name for name in dict.fromkeys(names) if name not in m.undeclared]
    m.undeclared.update(dict.fromkeys(new))
    m.ready.effects += [UndeclaredWait(name) for name in new]
    for stream in m.sessions.streams:
        tell(m, stream, new)


def tell(m: Machine, stream: int, names: Iterable[str]) -> None:
    """Tell a coordinator, for operators."""
    m.ready.effects += [Send(stream, "undeclared", common_pb2.Operation(name=name), patient=True) for name in names]
