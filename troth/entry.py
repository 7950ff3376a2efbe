"""The entry point of the command `troth`: finds our `coordinator`, not somebody else's, and says what to install."""

from __future__ import annotations

import sys
from importlib import import_module

from troth.packages import take, what_is_missing


def main() -> None:
    """Run the command line; always raises SystemExit."""
    try:
        take("coordinator")
        command_line = import_module("coordinator.cli")
    except ModuleNotFoundError as error:
        missing = what_is_missing(error)
        if not missing:
            raise
        sys.stderr.write(f"troth: {missing}\n")
        sys.exit(2)
    command_line.main()
