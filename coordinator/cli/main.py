"""The command tree, and the one place where a failure becomes an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from coordinator.cli import render
from coordinator.cli.command import Commands, Group
from coordinator.cli.failure import INTERRUPTED, OK, USAGE, AlreadyTold, Failure, failure_of
from troth import __version__
from troth.errors import TrothError
from troth.packages import what_is_missing

EXAMPLES = """
troth serve --data-directory var/c1                 # run a coordinator
troth txn list                                      # what is not finished
troth txn explain c1.7.9f2c4e1a.3.42                # why it is where it is, and what to do
troth participants                                  # who is connected, who owes what
troth log verify var/c1/coordinator.db              # is a log sound?
troth backup var/c1 --to /backup/c1-0412            # a copy that is consistent, while it runs
troth doctor --dsn postgresql://db/bank             # is a service's database fit, and what is in doubt there?
troth outbox list --dsn postgresql://db/bank        # messages that could not be delivered
troth reconcile --dsn postgresql://db/bank          # does everybody hold what the coordinator says?
troth config show                                   # every setting, and where it comes from
troth demo                                          # a shop that survives kill -9
troth dev                                           # try it: a coordinator, its console, three services
"""


COMMANDS = Commands({
    **{name: f"coordinator.cli.{name}:{name}" for name in (
        "serve", "txn", "participants", "drain", "cell", "log", "store", "backup", "reconcile", "pki", "token", "keys", "policy",
        "audit", "review", "config", "demo", "conform", "doctor", "outbox", "version",
    )},
    "status": "coordinator.cli.drain:status",
    "restore": "coordinator.cli.backup:restore",
    "dev": "coordinator.cli.demo:dev",
})  # fmt: skip


@click.group(cls=Group, examples=EXAMPLES, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="troth")
def troth() -> None:
    """Two-phase commit for services: everywhere or nowhere.

    Exit codes: 0 ok, 1 refused, 2 usage or configuration, 3 the log cannot be used, 4 the coordinator cannot be reached.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; always raises SystemExit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code."""
    as_json = "--json" in arguments
    try:
        result = troth.main(list(arguments), prog_name="troth", standalone_mode=False)
    except Failure as failure:
        return _failed(failure, as_json)
    except TrothError as error:
        return _failed(failure_of(error), as_json)
    except click.ClickException as error:
        if as_json:
            return _failed(Failure(USAGE, "USAGE", error.format_message()), as_json)
        error.show()
        return USAGE
    except ModuleNotFoundError as error:
        if not (missing := what_is_missing(error)):
            raise
        return _failed(Failure(USAGE, "CONFIG", missing), as_json)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except render.ReaderGone:
        sys.stdout = None  # or the interpreter fails again when it closes it
        return OK
    return result if isinstance(result, int) else OK


def _failed(failure: Failure, as_json: bool) -> int:
    if as_json and not isinstance(failure, AlreadyTold):
        render.write_json(failure.document())
    render.tell(f"troth: {failure.text()}")
    return failure.exit_code
