"""The mutants that somebody chose from the outside, and that had survived: each is one of our own now, by name.

What the simulator, the client's mutants and the log's can change is listed there; the others change a line of the source, and
are tried here.
"""

# ruff: noqa: E501 - a change stands on one line, as it stands in the source

from __future__ import annotations

import os
import sys

import pytest

from tests.mutated import ROOT, VARIABLE, SourceMutant, main, survivors
from tests.sim.mutants import MUTANTS as CORE
from tests.sim_engine.mutants import MUTANTS as ENGINE
from tests.sim_resource.mutants import MUTANTS as RESOURCE

pytestmark = pytest.mark.skipif(VARIABLE in os.environ, reason="a mutant's own run does not begin others")

HERE = [
    SourceMutant(name, file, old, new, tests)
    for name, file, old, new, tests in (
        (
            "a unary caller that was cancelled is kept", "coordinator/services/transactions.py",
            "            if not waiting and self._waiting.get(number) is waiting:", "            if False:",
            ("tests/coordinator_shell/test_shell_unary.py",),
        ),
        (
            "the core is not told that a watcher has left", "coordinator/services/transactions.py",
            "                self._context.submit(events.Unwatch(watcher, request.transaction_id))", "                pass",
            ("tests/coordinator_shell/test_shell_bounds.py", "tests/coordinator_shell/test_shell_unary.py"),
        ),
        (
            "operations that were bound and never ran are kept", "participant_sdk/registry.py",
            "if len(self._bound) >= BOUND_KEPT_MAX or self._bound_bytes >= BOUND_BYTES_MAX:", "if False:",
            ("tests/participant/test_registry.py",),
        ),
        (
            "a drain does not wait for what was handed over", "coordinator/core/operator.py",
            "State.OPENING, State.HANDED_OVER)\n    return sum", "State.OPENING)\n    return sum",
            ("tests/coordinator_core/test_operators.py",),
        ),
        (
            "what an interrupted Hello listed is kept for the next", "coordinator/core/model.py",
            "        self.reports, self.report_bytes = {}, 0\n        self.questions", "        self.questions",
            ("tests/coordinator_core/test_binding.py",),
        ),
        (
            "messages are taken before Welcome", "coordinator/core/arrivals.py",
            "        if not participant.welcomed:\n            raise RemoteProtocolError(f\"{participant.name} sent", "        if False:\n            raise RemoteProtocolError(f\"{participant.name} sent",
            ("tests/coordinator_core/test_binding.py",),
        ),
        (
            "branches are taken before Welcome", "coordinator/core/arrivals.py",
            "    if event.reports and not participant.welcomed:", "    if False:",
            ("tests/coordinator_core/test_binding.py",),
        ),
        (
            "a keyed abort frees a key that another holds by now", "coordinator/core/finishing.py",
            "    if entry is None or entry.live is not txn:\n        return\n    if txn.state is State.COMMITTED", "    if entry is None:\n        return\n    if txn.state is State.COMMITTED",
            ("tests/coordinator_core/test_keys.py",),
        ),
    )
]  # fmt: skip

OUTSIDE = {
    "an answer is dropped one too early (AnswersSeen)": "an answer is dropped one too early",
    "bytes of dropped results are never given back": "bytes of dropped results are not given back",
    "bytes of seen answers are never given back": "bytes of seen answers are not given back",
    "a question that was given up stays pinned": "a question that was given up is kept",
    "the same, at the coordinator": "questions are counted for ever",
    "a cancelled unary caller is kept for ever": "a unary caller that was cancelled is kept",
    "a watcher that left is kept for ever": "a watcher that has left is told for ever",
    "the same, in the shell": "the core is not told that a watcher has left",
    "bound operations that never ran are kept for ever": "operations that were bound and never ran are kept",
    "an unforced record never gets its linger while a write runs": "an unforced record that arrives during a write never gets its linger",
    "no back-off in a client's dialling": "no back-off in dialling",
    "no back-off in a participant's dialling": "nobody backs off",
    "a client may end other sessions' transactions": "a session ends another one's transactions",
    "drain does not wait for what was handed over": "a drain does not wait for what was handed over",
    "the resource's WAL is never checkpointed": "the write-ahead log is never moved",
    "NOUPDATELOOP": "a row in the way of another stays there",
    "the operations' cache is keyed by name alone": "operations are remembered by their name alone",
    "synchronous=NORMAL in the coordinator's log": "synchronous=NORMAL in the coordinator's log",
    "a new log's directory entry is not synced": "the name of a new log is not synced",
    "a keyed abort frees a key that another holds": "a keyed abort frees a key that another holds by now",
    "the same, when it is dropped": "what is dropped frees a key that another holds by now",
    "what an interrupted Hello listed is kept for the next": "what an interrupted Hello listed is kept for the next",
    "fingerprints are cached over schema changes": "fingerprints outlive a change of the schema",
    "unary commits answer under a number that is not theirs": "a unary call is answered under another one's number",
    "messages before Welcome": "messages are taken before Welcome",
    "reports before Welcome": "branches are taken before Welcome",
}
"""What was tried from the outside and survived, and the mutant that stands for it."""
ELSEWHERE = {
    "tests/client/client_mutants.py": ("a question that was given up is kept", "no back-off in dialling"),
    "tests/log/test_log_lossy.py": ("synchronous=NORMAL in the coordinator's log", "the name of a new log is not synced"),
    "tests/coordinator_shell/test_shell_who_may_unary.py": ("a unary call is answered under another one's number",),
}
"""Lists that are no modules of a package."""


def test_each_that_had_survived_is_a_mutant_of_ours() -> None:
    ours = {mutant.name for mutants in (CORE, ENGINE, RESOURCE, HERE) for mutant in mutants}
    for file, names in ELSEWHERE.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        ours.update(name for name in names if f'"{name}"' in text)
    assert not set(OUTSIDE.values()) - ours


def test_those_of_one_line_are_caught() -> None:
    assert survivors(HERE) == []


if __name__ == "__main__":
    sys.exit(main(HERE))
