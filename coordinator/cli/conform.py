"""`troth conform`: does a participant keep the protocol?"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict

import click

from coordinator.cli import render
from coordinator.cli.command import Command, json_option
from coordinator.cli.failure import REFUSED, UNREACHABLE, Failure
from coordinator.conform.caller import Caller
from coordinator.conform.case import Broken
from coordinator.conform.peer import Operation, Operations, Peer
from coordinator.conform.process import ByCommand, ByHand, Child, Process
from coordinator.conform.run import BROKEN, Verdict, chosen, run
from coordinator.conform.wire import Wire

EXAMPLES = """
troth conform --list                                                        # every rule that is tried
troth conform --run './ledger var/l' --work 'add {"account": "a{n}"}'       # all that need nothing more
troth conform --run './ledger var/l' --work 'add {}' --reads 'look {}' durable commit
troth conform --run './ledger var/l :7500' --work 'add {}' --calls 127.0.0.1:7500/ledger.Ledger/Run
troth conform --listen 127.0.0.1:7420 --restart ./restart.sh --work 'add {}'
"""


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("cases", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="List the cases with their rules, and run none.")
@click.option("--work", metavar="OPERATION", help="Changes something: NAME and a JSON object; {n} is a number for each branch.")
@click.option("--refuses", metavar="OPERATION", help="An operation that refuses.")
@click.option("--reads", metavar="OPERATION", help="Reads what the work with the same {n} changes.")
@click.option("--slow", metavar="OPERATION", help="Changes something, and takes some tenths of a second.")
@click.option("--parks", metavar="OPERATION", multiple=True, help="Cannot be rolled back; or not once a second one has committed.")
@click.option("--calls", metavar="ADDRESS/SERVICE/METHOD", help="A method of its own that takes an Operation, in a transaction.")
@click.option("--run", "command", metavar="COMMAND", help="Starts the participant, which dials $TROTH_COORDINATOR.")
@click.option("--restart", metavar="COMMAND", help="Kills it at once and starts it again, when others started it.")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:0", show_default=True, help="Where the participant dials.")
@click.option("--patience", type=click.FloatRange(0.1, 600), default=10.0, help="Seconds that an answer may take.  [default: 10.0]")
@json_option
def conform(
    cases: tuple[str, ...], listing: bool, work: str | None, refuses: str | None, reads: str | None, slow: str | None,
    parks: tuple[str, ...], calls: str | None, command: str | None, restart: str | None, listen: str, patience: float,
    as_json: bool,
) -> int:  # fmt: skip
    """Run a participant, in any language, against a coordinator that follows a script, and tell which rules it breaks.

    CASES are beginnings of names; without any, all are run. Give it a participant of its own, with an empty data directory.
    Exit 1 when a rule is broken, 4 when the participant does not come.
    """
    wanted = chosen(cases)
    if not wanted:
        raise click.UsageError("no case has such a name; --list shows them")
    if listing:
        return _list([Verdict(case.name, case.rule, "", ", ".join(sorted(case.needs))) for case in wanted], as_json)
    if work is None:
        raise click.UsageError("--work is missing: an operation that changes something")
    given = (Operation.parse(one) if one else None for one in (refuses, reads, slow))
    operations = Operations(Operation.parse(work), tuple(map(Operation.parse, parks)), *given)
    caller = Caller.parse(calls) if calls else None
    verdicts = asyncio.run(_run(listen, command, restart, operations, caller, patience, cases, as_json))
    counts = Counter(verdict.verdict for verdict in verdicts)
    if as_json:
        render.write_json({"cases": [asdict(verdict) for verdict in verdicts], **counts})
    render.tell(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return REFUSED if counts[BROKEN] else 0


async def _run(
    listen: str, command: str | None, restart: str | None, operations: Operations, caller: Caller | None, patience: float,
    names: tuple[str, ...], as_json: bool,
) -> list[Verdict]:  # fmt: skip
    wire = await Wire.listening(listen)
    process: Process = Child(command, wire.address) if command else ByCommand(restart) if restart else ByHand()
    render.tell(f"listening on {wire.address}")
    verdicts = []
    await process.start()
    try:
        async for verdict in run(Peer(wire, process, operations, patience, caller=caller), chosen(names)):
            verdicts.append(verdict)
            if not as_json:
                _write(verdict)
    except Broken as broken:
        raise Failure(UNREACHABLE, "NO_PARTICIPANT", str(broken), "Start it, and let it dial this address.") from None
    finally:
        if caller is not None:
            await caller.close()
        await process.stop()
        await wire.stop()
    return verdicts


def _write(verdict: Verdict) -> None:
    line = f"{verdict.verdict:8} {verdict.name}"
    render.say(line + (f": {verdict.detail}" if verdict.detail else ""))
    if verdict.verdict == BROKEN:
        render.say(f"         rule: {verdict.rule}")


def _list(verdicts: list[Verdict], as_json: bool) -> int:
    if as_json:
        render.write_json({"cases": [{"name": one.name, "rule": one.rule, "needs": one.detail} for one in verdicts]})
        return 0
    for one in verdicts:
        render.say(f"{one.name}: {one.rule}" + (f" [needs {one.detail}]" if one.detail else ""))
    return 0
