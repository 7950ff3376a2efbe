"""The command tree, and the one place where a failure becomes an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from coordinator.cli import render
from coordinator.cli.command import Commands, Group, Later
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


COMMANDS = Commands(
    Later("serve", "Run the coordinator until SIGTERM or SIGINT."),
    Later("txn", "See, understand and force transactions."),
    Later("participants", "List participants, or let another log take over a name."),
    Later("drain", "Refuse new transactions."),
    Later("cell", "Tell which nodes the cell has, and which shard is where."),
    Later("log", "Verify, read or mend the log of a process that does not run."),
    Later("store", "Make, look at or upgrade a store: a PostgreSQL database that the nodes of a cell share."),
    Later("backup", "Copy the logs of a process while it runs: consistent, verified, and whole or not at all."),
    Later("reconcile", "Compare what the coordinator says with what participants hold."),
    Later("pki", "Make and renew certificates."),
    Later("token", "Make, list and take back bearer tokens, in a file that the setting `tokens` names."),
    Later(
        "keys",
        "Make, show and rotate keys that seal payload in logs: the setting `payload_keys`, and `Participant(payload_keys=...)`.",
    ),
    Later("policy", "Check a policy, and explain what it decides."),
    Later("audit", "Show, verify or export the audit log of a coordinator, on its machine."),
    Later("review", "List, approve or reject what others have asked for (four eyes)."),
    Later("config", "Show or check the daemon's settings, or have it read them again."),
    Later("demo", "Run the shop: orders over three services while everything is being killed."),
    Later(
        "conform",
        "Run a participant, in any language, against a coordinator that follows a script, and tell which rules it breaks.",
    ),
    Later("doctor", "Look at a service's database: settings, privileges, and prepared transactions with what they block."),
    Later("outbox", "Look at a service's outbox, and say what becomes of messages that could not be delivered."),
    Later("version", "Tell the versions of what runs here."),
    Later(
        "status",
        "Tell the daemon's identity, counters and limits, and how full those are that fill up.",
        "coordinator.cli.drain:status",
    ),
    Later("restore", "Put a backup back, and say first what that means.", "coordinator.cli.backup:restore"),
    Later(
        "dev",
        "Try it out: a coordinator, its console and three services, with a page to place orders and to crash one of them.",
        "coordinator.cli.demo:dev",
    ),
)
"""Each with the first sentence of its own help."""


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
