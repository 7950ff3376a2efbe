"""Scripted transcripts: what goes into a core and what comes out, readable without Python (compare etcd-raft's `testdata`).

    # Rule 1: no YES before PREPARED is durable.
    prepare T1 order=1 operations=debit keys=account/a
        write  branch_prepared T1, forced, with execute
    sync
        say    vote T1 YES

A line in the first column is a command, indented ones are what it gave, `#` begins a remark. Transactions are written `T1`,
`T2`; `T1@6` is one of epoch 6. `pytest --rewrite` writes what happens now; the diff is then to be reviewed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from troth.v1 import common_pb2

INDENT = "    "
EPOCH = 7
NONCE = "9f2c4e1a"
_ID = re.compile(rf"c1\.(\d+)\.{NONCE}\.1\.(\d+)")


@dataclass
class Command:
    """One line: a verb, words, and `name=value` settings."""

    text: str
    verb: str = ""
    words: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.verb, *rest = shlex.split(self.text)
        for word in rest:
            name, equals, value = word.partition("=")
            if equals:
                self.settings[name] = value
            else:
                self.words.append(word)

    def number(self, name: str, default: int = 0) -> int:
        """A setting that is a number."""
        return int(self.settings.get(name, default))

    def items(self, name: str, default: str = "") -> list[str]:
        """A setting that is a list with commas."""
        return [item for item in self.settings.get(name, default).split(",") if item]

    def has(self, word: str) -> bool:
        """Whether a word is there."""
        return word in self.words


class Driver(Protocol):
    """Carries commands out."""

    def run(self, command: Command) -> Sequence[str]:
        """The lines that the command gave."""


_MUTANT = "# Mutant: "


def mutants_named(path: Path) -> list[str]:
    """The mutants that a transcript says it catches."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(_MUTANT) for line in lines if line.startswith(_MUTANT)]


def check(path: Path, driver: Driver, rewrite: bool) -> None:
    """Run a transcript and compare, or write it again. A mismatch shows the whole transcript as it is now."""
    written = path.read_text(encoding="utf-8")
    lines: list[str] = []
    for part in _parts(written):
        if isinstance(part, str):
            lines.append(part)
        else:
            lines.append(part.text)
            lines.extend(INDENT + line for line in driver.run(part))
    now = "\n".join(lines).rstrip() + "\n"
    if rewrite:
        path.write_text(now, encoding="utf-8")
    else:
        assert now.splitlines() == written.rstrip().splitlines(), f"{path.name} differs; --rewrite shows it as a diff"


def _parts(text: str) -> Iterator[str | Command]:
    """Remarks and empty lines as they are, commands parsed, what was expected left out."""
    for line in text.splitlines():
        if line.startswith(INDENT):
            continue
        yield line if not line.strip() or line.startswith("#") else Command(line)


# ---- names


def transaction_id(name: str) -> str:
    """The id that a transcript writes as `T1` or `T1@6`."""
    if not re.fullmatch(r"T\d+(@\d+)?", name):
        return name
    number, _, epoch = name[1:].partition("@")
    return f"c1.{epoch or EPOCH}.{NONCE}.1.{number}"


def short(text: str) -> str:
    """A text with ids as a transcript writes them."""
    return _ID.sub(lambda match: f"T{match[2]}" + ("" if int(match[1]) == EPOCH else f"@{match[1]}"), text)


# ---- messages


def describe(message: Message) -> str:
    """A message in one line: the transaction, then every field that is set. Enums without their prefix, causes by reason."""
    found = [short(str(getattr(message, "transaction_id", "")))]
    for descriptor, value in message.ListFields():
        if descriptor.name != "transaction_id":
            found.append(_field(descriptor, value))
    return " ".join(filter(None, found))


def _field(descriptor: FieldDescriptor, value: Any) -> str:
    name = descriptor.name
    if name == "results" and isinstance(value, bytes):
        value = common_pb2.Results.FromString(value)
    if isinstance(value, common_pb2.Results):
        return f"results=[{', '.join(str(getattr(one, one.WhichOneof('kind') or 'text')) for one in value.values)}]"
    if descriptor.type == FieldDescriptor.TYPE_ENUM:
        values = descriptor.enum_type.values_by_number
        text = values[value].name.removeprefix(_prefix(values[0].name))
        return text if name in ("kind", "state", "outcome") else f"{name}={text}"
    if descriptor.type == FieldDescriptor.TYPE_BOOL:
        return name
    if name in ("cause", "refusal"):
        return f"{name}={value.reason}" + (" (retryable)" if value.retryable else "")
    if descriptor.type == FieldDescriptor.TYPE_MESSAGE and not descriptor.is_repeated:
        return f"{name}=({describe(value)})"
    if descriptor.is_repeated:
        return f"{name}=[{', '.join(_item(item) for item in value)}]"
    return f"{name}={_item(value)}"


def _prefix(unspecified: str) -> str:
    return unspecified.removesuffix("UNSPECIFIED")


def _item(value: Any) -> str:
    if isinstance(value, Message):
        return describe(value)
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 16 else f"{len(value)} bytes"
    text = short(str(value))
    return repr(text) if " " in text else text
