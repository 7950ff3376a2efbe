"""`python_ledger.py`, telling which cells of the table it comes by: a line `STATE KIND` for each in $CONFORM_CELLS.

Its slow operation lasts until a message has come that finds it running; so those cells are come by on any machine.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import python_ledger
from test_conform_table import ON_THE_WIRE

from participant_sdk.core import transitions
from participant_sdk.core.branches import Kind, State

RUNNING = (State.EXECUTING, State.PREPARING, State.ONE_PHASE)
PATIENCE_SECONDS = 2.0
"""How long the slow operation waits at most: where no message comes at all."""
come = threading.Event()


def wait_for_what_comes() -> None:
    """The slow operation takes so long."""
    come.clear()
    come.wait(PATIENCE_SECONDS)


def _telling(state: State, kind: Kind, handler: Callable[..., None], told: set[str], file: int) -> Callable[..., None]:
    line = f"{state.name} {kind.name}"

    def tell(*arguments: Any) -> None:
        if state in RUNNING and kind in ON_THE_WIRE:
            come.set()
        if line not in told:
            told.add(line)
            os.write(file, f"{line}\n".encode())  # at once: the process may be killed in the next moment
        handler(*arguments)

    return tell


def watch() -> None:
    """Tell from now on."""
    told: set[str] = set()
    file = os.open(os.environ["CONFORM_CELLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for state, row in transitions.TABLE.items():
        for kind, handler in row.items():
            row[kind] = _telling(state, kind, handler, told, file)


if __name__ == "__main__":
    watch()
    python_ledger.pause = wait_for_what_comes
    asyncio.run(python_ledger.main())
