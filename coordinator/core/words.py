"""What people are told about a transaction, in words: where it is and why, what comes next, and what forcing it would do.

The words are made from the state alone. A name, a cause or a reason in them may come from a peer: who shows them to people escapes
what a terminal would obey.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from coordinator.core.model import (
    COMMIT_OWED,
    UNDECIDED,
    Branch,
    BranchStep,
    Finished,
    Participant,
    State,
    Transaction,
    outcome_name,
)
from coordinator.core.verdict import decided, heuristic_outcome, last_reports
from troth.moments import utc
from troth.v1 import admin_pb2, common_pb2, record_pb2


def listed(names: Iterable[str]) -> str:
    """Names as people write them; nobody for none."""
    first, *rest = [*names][::-1] or ["nobody"]
    return f"{', '.join(rest[::-1])} and {first}" if rest else first


# ---- how it ended


def cause_words(cause: common_pb2.Cause) -> str:
    """Why it aborted, with who refused."""
    who = f"{cause.participant}: " if cause.participant else ""
    code = f" {cause.code}" if cause.code else ""
    message = f": {cause.message}" if cause.message else ""
    return f"{who}{cause.reason}{code}{message}"


def finished_words(done: Finished) -> str:
    """How a finished transaction ended."""
    words = f"Finished: {outcome_name(done.told)}."
    if done.participants and done.participants[0]:
        words += f" Participants: {listed(done.participants)}."
    if done.dealt_with is not None:
        forgotten = done.dealt_with.forgotten
        return f"{words} {heuristic_words(done.dealt_with.reports)} Forgotten by {forgotten.who}: {forgotten.why}."
    return words if done.cause is None else f"{words} Cause: {cause_words(done.cause)}"


def heuristic_words(reports: Sequence[record_pb2.Heuristic]) -> str:
    """What was decided, and who ended or may have ended otherwise, with who wanted it so, and why."""
    ends = "; ".join(map(report_words, last_reports(reports)))
    if (committed := decided(reports)) is None:
        return f"What was decided is not known here: {ends}."
    known = "COMMIT was decided and durable" if committed else "COMMIT was not decided, so ABORT holds"
    link = "and" if heuristic_outcome(reports) in (common_pb2.OUTCOME_COMMITTED, common_pb2.OUTCOME_ABORTED) else "but"
    return f"{known}, {link} {ends}."


def _unknown_words(txn: Transaction) -> str:
    """Why something is listed of which no decision is known here, and what is to be done."""
    words = heuristic_words(txn.heuristic)
    ends = {report.branch_outcome for report in last_reports(txn.heuristic)}
    if {common_pb2.OUTCOME_COMMITTED, common_pb2.OUTCOME_ABORTED} <= ends:  # a HAZARD beside them does not make it one way
        return f"It did not end in one way: {words} An operator must look, repair, and then forget it."
    if _nobody_knows(txn):
        return f"Nobody can tell how it ended. {words} An operator must find out what was done, repair, and then forget it."
    return (
        f"It was ended by hand. {words} Nothing that is known contradicts it. An operator must compare that with what was decided, "
        "and with whoever else had a part in it, and then forget it."
    )


def _nobody_knows(txn: Transaction) -> bool:
    """Whether no branch is known to have ended in some way, and no decision: its only log was replaced, say (`replaced`)."""
    return all(report.branch_outcome == common_pb2.OUTCOME_HAZARD for report in last_reports(txn.heuristic))


def report_words(report: record_pb2.Heuristic) -> str:
    """How one branch ended against the decision, or may have."""
    why = f": {report.why}" if report.why else ""
    if report.who:
        words = f"{report.participant} was given up by {report.who} before it had acknowledged{why}"
        unknown = report.branch_outcome == common_pb2.OUTCOME_HAZARD
        return words if unknown else f"{words}; since then it said that it ended {outcome_name(report.branch_outcome)}"
    if report.branch_outcome == common_pb2.OUTCOME_HAZARD:
        return f"{report.participant} says that it cannot tell, or cannot finish{why}"
    return f"{report.participant} ended {outcome_name(report.branch_outcome)}{why}"


# ---- where it is


_STATES = {
    State.ACTIVE: "The client has not asked to commit yet.",
    State.PREPARING: "Waiting for the votes of {owing}.",
    State.DECIDING: "Nobody voted NO; the decision is being made durable.",
    State.COMMITTING: "COMMIT is decided and durable; waiting for the acknowledgements of {owing}.",
    State.OPENING: "The idempotency key is being made durable before the work is handed over.",
    State.HANDED_OVER: "The only participant, {owing}, decides; waiting for its answer.",
    State.SETTLING: "It is not known what became of it; {owing} is asked.",
    State.COMMITTED: "Committed everywhere.",
    State.EXPIRED: "Older than the retention; nobody can tell any more.",
}


def _proving_words(txn: Transaction) -> str:
    """What is known of a transaction of which the log has lost the decision."""
    in_doubt = listed(name for name, branch in txn.branches.items() if branch.step is BranchStep.YES)
    words = f"The log has lost what was decided of it, and {in_doubt} is in doubt."
    if owing := txn.owing():
        return f"{words} We wait for what {listed(owing)} may know: that may prove how it ended."
    return f"{words} Nobody can prove how it ended: find out by other means, and settle it by hand."


def state_words(txn: Transaction) -> str:
    """Why a transaction is where it is."""
    if txn.state is State.ABORTED:
        return "Aborted everywhere." + (f" Cause: {cause_words(txn.cause)}" if txn.cause is not None else "")
    if txn.state is State.PROVING:
        return _proving_words(txn)
    if txn.state is State.HEURISTIC:
        if decided(txn.heuristic) is None:
            return _unknown_words(txn)
        agreed = txn.outcome in (common_pb2.OUTCOME_COMMITTED, common_pb2.OUTCOME_ABORTED)
        words = heuristic_words(txn.heuristic)
        if agreed:
            return f"It ended as decided after all: {words} It is listed until an operator forgets it."
        return f"It did not end in one way: {words} An operator must look, repair, and then forget it."
    words = _STATES[txn.state].format(owing=listed(txn.owing()))
    return f"{words} Meanwhile: {heuristic_words(txn.heuristic)}" if txn.heuristic else words


_STEPS = {
    BranchStep.ENLISTED: "has done work that is not prepared yet",
    BranchStep.READY: "is prepared, because it was called for the last time, and waits for the commit",
    BranchStep.VOTE_OWED: "has been asked for its vote and owes it",
    BranchStep.YES: "voted YES and waits for the decision",
    BranchStep.COMMIT_OWED: "has to commit and owes the acknowledgement",
    BranchStep.SETTLE_OWED: "has been asked what became of it and owes the answer",
    BranchStep.DISPROVES: "has rolled back, which proves that COMMIT was never decided",
    BranchStep.GONE: "has another log since, which cannot tell what the one before may have done",
    BranchStep.OVER: "is finished",
}


def branch_words(txn: Transaction, branch: Branch, connected: bool) -> str:
    """Where one branch is."""
    name = branch.participant.name
    reports = [report for report in txn.heuristic if report.participant == name]
    if reports:
        words = report_words(reports[-1])
    elif branch.step is BranchStep.HEURISTIC:
        words = f"{name} did not end by the protocol; the record of it is being written"
    else:
        words = f"{name} {_STEPS[branch.step]}"
    if branch.step is BranchStep.OVER or connected:
        return words + "."
    return words + "; it is not connected, and is told as soon as it comes back."


def blocks_words(told: admin_pb2.BranchBlocks) -> str:
    """Whom a branch in doubt holds up, as its participant has told."""
    blocks = told.blocks
    parts = []
    if blocks.lock_keys:
        some = f" (such as {', '.join(blocks.keys)})" if blocks.keys else ""
        parts.append(f"it holds {_count(blocks.lock_keys, 'lock key')}{some}")
    if blocks.waiting:
        parts.append(f"{_count(blocks.waiting, 'request')} for its locks in line")
    if blocks.turned_away:
        parts.append(f"{_count(blocks.turned_away, 'request')} turned away so far")
    if blocks.HasField("database"):
        parts.append(_database_words(blocks.database))
    since = f", since {utc(told.since_ms)} or before" if told.since_ms else ", nobody is held up"
    return f"{'; '.join(parts) or 'it holds no lock key'}{since} (told {told.told_seconds:.0f} s ago)."


def _database_words(found: common_pb2.DatabaseBlocks) -> str:
    tables = f", with locks in {', '.join(found.tables)}" if found.tables else ""
    waited = f", the first for {found.waited_ms / 1000:.0f} s" if found.waited_ms else ""
    ago = f"{found.asked_ago_ms / 1000:.0f} s before that"
    return f"{_count(found.sessions, 'session')} of its database waiting for it{waited}{tables} (asked {ago})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def next_words(txn: Transaction, left: float) -> str:
    """What happens next without anybody's help; `left` is what is left of its time, in seconds."""
    return {
        State.ACTIVE: f"Unless the client commits, it is aborted in {left:.1f} s.",
        State.PREPARING: f"When all have voted it is decided; without all votes it is aborted in {left:.1f} s.",
        State.DECIDING: "COMMIT is sent to whoever has changed something as soon as the record is durable.",
        State.COMMITTING: "COMMIT is repeated until every participant has acknowledged it.",
        State.OPENING: "The work is handed over as soon as the key's record is durable.",
        State.HANDED_OVER: f"If the participant does not answer in {left:.1f} s it is asked what became of it.",
        State.SETTLING: "The question is repeated until it is answered.",
        State.PROVING: "Whoever has not answered is asked again; what proves how it ended decides.",
        State.HEURISTIC: "Nothing happens by itself; it stays listed until an operator forgets it.",
    }.get(txn.state, "Nothing.")


