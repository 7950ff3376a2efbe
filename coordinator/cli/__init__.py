"""The command line `troth`.

Data goes to stdout, talk to stderr. `--json` makes stdout one JSON document, also when something fails. On a terminal there are
tables, in a pipe there is plain text with tabs.

    0  ok                                  3  the log failed, or cannot be used
    1  the request was refused             4  the coordinator cannot be reached
    2  usage or configuration is wrong   130  interrupted
"""

from __future__ import annotations

import os

# gRPC's C core otherwise writes of every scanner that knocks at the port, in a form of its own.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from coordinator.cli.main import main

__all__ = ["main"]
