"""What `docs/how-to/trace-it.md` shows is what happens, with processes and OpenTelemetry's console exporter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "trace-it.md").read_text(encoding="utf-8")
SERVING = re.compile(r"serving on (127\.0\.0\.1:\d+)")


def program() -> str:
    found = re.search(r"^```python traced\.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def spans_in(text: str) -> list[dict[str, Any]]:
    """What the console exporter prints: objects, one behind the other."""
    decoder, found, place = json.JSONDecoder(), [], text.find("{\n")
    while place >= 0:
        one, end = decoder.raw_decode(text, place)
        found.append(one)
        place = text.find("{\n", end)
    return found


@contextmanager
def daemon(directory: Path, printed: list[str], **environment: str) -> Iterator[str]:
    """`troth serve` as the page has it; gives its address, and what it has printed when it has ended."""
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--set", "tracing=true", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--data-directory", str(directory / "c1"), "--set", "log_level=error"], cwd=ROOT, text=True,
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    reading = threading.Thread(target=lambda stream: printed.append(stream.read()), args=(process.stdout,))
    reading.start()
    guard = threading.Timer(120, process.kill)
    guard.start()
    try:
        for line in process.stderr:
            if match := SERVING.search(line):
                yield match[1]
                break
        else:
            pytest.fail("it does not serve")
    finally:
        process.terminate()
        process.stderr.read()
        process.wait()
        process.stderr.close()
        reading.join()
        process.stdout.close()
        guard.cancel()


def test_the_page_shows_what_is_printed(tmp_path: Path) -> None:
    (tmp_path / "traced.py").write_text(program())
    printed: list[str] = []
    with daemon(tmp_path, printed, OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="the-coordinator") as address:
        done = subprocess.run(
            [sys.executable, str(tmp_path / "traced.py"), address, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
            check=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    told, theirs = spans_in(done.stdout), spans_in(printed[0])
    assert len({span["context"]["trace_id"] for span in (*told, *theirs)}) == 1
    shown = re.findall(r"(troth\.[\w./]+) {2,}", PAGE)
    assert set(shown) == {span["name"] for span in (*told, *theirs)}
    assert {span["name"] for span in theirs} == {"troth.coordinate", "troth.work", "troth.vote", "troth.decide", "troth.commit"}
    assert {span["resource"]["attributes"]["service.name"] for span in theirs} == {"the-coordinator"}
    assert {span["resource"]["attributes"]["service.instance.id"] for span in theirs} == {"c1"}


def test_an_exporter_that_is_not_there_is_named_at_the_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--set", "tracing=true", "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, "--data-directory", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "OTEL_TRACES_EXPORTER": "carrier-pigeon"},
    )  # fmt: skip
    assert done.returncode != 0 and "there is no exporter 'carrier-pigeon' here" in done.stderr
