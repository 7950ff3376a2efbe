"""`troth demo`: runs the shop of the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from coordinator.cli.command import Command
from coordinator.cli.failure import USAGE, Failure

CHECKOUT = Path(__file__).resolve().parents[2]
DEMO = CHECKOUT / "examples" / "shop" / "demo.py"


@click.command(
    cls=Command,
    examples="troth demo\ntroth demo --orders my-orders.csv",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> int:
    """Run the shop: orders over three services while everything is being killed."""
    if not DEMO.is_file():
        raise Failure(
            USAGE, "NO_CHECKOUT", f"the demo is not installed: there is no {DEMO}",
            "Clone the repository and run ./scripts/demo there.",
        )  # fmt: skip
    return subprocess.run([sys.executable, str(DEMO), *arguments], check=False).returncode
