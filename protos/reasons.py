"""Writes reason.proto: every reason of `troth.errors`, as an enum for the generated code of other languages.

Run by scripts/generate. Numbers are kept, and new reasons get the next ones.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from troth.errors import Reason  # noqa: E402 - the root of the clone must be on the path first

FILE = ROOT / "protos" / "troth" / "v1" / "reason.proto"
HEAD = """\
// The stable reasons. Written by protos/reasons.py from the table in troth/errors.py.
syntax = "proto3";

package troth.v1;

// Reason names each reason that may stand in Cause.reason and in ErrorInfo.reason. There it travels as its name without the
// prefix, such as "CONFLICT", so that a reason newer than its reader stays readable: take one that you do not know by the outcome,
// and by `retryable`. Behind each stands its gRPC code in unary calls, whether a retry may help, and what to do.
enum Reason {
  // Not a legal value on the wire.
  REASON_UNSPECIFIED = 0;
"""


def main() -> None:
    """Write the file."""
    known = dict(re.findall(r"  REASON_(\w+) = (\d+);", FILE.read_text() if FILE.exists() else ""))
    numbers = {name: int(number) for name, number in known.items() if name != "UNSPECIFIED"}
    gone = numbers.keys() - Reason.__members__.keys()
    assert not gone, f"reasons are only added, and {sorted(gone)} are gone"
    for reason in Reason:
        numbers.setdefault(reason.name, max(numbers.values(), default=0) + 1)
    text = HEAD
    for name, number in sorted(numbers.items(), key=lambda item: item[1]):
        reason = Reason[name]
        about = f"{reason.grpc_code}{', retryable' if reason.retryable else ''}. {reason.hint}"
        lines = textwrap.wrap(about, 124)
        text += "".join(f"  // {line}\n" for line in lines) + f"  REASON_{name} = {number};\n"
    FILE.write_text(text + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
