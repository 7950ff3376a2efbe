"""How what comes out of a participant's core is written in transcripts."""

from __future__ import annotations

import copy
from typing import Any

from participant_sdk.core import effects as out
from participant_sdk.core.work import CommitBranch, Execute, Keys, PrepareBranch, Undo
from participant_sdk.drivers import Invoked
from tests.transcripts import describe, short
from troth.ready import Append


def shown(keys: Keys) -> list[str]:
    """The reverse of `keys_of`."""
    return [*keys.exclusive, *(f"~{key}" for key in keys.shared)]


def shown_append(append: Append) -> str:
    """What is written."""
    parts = ["no record" if append.record is None else shown_record(append.record)[7:]]
    parts.append("forced" if append.force else "not forced")
    if append.patient:
        parts.append("patient")
    if append.apply is not None:
        parts.append("with " + _work(append.apply))
    return "write  " + ", ".join(parts)


def shown_record(record: Any) -> str:
    """One record."""
    kind = record.WhichOneof("kind")
    body = copy.copy(getattr(record, kind))
    work = ""
    if kind in ("branch_active", "branch_prepared"):
        if body.HasField("work"):
            work = f" undo={len(body.work.undo)} keys={shown(Keys(tuple(body.work.keys), tuple(body.work.shared_keys)))}"
        body.ClearField("work")
    return f"record {kind} {describe(body)}{work}"


def _work(work: Any) -> str:
    name = type(work).__name__
    if isinstance(work, Execute):
        return f"Execute({', '.join(o.name for o in work.operations)}; {work.mode.value}{', hold' if work.hold else ''})"
    if isinstance(work, Undo | CommitBranch | PrepareBranch):
        return f"{name}({', '.join(call or 'prepare' for call in [o.decode()[5:] for w in work.works for o in w.undo])})"
    return name


def shown_effect(effect: Any) -> str:
    """One effect."""
    if isinstance(effect, out.Send):
        return f"say    {effect.field} {describe(effect.message)}"
    if isinstance(effect, Invoked):
        subject = getattr(effect, "transaction_id", getattr(effect, "ticket", ""))
        return short(f"ask    {subject} {_work(effect)}")
    if isinstance(effect, out.EarlyVoted):
        voted = f"early YES count={effect.operation_count} incarnation={effect.incarnation}"
        return f"answer {effect.ticket} {voted if effect.operation_count else 'no early vote'}"
    if isinstance(effect, out.Reply | out.LocalReply):
        if effect.cause is not None:
            told = f"refused {effect.cause.reason}"
        elif isinstance(effect, out.Reply):
            told = f"= {effect.result.text if effect.result else None}"
        else:
            told = f"= {effect.value}"
        return f"answer {effect.ticket} {told}"
    return f"tell   {type(effect).__name__}"
