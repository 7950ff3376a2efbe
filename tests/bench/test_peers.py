"""The table of peers comes from what was measured: ratios within a turn, and nothing that nobody measured."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from bench import stages
from bench.measure import Result
from bench.peers import seata
from bench.peers.table import CALLERS, ONE_SHOT, Peer, key, rows, table

OTHER = "other people's"
ONE_SHOT_RATES = (100.0, 300.0, 500.0)
OTHERS_RATES = (50.0, 270.0, 300.0)
"""So the ratios of the turns are 0.5, 0.9 and 0.6, and that of the medians would be another: 0.9."""


def result(name: str, rate: float, *, other: int = 0, callers: int = 16) -> Result:
    return Result(name, callers, int(rate), other, rate, 2.0, 3.0, 4.0, cpu_us={"server": rate, "load": 1.0})


def measured(failed: int = 0) -> dict[str, Result]:
    every = [
        *(result(key(ONE_SHOT, 16, turn), rate) for turn, rate in enumerate(ONE_SHOT_RATES)),
        *(result(key(OTHER, 16, turn), rate, other=failed) for turn, rate in enumerate(OTHERS_RATES)),
    ]
    return {one.name: one for one in every}


def shown(results: dict[str, Result], peers: list[Peer]) -> str:
    console = Console(width=220, file=io.StringIO())
    console.print(table(results, peers))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_ratio_is_that_of_one_turn_and_the_median_of_the_turns_is_told() -> None:
    base, row = rows(measured(), [Peer(ONE_SHOT, 3), Peer(OTHER, 3)])
    assert (row.name, row.callers, row.ratio, row.lowest, row.highest) == (OTHER, 16, 0.6, 0.5, 0.9)
    assert (row.rate, row.cpu_us, row.p50_ms) == (270.0, 271.0, 2.0)
    assert base.ratio == base.lowest == base.highest == 1.0


def test_transactions_that_failed_are_added_up_over_the_turns() -> None:
    (row,) = rows(measured(failed=2), [Peer(OTHER, 3)])
    assert row.failed == 6


def test_without_troth_in_the_same_turn_there_is_no_ratio() -> None:
    results = {name: one for name, one in measured().items() if ONE_SHOT not in name}
    (row,) = rows(results, [Peer(OTHER, 3)])
    assert math.isnan(row.ratio)


def test_a_turn_without_troth_does_not_count_for_the_ratio() -> None:
    results = measured()
    del results[key(ONE_SHOT, 16, 1)]
    (row,) = rows(results, [Peer(OTHER, 3)])
    assert (row.ratio, row.lowest, row.highest) == (0.55, 0.5, 0.6)


def test_every_number_of_callers_has_a_row() -> None:
    results = {key(OTHER, callers, 0): result(key(OTHER, callers, 0), 10.0, callers=callers) for callers in CALLERS}
    assert [row.callers for row in rows(results, [Peer(OTHER, 1)])] == list(CALLERS)


def test_what_could_not_be_had_is_said_and_has_no_figure() -> None:
    missing = Peer("another", seen="it could not be fetched")
    assert [row.name for row in rows(measured(), [missing])] == []
    line = next(line for line in shown(measured(), [Peer(OTHER, 3), missing]).splitlines() if "another" in line)
    assert "not measured: it could not be fetched" in line
    assert not any(sign.isdigit() for sign in line)


def test_the_table_tells_how_durability_was_looked_at() -> None:
    assert "eight syncs" in shown(measured(), [Peer(OTHER, 3, "eight syncs")])


def test_without_a_jdk_it_is_said_what_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "java").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TEST_SEATA_JARS", str(tmp_path))
    assert seata.jars() == "there is no javac, no jcmd, no jfr: a JDK has them"
    monkeypatch.delenv("TEST_SEATA_JARS")
    assert seata.jars() == "it could not be fetched; see above"


def test_nobody_fetches_peers_without_asking_for_them() -> None:
    assert "peers" in stages.STAGES and "peers" not in stages.USUAL
