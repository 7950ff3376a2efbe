"""kill -9 at every named failpoint of either side, under traffic; whatever is killed, every outcome is atomic."""

from __future__ import annotations

from pathlib import Path

import pytest
from points import GROUPS, ONLY_BANKS
from storm import Storm


@pytest.mark.parametrize("group", GROUPS)
async def test_killed_at_every_point_nothing_is_half_done(group: str, tmp_path: Path) -> None:
    storm = Storm(tmp_path / "storm")
    report = await storm.run([point for point in GROUPS[group] if point.rpartition(":")[2] not in ONLY_BANKS])
    wrong = [f"{row.title}: {wrong}" for row in report.rows for wrong in row.wrong]
    assert not wrong, "\n".join(wrong[:20])
    assert report.in_doubt == 0
    assert report.committed > 0
    assert not storm.missed, f"not killed there within the time: {storm.missed}"
