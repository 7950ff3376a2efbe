"""What commands print: one JSON document, a table on a terminal, or plain text with tabs in a pipe.

Names, keys, causes and ids come from peers, so nothing is printed that a terminal would obey (`visible`).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from troth.logs import is_obeyed, visible

if TYPE_CHECKING:
    from google.protobuf.message import Message


def json_text(document: Any, indent: int | None = None) -> str:
    """A document as JSON. What a terminal would obey is escaped in JSON's own way."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(one if one == "\n" or not is_obeyed(one) else json.dumps(one)[1:-1] for one in text)


class ReaderGone(Exception):
    """Whoever reads our output has closed it; there is nobody to tell."""


def _print(text: str | bytes, *, newline: bool = True) -> None:
    """Print data. click would end the process with 1, which means something else here."""
    try:
        click.echo(text, nl=newline)
    except BrokenPipeError:
        raise ReaderGone from None


def write_json(document: Any) -> None:
    """Print one JSON document."""
    _print(json_text(document, indent=2))


def write_part(text: str) -> None:
    """Print a part of a JSON document that grows."""
    _print(text, newline=False)


def write_bytes(content: bytes) -> None:
    """Print bytes as they are, for a file or another program; for a terminal, in a form that it does not obey."""
    _print(visible(content.decode(errors="backslashreplace")) if sys.stdout.isatty() else content, newline=False)


def answer(response: Message, as_json: bool, *words: Any) -> None:
    """Say what was done: the whole response as JSON, or in words."""
    if as_json:
        write_json(plain(response))
    else:
        say(*words)


def say(*cells: Any) -> None:
    """Print one line of data, its cells with tabs between them."""
    _print("\t".join(visible(cell(value)) for value in cells))


def write_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows: a table on a terminal, tabs in a pipe."""
    texts = [[visible(cell(value)) for value in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console  # in a pipe none of it is needed
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in texts:
            table.add_row(*(Text(text) for text in row))
        Console().print(table)
        return
    for line in (list(columns), *texts):
        _print("\t".join(line))


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows as CSV (RFC 4180, but for lines that end as this system's do), with the same cells as a table."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow([column.lower() for column in columns])
    writer.writerows([[visible(cell(value)) for value in row] for row in rows])
    _print(lines.getvalue(), newline=False)


def write_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, one pair a line; empty values are left out."""
    pairs = [(name, visible(cell(value))) for name, value in facts]
    shown = [(name, text) for name, text in pairs if text]
    width = max((len(name) for name, _ in shown), default=0) if sys.stdout.isatty() else 0
    for name, text in shown:
        _print(f"{name:<{width}}  {text}" if width else f"{name}\t{text}")


def cell(value: Any) -> str:
    """The text of one value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return "" if value is None else str(value)


def tell(text: str) -> None:
    """Talk to the person, not to the pipe. That nobody listens any more is no reason to end."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(visible(text), err=True)


# ---- messages


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON knows it: all fields, enums by name without their prefix, bytes in hexadecimal."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields if _shown(message, field)}


def _shown(message: Message, field: Any) -> bool:
    return not field.has_presence or message.HasField(field.name)


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _value(value[key], inner) for key in sorted(value)}
    if field.is_repeated:
        return [_value(item, field) for item in value]
    return _value(value, field)


def _value(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return enum_name(value, field)
    return value.hex() if isinstance(value, bytes) else value


def enum_name(value: int, field: Any) -> str:
    """The name of an enum value without the prefix that its type gives to all."""
    assert field.enum_type is not None
    known = field.enum_type.values_by_number.get(value)
    if known is None:
        return str(value)
    names = [one.name for one in field.enum_type.values]
    prefix = names[0].removesuffix("UNSPECIFIED")
    name: str = known.name.removeprefix(prefix)
    return name
