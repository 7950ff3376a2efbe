"""The cases of `troth conform` and the participant's table: each cell that a coordinator can drive has a case, by name."""

from __future__ import annotations

from pathlib import Path

from coordinator.conform.run import chosen
from participant_sdk.core.branches import UNPREPARED, Kind
from participant_sdk.core.transitions import ROWS

ON_THE_WIRE = (
    Kind.PREPARE, Kind.COMMIT, Kind.ABORT, Kind.SETTLE, Kind.FORCE_COMMIT, Kind.FORCE_ABORT, Kind.FORCE_FORGET, Kind.ENLISTED,
    Kind.LOST,
)  # fmt: skip
"""What a coordinator says, or does. All other kinds come from inside a participant: what ran, what is durable, timers, and calls,
which bring a branch into the states of interactive work."""

ELSEWHERE = {
    "unseen.prepare": "prepare.yes", "unseen.commit": "commit.unseen", "unseen.abort": "abort.unseen",
    "unseen.settle": "settle.unseen",
    "expired.prepare": "watermark.edge", "expired.commit": "watermark.edge", "expired.abort": "watermark.edge",
    "expired.settle": "watermark.edge",
    "preparing.settle": "settle.running", "one-phase.settle": "settle.running-one-phase",
    "prepared.prepare": "prepare.repeated", "prepared.commit": "commit.prepared", "prepared.abort": "abort.prepared",
    "prepared.settle": "settle.prepared", "prepared.force-commit": "force.commit", "prepared.force-abort": "force.abort",
    "committed.prepare": "prepare.one-phase", "committed.commit": "commit.one-phase", "committed.abort": "abort.committed",
    "committed.settle": "settle.committed",
    "aborted.prepare": "prepare.rolled-back", "aborted.commit": "commit.rolled-back", "aborted.abort": "abort.prepared",
    "aborted.settle": "settle.rolled-back",
    "read-only.prepare": "prepare.read-only", "read-only.commit": "commit.read-only", "read-only.abort": "commit.read-only",
    "read-only.settle": "settle.read-only",
    "forced-commit.commit": "force.agrees", "forced-commit.abort": "force.commit", "forced-commit.force-forget": "force.commit",
    "forced-abort.prepare": "force.abort", "forced-abort.commit": "force.abort", "forced-abort.abort": "force.agrees",
    "forced-abort.force-forget": "force.abort",
}  # fmt: skip
"""Cells that a case of another name shows."""


def cells() -> set[str]:
    """The cells of the table that a coordinator can drive, named as the cases are."""
    return {
        f"{state.name}.{kind.name}".lower().replace("_", "-")
        for state, row in ROWS.items()
        for kind in row
        if kind in ON_THE_WIRE
    }


def test_every_cell_that_a_coordinator_can_drive_has_a_case() -> None:
    names = {one.name for one in chosen(())}
    own = {name.removeprefix("cell.") for name in names if name.startswith("cell.")}
    assert cells() - own - ELSEWHERE.keys() == set(), "no case"
    assert own - cells() == _SAFE_BUT_NO_CELL, "no such cell"
    assert set(ELSEWHERE.values()) <= names
    assert not own & ELSEWHERE.keys(), "two ways"


_SAFE_BUT_NO_CELL = {
    f"{state}.lost" for state in ("committed", "aborted", "read-only")
} - cells()
"""A finished branch hears of no lost stream; that nothing changes must be true all the same."""


def driven(file: Path) -> None:
    """All of them were come by, but for those that are over before a message gets there; `file` is what `ledger_cells.py` wrote."""
    told = {line.replace(" ", ".").lower().replace("_", "-") for line in file.read_text(encoding="utf-8").splitlines()}
    finishing = ("committing.", "aborting.")
    unprepared = {f"{state.name}.lost".lower().replace("_", "-") for state in UNPREPARED}
    missing = {cell for cell in cells() - told if not cell.startswith(finishing)}
    missing -= {cell for cell in missing if cell.endswith(".lost") and cell not in unprepared}  # only unprepared work is lost
    assert not missing, f"no case comes by {sorted(missing)}"
