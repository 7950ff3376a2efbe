"""`troth` on a machine whose wall clock jumps: as far ahead, in seconds, as the file says that is its first argument.

Python's clock is what Troth reads. gRPC's is left alone, where it makes a moment of the machine's clock out of a time limit: the
other half of that is in its core, which would still see the clock of this machine.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

real_seconds, real_ns = time.time, time.time_ns


def jump_to(file: Path) -> None:
    """Let the wall clock be off by what the file says, from now on and as it changes."""
    time.time = lambda: real_seconds() + float(file.read_text())  # before anybody keeps it
    time.time_ns = lambda: real_ns() + int(float(file.read_text()) * 1e9)


if __name__ == "__main__":
    jump_to(Path(sys.argv.pop(1)))
    import grpc.aio._utils

    from coordinator.cli.main import main

    grpc.aio._utils.time = SimpleNamespace(time=real_seconds)
    main()
