"""Runs the shop while it is being killed, and then has everything checked.

Starts the coordinator and three services, places the orders of a file as transactions over all three, kills processes with
SIGKILL at named moments and starts them again, stops everything, and runs the independent checker over the files.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import shutil
import sys
import time
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import grpc
from catalog import BadFile, Order, read_orders
from chaos import Chaos, plan
from check import Report, check
from front import Diary, Front
from processes import DIRECT, ROOT, Cluster, ProcessFailed
from progress import Display
from rich.console import Console
from rich.table import Table

from troth.v1 import admin_pb2, admin_pb2_grpc

HERE = Path(__file__).parent
EPILOG = """\
examples:
  scripts/demo                        1,000 orders that ship with the project
  scripts/demo --orders mine.csv      your own: order,customer,product,quantity,unit_price_cents
  scripts/demo --no-kills             the same in peace

Customers c001 to c200 and products p001 to p100 exist: see examples/shop/customers.csv and products.csv.
exit status: 0 all is as it must be, 1 something is not (it says what), 2 the orders cannot be read
"""
BLOW_SHARE = 0.7
"""When so many of the orders are done at the latest, everything is killed at once."""
SETTLE_SECONDS = 120.0
LOOK_SECONDS = 0.05
ABORTED_SECONDS, ABORTED_LOOKS = 1.0, 20
"""An abort is told, and not acknowledged: so long participants may take to carry out the last one."""


def main() -> int:
    """Parse, run, report; returns the exit status."""
    options = _options()
    try:
        orders, bad = read_orders(options.orders)
        if not orders:
            raise BadFile(f"{options.orders}: there is no order in it")
    except BadFile as error:
        sys.stderr.write(f"demo: {error}\n")
        return 2
    for row in bad:
        sys.stderr.write(f"demo: {options.orders}:{row.line_number}: {row.why}\n")
    directory: Path = options.directory.resolve()
    with _alone(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        try:
            kills = asyncio.run(_run(orders, directory, kills=not options.no_kills))
        except (ProcessFailed, TimeoutError) as error:
            return _failed(f"{error}", directory)
        except KeyboardInterrupt:
            return _failed("interrupted", directory)
        report = check(directory, orders)
        return _tell(report, kills, directory)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orders", type=Path, default=HERE / "orders.csv", metavar="FILE", help="the orders to place")
    parser.add_argument("--no-kills", action="store_true", help="kill nothing")
    parser.add_argument(
        "--directory", type=Path, default=ROOT / "var" / "demo", metavar="DIR",
        help="where everything is kept, emptied at the start (default: var/demo)",
    )  # fmt: skip
    return parser.parse_args()


def _alone(directory: Path) -> IO[str]:
    """Two demos at once would empty each other's directory."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    file = directory.with_name(f"{directory.name}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"demo: another demo is running in {directory}: let it finish, or use --directory")
    return file


async def _run(orders: list[Order], directory: Path, *, kills: bool) -> int:
    """Place all orders, stop everything in order; returns the number of kills."""
    with Display(len(orders)) as display:
        display.say(f"{len(orders)} orders; everything is kept below {directory}")
        chaos = Chaos(Cluster(directory), plan(len(orders)) if kills else (), display.died)
        try:
            await chaos.start()
            display.say("the coordinator and three services are serving")
            await _until_failure(_place(orders, chaos, display, directory, kills=kills), chaos)
            await chaos.stop()
        except BaseException:
            await chaos.abandon()
            raise
        for kill in chaos.pending():
            display.say(f"not killed, too few orders for it: {kill.process}: {kill.moment}")
    return len(chaos.deaths)


async def _until_failure(work: Coroutine[Any, Any, None], chaos: Chaos) -> None:
    """Do the work, unless a process ends as nobody ordered."""
    task = asyncio.ensure_future(work)
    await asyncio.wait((task, chaos.failed), return_when=asyncio.FIRST_COMPLETED)
    if chaos.failed.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        chaos.failed.result()
    await task


async def _place(orders: list[Order], chaos: Chaos, display: Display, directory: Path, *, kills: bool) -> None:
    services = {name: service.address for name, service in chaos.cluster.services.items()}
    address = chaos.cluster.coordinator.address
    with closing(Diary(directory / "told.csv")) as diary:
        blow = asyncio.create_task(_last_blow(chaos, display, len(orders))) if kills else None
        async with Front(address, services, diary, display) as front:
            await front.place_all(orders)
        if blow is not None:
            await blow
    await settle(address)


async def _last_blow(chaos: Chaos, display: Display, orders: int) -> None:
    """Kill everything at once, when most orders are done, and wait until all are back."""
    await display.until(lambda: display.counts["done"] >= min(orders * BLOW_SHARE, orders - 1))
    back = display.counts["back"]
    killed = len(chaos.kill_everything())
    await display.until(lambda: display.counts["back"] >= back + killed)


async def settle(coordinator: str) -> None:
    """Wait until nobody owes anything any more. Raises `TimeoutError`."""
    request = admin_pb2.ListTransactionsRequest(limit=5)
    async with grpc.aio.insecure_channel(coordinator, DIRECT) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            unfinished = await admin.ListTransactions(request, wait_for_ready=True, timeout=SETTLE_SECONDS)
            if unfinished.total == 0:
                for _ in range(ABORTED_LOOKS):  # so that a machine that pauses meanwhile does not end it
                    await asyncio.sleep(ABORTED_SECONDS / ABORTED_LOOKS)
                return
            if time.monotonic() > until:
                raise TimeoutError(f"still unfinished after {SETTLE_SECONDS:.0f} s: {unfinished}")
            await asyncio.sleep(LOOK_SECONDS)


def _failed(why: str, directory: Path) -> int:
    sys.stderr.write(f"demo: {why}\ndemo: the logs are in {directory}\n")
    sys.stdout.write("demo: failed\n")
    return 1


def _tell(report: Report, kills: int, directory: Path) -> int:
    """Print the table, what is wrong, what to look at, and the last line."""
    console = Console(highlight=False)
    table = Table(title="What the checker found in the files", title_justify="left")
    table.add_column("check")
    table.add_column("looked at", justify="right")
    table.add_column("wrong", justify="right")
    for row in report.rows:
        table.add_row(row.title, str(row.looked_at), str(len(row.wrong)))
    console.print(table)
    for row in report.rows:
        for wrong in row.wrong[:10]:
            console.print(f"WRONG  {row.title}: {wrong}", markup=False, soft_wrap=True)
    console.print(_look_next(directory), markup=False, soft_wrap=True)
    verdict = "ok" if not report.violations and not report.in_doubt else "failed"
    sys.stdout.write(
        f"demo: {verdict} orders={report.orders} committed={report.committed} aborted={report.aborted} "
        f"kills={kills} in_doubt={report.in_doubt} violations={report.violations}\n"
    )
    return 0 if verdict == "ok" else 1


def _look_next(directory: Path) -> str:
    here = Path.cwd()
    shown = directory.relative_to(here) if directory.is_relative_to(here) else directory
    troth = Path(sys.executable).with_name("troth")
    command = troth.relative_to(here) if troth.is_relative_to(here) else troth
    return (
        "What to look at next:\n"
        f"  {shown}/told.csv      what each customer was told, attempt by attempt\n"
        f"  {shown}/*.log         what the processes said\n"
        "  examples/shop/payments.py   a service in full\n"
        "  README.md                   make your own service a participant\n"
        "The coordinator's log, record by record:\n"
        f"  {command} log dump {shown}/coordinator/coordinator.db"
    )


if __name__ == "__main__":
    sys.exit(main())
