"""The coverage-guided fuzzer's process: `python -m tests.fuzz.guided_main CORPUS [libFuzzer's flags]`.

The first argument is a directory: it is filled with what to begin with, and keeps what reached something new.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["coordinator.core", "participant_sdk.core"]):
    from tests.fuzz import coverage_guided


def main() -> None:
    """Fuzz until libFuzzer's flags say that it is enough."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(coverage_guided.corpus()):
        (directory / f"seed-{number}").write_bytes(data)
    atheris.Setup(sys.argv, coverage_guided.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
