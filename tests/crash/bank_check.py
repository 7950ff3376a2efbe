"""The independent checker of the banks: what do the files say, whoever wrote them?

Opens copies of the databases with Python's own sqlite3, and uses nothing of Troth but the record definitions.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bank_cluster import BANKS, COORDINATOR
from bank_terms import ACCOUNTS, OPENING
from check import COMMITTED, CoordinatorLog, ParticipantLog, coordinator_log, open_copy, participant_log

Entry = tuple[str, str, int]
"""Bank, account, amount."""


@dataclass(slots=True)
class Found:
    """Everything that the files say."""

    entries: dict[str, Counter[Entry]]
    """By transfer."""
    balances: dict[tuple[str, str], int]
    """By bank and account."""
    moved: Counter[tuple[str, str]]
    logs: dict[str, ParticipantLog]
    """By bank, or by slot where a bank is several processes."""
    coordinator: CoordinatorLog


@dataclass(slots=True)
class Verdict:
    """What was looked at, and what is wrong."""

    transfers: int = 0
    committed: int = 0
    unknown: int = 0
    wrong: list[str] = field(default_factory=list)

    def expect(self, true: bool, otherwise: str) -> None:
        """Look at one more thing."""
        if not true:
            self.wrong.append(otherwise)


def check(directory: Path, banks: Sequence[str] = BANKS) -> Verdict:
    """Check the files of a run that is over."""
    return judge(_read(directory, banks), directory / "told.jsonl")


def judge(found: Found, told_file: Path) -> Verdict:
    """Hold what is there against what the clerks were told."""
    verdict = Verdict()
    told = [json.loads(line) for line in told_file.read_text(encoding="utf-8").splitlines()]
    for name, _, _, outcome, code, transactions, legs in told:
        verdict.transfers += 1
        _check_transfer(verdict, found, f"{name} {transactions}", outcome, code, found.entries.pop(name, Counter()), legs)
    for name in found.entries:
        verdict.expect(False, f"{name} is there, and nobody was told anything")
    _check_balances(verdict, found)
    _check_agreement(verdict, found)
    _check_nothing_left(verdict, found)
    return verdict


def _check_transfer(
    verdict: Verdict, found: Found, what: str, told: str, code: str, entries: Counter[Entry], legs: list[list[object]]
) -> None:
    """All or nothing, exactly once, as told."""
    wanted = Counter((str(bank), str(account), int(str(amount))) for bank, account, amount in legs)
    verdict.expect(entries in (wanted, Counter()), f"{what}: half done: {dict(entries)} of {dict(wanted)}")
    if told == "COMMITTED":
        verdict.committed += 1
        verdict.expect(entries == wanted, f"{what}: told COMMITTED, found {dict(entries)}")
    elif told == "ABORTED":
        verdict.expect(not entries, f"{what}: told ABORTED {code}, found {dict(entries)}")
    elif told == "UNKNOWN":
        verdict.unknown += 1
    else:
        verdict.expect(False, f"{what}: told {told} {code}")


def _check_balances(verdict: Verdict, found: Found) -> None:
    """Money is conserved: opening + entries = balance."""
    for (bank, account), balance in found.balances.items():
        moved = found.moved[bank, account]
        true = balance == OPENING + moved and balance >= 0
        verdict.expect(true, f"{account} at {bank}: {OPENING} at first, {moved} moved, {balance} there")
    total = sum(found.balances.values())
    opening = OPENING * ACCOUNTS * len({bank for bank, _ in found.balances})
    verdict.expect(total == opening, f"all money together: {opening} at first, {total} now")


def _check_agreement(verdict: Verdict, found: Found) -> None:
    """No transaction is committed at one bank and rolled back at another, or against the decision."""
    outcomes: dict[str, dict[str, int]] = defaultdict(dict)
    for place, log in found.logs.items():
        bank = place.partition("/")[0]
        for transaction, outcome in log.finished.items():
            # A question about what nobody remembers reaches every slot: those without work there note that none is to come.
            outcomes[transaction][bank] = COMMITTED if outcomes[transaction].get(bank) == COMMITTED else outcome
    for transaction, by_bank in outcomes.items():
        verdict.expect(len(set(by_bank.values())) == 1, f"{transaction} ended differently: {by_bank}")
    for transaction, participants in found.coordinator.decided.items():
        for bank in participants & found.logs.keys():
            outcome = found.logs[bank].finished.get(transaction, COMMITTED)  # forgotten: then it was acknowledged
            verdict.expect(outcome == COMMITTED, f"{transaction} was decided COMMIT, and {bank} says {outcome}")


def _check_nothing_left(verdict: Verdict, found: Found) -> None:
    """Nothing is in doubt, locked, parked or unacknowledged."""
    coordinator = found.coordinator
    for transaction in coordinator.decided.keys() - coordinator.ended.keys():
        verdict.expect(False, f"the coordinator waits for acknowledgements of {transaction}")
    for transaction in coordinator.keys_open:
        verdict.expect(False, f"the coordinator does not know what came of {transaction}")
    for what in coordinator.heuristic:
        verdict.expect(False, f"heuristic: {what}")
    for bank, log in found.logs.items():
        for transaction in log.in_doubt:
            verdict.expect(False, f"{transaction} is in doubt at {bank}")
        for transaction in log.locked:
            verdict.expect(False, f"{transaction} holds locks at {bank}")
        for transaction in log.parked:
            verdict.expect(False, f"{transaction} is parked at {bank}")


def _read(directory: Path, banks: Sequence[str]) -> Found:
    entries: dict[str, Counter[Entry]] = defaultdict(Counter)
    balances: dict[tuple[str, str], int] = {}
    moved: Counter[tuple[str, str]] = Counter()
    logs: dict[str, ParticipantLog] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for bank in banks:
            copies = Path(scratch) / bank
            copies.mkdir()
            database = open_copy(directory / bank / "bank.db", copies)
            for transfer, account, amount in database.execute("SELECT transfer, account, amount FROM entries"):
                entries[transfer][bank, account, amount] += 1
                moved[bank, account] += amount
            for account, balance in database.execute("SELECT account, balance FROM accounts"):
                balances[bank, account] = balance
            logs[bank] = participant_log(database)
            database.close()
        database = open_copy(directory / COORDINATOR / "coordinator.db", Path(scratch))
        coordinator = coordinator_log(database)
        database.close()
    return Found(entries, balances, moved, logs, coordinator)