def if_forced(txn: Transaction) -> list[str]:
    """What each action of an operator would do now."""
    if txn.state in UNDECIDED:
        return [f"abort: {abort_words()}"]
    if txn.state is State.COMMITTING:
        owing = (branch.participant for branch in txn.branches.values() if branch.step is COMMIT_OWED)
        return [f"abandon: {abandon_words(txn)}", *_force_each(txn.id, owing, decided=True)]
    if txn.state is State.PROVING:
        in_doubt = (branch.participant for branch in txn.branches.values() if branch.step is BranchStep.YES)
        return [*_force_each(txn.id, in_doubt, decided=None)]
    if txn.state is State.HEURISTIC:
        forget = "forget: the record of the broken atomicity is dropped; do it when the damage is repaired."
        if decided(txn.heuristic) is None and _nobody_knows(txn):
            forget = "forget: the record of it is dropped; do it when what was done is known, and repaired."
        elif decided(txn.heuristic) is None and txn.outcome != common_pb2.OUTCOME_MIXED:
            forget = "forget: the record of what was ended by hand is dropped; do it when that is compared with what was decided."
        if txn.claim is not None and not decided(txn.heuristic):
            forget += " From then on its key is free, and whoever retries with it has the work done again."
        return [forget, *_force_each(txn.id, _may_be_in_doubt(txn), decided=decided(txn.heuristic))]
    if txn.state in (State.DECIDING, State.OPENING):
        return ["Nothing can be forced while a record is written; ask again in a moment."]
    return [f"Nothing can be forced here: {listed(txn.owing())} decides, and not the coordinator."]


