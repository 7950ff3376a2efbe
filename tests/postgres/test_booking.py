"""`examples/booking`, as `scripts/demo --databases` runs it: three frameworks, two workers each, and kills."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAST_LINE = re.compile(r"demo: ok trips=40 committed=(\d+) aborted=\d+ unknown=\d+ kills=4 in_doubt=0 violations=0\n")


def test_trips_are_booked_everywhere_or_nowhere_while_everybody_is_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "booking" / "trips.py", "--trips", "40", "--directory", tmp_path / "booking"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    told = LAST_LINE.fullmatch(done.stdout)
    assert done.returncode == 0 and told, done.stdout + done.stderr[-3000:]
    assert int(told[1]) > 20, done.stderr[-3000:]
