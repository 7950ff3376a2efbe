"""Known-bad changes of two participants, and the case of `troth conform` that must notice each."""

# ruff: noqa: E501 - a change stands on one line, as it stands in the source

from __future__ import annotations

from typing import NamedTuple


class Found(NamedTuple):
    """One known-bad change."""

    name: str
    case: str
    file: str
    old: str
    new: str


CORE = "participant_sdk/core"
TABLE = f"{CORE}/transitions.py"

PYTHON = (
    Found("a commit of the unseen is done", "commit.unseen", TABLE, "Kind.COMMIT: f.commit_unseen,", "Kind.COMMIT: f.acknowledge_again,"),
    Found("a commit of a rollback is done", "commit.rolled-back", TABLE, "Kind.COMMIT: f.commit_rolled_back,", "Kind.COMMIT: f.acknowledge_again,"),
    Found("an abort of a commit is done", "abort.committed", TABLE, "Kind.ABORT: f.abort_committed,", "Kind.ABORT: f.abort_again,"),
    Found("PREPARED is rolled back when it is asked about", "settle.prepared", TABLE, "Kind.SETTLE: f.settle_prepared,", "Kind.SETTLE: f.settle_unprepared,"),
    Found("a commit is told as rolled back", "settle.committed", TABLE, "Kind.SETTLE: f.settle_committed,", "Kind.SETTLE: f.settle_aborted,"),
    Found("what was heard of the coordinator is not written down", "position.heard", f"{CORE}/machine.py", "record.heard = self.told.get(branch.coordinator, 0)", "record.heard = 0"),
    Found("who is in doubt asks nobody", "inquiry.asks", TABLE, "Kind.ASK: f.ask_prepared,", "Kind.ASK: f.ignore,"),
    Found("what an operator rolled back is committed", "force.abort", TABLE, "Kind.COMMIT: f.forced_abort_stands,", "Kind.COMMIT: f.acknowledge_again,"),
    Found("an abort is forgotten", "prepare.rolled-back-unasked", TABLE, "Kind.ABORT: f.abort_unseen,", "Kind.ABORT: f.ignore,"),
    Found("below the watermark is unseen", "watermark.edge", TABLE, "Kind.COMMIT: f.commit_expired,", "Kind.COMMIT: f.commit_unseen,"),
    Found("any incarnation is ours", "prepare.incarnation", f"{CORE}/voting.py", "    if message.incarnation != m.incarnation:\n        m.vote(b, NO, _restarted(m))\n        return\n", ""),
    Found("nobody counts", "prepare.operation-count", f"{CORE}/voting.py", "if message.operation_count != succeeded:", "if False:"),
    Found("an order is obeyed below the watermark", "cell.expired.force-abort", TABLE, "Kind.FORCE_ABORT: f.commit_expired,", "Kind.FORCE_ABORT: f.acknowledge_again,"),
    Found("what is over is forced", "cell.committed.force-abort", TABLE, "    Kind.FORCE_ABORT: f.force_finished,", "    Kind.FORCE_ABORT: f.forced_abort_stands,"),
    Found("what was forced is settled as rolled back", "cell.forced-commit.settle", TABLE, "Kind.SETTLE: f.forced_commit_stands,", "Kind.SETTLE: f.settle_aborted,"),
    Found("a commit by order proves COMMIT once it is forgotten", "force.forgotten", f"{CORE}/finishing.py", "b.by_hand = _by_hand(b) if isinstance(e, participant_pb2.Force) else \"\"", "b.by_hand = \"\""),
    Found("that a commit was by order is in no record", "force.forgotten-durable", f"{CORE}/records.py", "body.by_hand, body.why = True, branch.by_hand", "body.by_hand, body.why = False, branch.by_hand"),
    Found("a decision that agrees with an order makes no commit of the protocol", "force.agrees", f"{CORE}/finishing.py", "b.by_hand = _by_hand(b) if isinstance(e, participant_pb2.Force) else \"\"", "b.by_hand = _by_hand(b)"),
    Found("an ABORT undoes a commit that is carried out", "cell.committing.abort", TABLE, "        Kind.ABORT: f.abort_committed,", "        Kind.ABORT: f.acknowledge_again,"),
    Found("a read in two phases stays a read", "settle.read-only", f"{CORE}/finishing.py", "    if b.one_phase:\n        m.settle(b, participant_pb2.SETTLEMENT_KIND_COMMITTED)\n    else:", "    if True:\n        m.settle(b, participant_pb2.SETTLEMENT_KIND_COMMITTED)\n    else:"),
    Found("COMMIT of unprepared work is carried out", "call.commit-while-active", TABLE, "        Kind.CALL: i.call_active,", "        Kind.CALL: i.call_active,\n        Kind.COMMIT: f.commit,"),
    Found("an ABORT that meets a call is dropped", "cell.executing.abort", TABLE, "Kind.ABORT: f.defer_abort,", "Kind.ABORT: f.ignore,"),
    Found("a question that meets a call is dropped", "cell.executing.settle", TABLE, "Kind.SETTLE: f.defer_settle,", "Kind.SETTLE: f.ignore,"),
    Found("what cannot be finished is voted on", "cell.parked.prepare", TABLE, "Kind.PREPARE: v.prepare_parked,", "Kind.PREPARE: v.prepare_prepared,"),
    Found("what cannot be finished is done", "cell.parked.abort", TABLE, "Kind.ABORT: f.parked,", "Kind.ABORT: f.acknowledge_again,"),
    Found("what cannot be finished is rolled back", "cell.parked.settle", TABLE, "Kind.SETTLE: f.settle_parked,", "Kind.SETTLE: f.settle_aborted,"),
    Found("what cannot be finished is never dropped", "cell.parked.force-forget", TABLE, "Kind.FORCE_FORGET: f.close_parked,", "Kind.FORCE_FORGET: f.parked,"),
    Found("a coordinator that begins anew takes nothing back", "cell.active.lost", f"{CORE}/core.py", "if branch.state in UNPREPARED and not of_this_life:", "if False:"),
    Found("work of another life runs at once", "enlist.another-life", f"{CORE}/interactive.py", "b.calls.line[0].call.told and m.sessions.stands_in_life(b.coordinator, b.transaction_id)", "b.calls.line[0].call.told"),
    Found("who is refused goes on", "enlist.refused", f"{CORE}/interactive.py", "        roll_back(m, b, e.refusal)\n    else:", "        pass\n    else:"),
    Found("nobody is announced", "enlist.announced", f"{CORE}/interactive.py", "    if not b.order:\n        enlist(m, b)\n\n\ndef _await", "    pass\n\n\ndef _await"),
    Found("who would die of a lock does not ask", "enlist.before-dying", f"{CORE}/interactive.py", "    if b.order or not m.stream_of(b):", "    if True:"),
    Found("a repeated call runs again", "call.repeated", f"{CORE}/interactive.py", "    entry = None if b.calls is None else b.calls.known.get(e.call_id)", "    entry = None"),
    Found("nobody tells the incarnation", "call.acknowledged", "participant_sdk/context.py", "self._tally.add(participant, operations, incarnation)", "self._tally.add(participant, operations, 0)"),
)  # fmt: skip