def _may_be_in_doubt(txn: Transaction) -> Iterable[Participant]:
    """Who may hold a branch of a heuristic outcome: who was told the decision and has not acknowledged it, or was given up."""
    lost = {one.participant for one in last_reports(txn.heuristic) if one.branch_outcome == common_pb2.OUTCOME_HAZARD}
    everyone = (branch.participant for branch in txn.branches.values())
    return (one for one in everyone if one.name in lost or txn.id in one.in_doubt)


def _force_each(transaction_id: str, participants: Iterable[Participant], *, decided: bool | None) -> Iterator[str]:
    for one in participants:
        if one.ready:
            yield f"commit --participant {one.name}: {force_words(one.name, commit=True, decided=decided)}"
            yield f"abort --participant {one.name}: {force_words(one.name, commit=False, decided=decided)}"
        else:
            then = "then that branch can be ended" if decided is None else "it is told the decision"
            yield (
                f"{one.name} is not connected: start it, and {then}. Only where it never will be: "
                f"`troth log resolve FILE {transaction_id} commit` (or abort) on its machine, while it does not run."
            )


def abort_words() -> str:
    """Of an abort of what is undecided."""
    return "it is aborted everywhere, which is safe: nothing was decided yet."


def abandon_words(txn: Transaction) -> str:
    """Of waiting no longer."""
    return (
        f"{listed(txn.owing())} is no longer waited for; the outcome becomes HAZARD, because it may never commit there. Should it "
        "come back, it is told COMMIT all the same."
    )


def force_words(name: str, *, commit: bool, decided: bool | None) -> str:
    """Of ending the branch of one participant; `decided` is whether COMMIT was decided, `None` when that is not known here."""
    verb = "committed" if commit else "rolled back"
    if decided is None:
        return f"the branch of {name}, if it is in doubt, is {verb}. What was decided is not known here: it may become MIXED."
    decision = "COMMIT" if decided else "ABORT"
    if commit is decided:
        return f"the branch of {name} is {verb}, as decided ({decision}); nothing breaks."
    return f"the branch of {name} is {verb} against the decision {decision}; the outcome becomes MIXED, which people must repair."
