"""Who does not trace pays nothing: nothing of OpenTelemetry is loaded, and none of our tracing is called."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from spans_seen import daemon_of

from participant_sdk import LogResource, Participant
from participant_sdk.client import Client, call
from troth import tracing

ROOT = Path(__file__).resolve().parents[2]
OURS = ("/troth/spans.py", "/participant_sdk/tracing.py", "/participant_sdk/client/traced.py", "/coordinator/tracing.py")
WHILE_IT_IS_MADE = {"__init__", "stop"}
"""A participant makes its bookkeeper, and ends it, once."""
ONE_TRANSACTION = """
import asyncio, sys
from pathlib import Path
from coordinator.config import load
from coordinator.server import make_daemon
from participant_sdk import LogResource, Participant
from participant_sdk.client import Client, call

async def main(directory):
    daemon = make_daemon(load(flags={"data_directory": f"{directory}/c1", "listen": "127.0.0.1:0"}, environment={}).config)
    await daemon.start()
    bank = Participant("bank", resource=LogResource(), data_directory=f"{directory}/bank", coordinator=daemon.address)
    bank.operation(locks=[])(note)
    async with bank, Client(daemon.address) as client:
        await bank.wait_connected()
        await client.run(call("bank", "note", amount=1))
    await daemon.stop()

def note(branch, *, amount: int) -> int:
    return amount

asyncio.run(main(sys.argv[1]))
print("loaded:", sorted(name for name in sys.modules if name.startswith(("opentelemetry", "troth.spans", "coordinator.tracing"))))
"""


def test_nothing_of_opentelemetry_is_loaded_without_tracing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONE_TRANSACTION, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_without_the_extra_it_is_said_what_is_missing(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['opentelemetry'] = None\nfrom participant_sdk import tracing\ntracing.enable()"
    done = subprocess.run([sys.executable, "-c", hidden], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1 and "it comes with the extra 'otel'" in done.stderr.splitlines()[-1]


@contextmanager
def called() -> Iterator[set[str]]:
    """Which functions of ours are called, on whatever thread."""
    found: set[str] = set()

    def look(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.endswith(OURS) and not WHILE_IT_IS_MADE & set(code.co_qualname.split(".")):
            found.add(code.co_qualname)

    before = sys.getprofile()
    threading.setprofile(look)
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


async def one_transaction(directory: Path, **flags: str) -> None:
    daemon = daemon_of(directory, **flags)
    await daemon.start()
    banks = [
        Participant(name, resource=LogResource(), data_directory=directory / name, coordinator=daemon.address)
        for name in ("left", "right")
    ]
    for bank in banks:

        @bank.operation(locks=[])
        def note(branch: Any, *, amount: int) -> int:
            return amount

    async with banks[0], banks[1], Client(daemon.address) as client:
        await asyncio.gather(*(bank.wait_connected() for bank in banks))
        await client.run(call("left", "note", amount=1), call("right", "note", amount=2), wait="complete")
        async with client.transaction() as tx:
            tx.context()
    await daemon.stop()


async def test_nothing_of_ours_is_called_without_tracing(tmp_path: Path) -> None:
    assert tracing.spans is None
    with called() as found:
        await one_transaction(tmp_path, tracing="false")
    assert found == set()


@pytest.mark.usefixtures("seen")
async def test_the_same_transaction_with_tracing_calls_it(tmp_path: Path) -> None:
    with called() as found:
        await one_transaction(tmp_path)
    assert {"BranchSpans.voted", "Teller.hear", "one_shot", "Block.leave"} <= found