GO = (
    Found("a commit of the unseen is done", "commit.unseen", "branches.go", '{"NO", "aborted ROLLED_BACK", "HAZARD",', '{"NO", "aborted ROLLED_BACK", "DONE",'),
    Found("a commit of a rollback is done", "commit.rolled-back", "branches.go", '{"NO", "ROLLED_BACK", "HAZARD",', '{"NO", "ROLLED_BACK", "DONE",'),
    Found("an abort of a commit is done", "abort.committed", "branches.go", '{"YES", "COMMITTED", "DONE", "HAZARD",', '{"YES", "COMMITTED", "DONE", "DONE",'),
    Found("an abort is forgotten", "prepare.rolled-back-unasked", "branches.go", '"HAZARD", "aborted DONE", "HAZARD",', '"HAZARD", "DONE", "HAZARD",'),
    Found("a stale coordinator is obeyed", "epoch.stale", "main.go", "w.Epoch < known.Epoch ||", "false ||"),
    Found("an epoch that cannot be is followed", "epoch.implausible", "main.go", "w.Epoch > known.Epoch+1_000_000", "false"),
    Found("any log is followed", "coordinator.another-log", "main.go", "w.LogId != known.LogID ||", "false ||"),
    Found("any nonce is followed", "coordinator.another-nonce", "main.go", "known.Nonce != w.Nonce {", "false {"),
    Found("the epoch is in memory alone", "epoch.durable", "main.go", "	Epoch, MarkEpoch, MarkBelow uint64", '	MarkEpoch, MarkBelow uint64\n	Epoch uint64 `json:"-"`'),
    Found("the coordinator's log is in memory alone", "coordinator.log-is-durable", "main.go", "map[string]*coordinator // by name", 'map[string]*coordinator `json:"-"`'),
    Found("another coordinator's decisions are taken", "coordinator.another-name", "main.go", 'strings.HasPrefix(one.GetTransactionId(), l.current+".")', 'strings.HasPrefix(one.GetTransactionId(), "")'),
    Found("YES before it is written", "durable.yes", "main.go", "			l.save() // persist, then speak\n", "			if len(frame.Prepares) == 0 {\n				l.save()\n			}\n"),
    Found("COMMITTED before it is written", "durable.one-phase", "main.go", "			l.save() // persist, then speak\n", "			if len(frame.Prepares) == 0 || !frame.Prepares[0].OnePhase {\n				l.save()\n			}\n"),
    Found("DONE before the commit is written", "durable.commit", "main.go", "			l.save() // persist, then speak\n", "			if len(frame.Decisions) == 0 {\n				l.save()\n			}\n"),
    Found("a tombstone in memory alone", "durable.settlement", "main.go", "			l.save() // persist, then speak\n", "			if len(frame.Settles) == 0 {\n				l.save()\n			}\n"),
    Found("an order in memory alone", "force.durable", "main.go", "			l.save() // persist, then speak\n", "			if len(frame.Forces) == 0 {\n				l.save()\n			}\n"),
    Found("an order is obeyed below the watermark", "cell.expired.force-abort", "branches.go", '"EXPIRED", "EXPIRED", "EXPIRED", "EXPIRED", "EXPIRED", "DONE"', '"EXPIRED", "EXPIRED", "EXPIRED", "EXPIRED", "aborted DONE", "DONE"'),
    Found("what is over is forced", "cell.committed.force-abort", "branches.go", '{"YES", "COMMITTED", "DONE", "HAZARD", "DONE", "DONE",', '{"YES", "COMMITTED", "DONE", "HAZARD", "DONE", "FORCED_ABORT FORCED_ABORT",'),
    Found("an order that was given is taken back by another", "cell.forced-abort.force-commit", "branches.go", '"FORCED_ABORT", "aborted DONE", "FORCED_ABORT", "FORCED_ABORT",', '"FORCED_ABORT", "aborted DONE", "FORCED_COMMIT FORCED_COMMIT", "FORCED_ABORT",'),
    Found("what was forced is settled as committed", "cell.forced-commit.settle", "branches.go", '{"YES", "FORCED_COMMIT", "committed DONE",', '{"YES", "COMMITTED", "committed DONE",'),
    Found("a commit by order proves COMMIT once it is forgotten", "force.forgotten", "branches.go", '"forced DONE"}', '"committed DONE"}'),
    Found("a decision that agrees with an order makes no commit of the protocol", "force.agrees", "branches.go", '{"YES", "FORCED_COMMIT", "committed DONE",', '{"YES", "FORCED_COMMIT", "forced DONE",'),
    Found("what is in doubt is forgotten", "force.forget-prepared", "branches.go", '"FORCED_ABORT FORCED_ABORT", ""}', '"FORCED_ABORT FORCED_ABORT", "DONE"}'),
    Found("the watermark covers itself", "watermark.edge", "branches.go", "order < mark.MarkBelow)", "order <= mark.MarkBelow)"),
    Found("earlier epochs are not covered", "watermark.earlier-epochs", "branches.go", "epoch < mark.MarkEpoch ||", "false ||"),
    Found("the watermark goes back", "watermark.never-back", "main.go", "mark.Epoch > known.MarkEpoch ||", "true ||"),
    Found("EXPIRED beats PREPARED", "watermark.known-first", "branches.go", "	if b := l.Branches[id]; b != nil {", "	if b := l.Branches[id]; b != nil && !l.covered(id, order) {"),
    Found("nobody minds a lock", "prepare.conflict", "branches.go", "case l.locked(account):", "case false:"),
    Found("what is read is locked for nobody", "prepare.read-locks-are-held", "branches.go", 'changed && b.State == "PREPARED"', 'changed && b.Changes[account] != 0 && b.State == "PREPARED"'),
    Found("all goes in one frame", "frame.limit", "main.go", "{ l.said = append(l.said, frame) }", "{\n	last := len(l.said) - 1\n	if last < 0 || l.said[last].Hello != nil {\n		l.said = append(l.said, frame)\n		return\n	}\n	l.said[last].Votes = append(l.said[last].Votes, frame.Votes...)\n	l.said[last].Acknowledgements = append(l.said[last].Acknowledgements, frame.Acknowledgements...)\n	l.said[last].Reports = append(l.said[last].Reports, frame.Reports...)\n	l.said[last].ReportsComplete = frame.ReportsComplete\n}"),
    Found("who is in doubt asks nobody", "inquiry.asks", "main.go", "			l.ask()\n", ""),
    Found("a one-phase commit is voted YES", "prepare.one-phase", "branches.go", '{"COMMITTED", "COMMITTED",', '{"YES", "COMMITTED",'),
    Found("results get lost", "prepare.yes", "branches.go", "		vote.Results = b.Results\n", ""),
    Found("no code", "prepare.refused", "branches.go", '"NO_FUNDS"', '""'),
    Found("the incarnation stands still", "durable.incarnation", "main.go", "	l.Incarnation++\n", "	l.Incarnation = 1\n"),
    Found("PREPARED is rolled back when it is asked about", "settle.prepared", "branches.go", '{"YES", "PREPARED",', '{"YES", "aborted ROLLED_BACK",'),
    Found("questions come before decisions", "frame.order", "main.go", '	each(l, frame.Decisions, func(d *pb.Decision) {\n		l.end(d.TransactionId, d.Order, d.Kind.String(), d.Acknowledge || d.Kind == pb.DecisionKind_DECISION_KIND_COMMIT, "")\n	})\n	each(l, frame.Settles, func(s *pb.RollbackIfUnseen) { l.end(s.TransactionId, s.Order, "SETTLE", true, "") })\n', '	each(l, frame.Settles, func(s *pb.RollbackIfUnseen) { l.end(s.TransactionId, s.Order, "SETTLE", true, "") })\n	each(l, frame.Decisions, func(d *pb.Decision) {\n		l.end(d.TransactionId, d.Order, d.Kind.String(), d.Acknowledge || d.Kind == pb.DecisionKind_DECISION_KIND_COMMIT, "")\n	})\n'),
    Found("what begins work comes before what ends some", "frame.order", "main.go", '	each(l, frame.Decisions, func(d *pb.Decision) {\n		l.end(d.TransactionId, d.Order, d.Kind.String(), d.Acknowledge || d.Kind == pb.DecisionKind_DECISION_KIND_COMMIT, "")\n	})\n	each(l, frame.Settles, func(s *pb.RollbackIfUnseen) { l.end(s.TransactionId, s.Order, "SETTLE", true, "") })\n	each(l, frame.Prepares, l.prepare)\n', '	each(l, frame.Prepares, l.prepare)\n	each(l, frame.Decisions, func(d *pb.Decision) {\n		l.end(d.TransactionId, d.Order, d.Kind.String(), d.Acknowledge || d.Kind == pb.DecisionKind_DECISION_KIND_COMMIT, "")\n	})\n	each(l, frame.Settles, func(s *pb.RollbackIfUnseen) { l.end(s.TransactionId, s.Order, "SETTLE", true, "") })\n'),
    Found("who is in doubt asks before Welcome", "hello.nothing-before-welcome", "main.go", 'l.current != "" && b.State', 'b.State'),
    Found("what was one phase is not listed", "hello.lists-one-phase", "main.go", "state := b.listed(); state != 0", 'state := b.listed(); state != 0 && b.State != "COMMITTED"'),
)  # fmt: skip
