"""What commands print: one JSON document, a table on a terminal, or plain text with tabs in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text


def write_json(document: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def write_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows: a table on a terminal, tabs in a pipe."""
    texts = [[cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in texts:
            table.add_row(*(Text(text) for text in row))
        Console().print(table)
        return
    click.echo("\t".join(columns))
    for row in texts:
        click.echo("\t".join(" ".join(text.split()) for text in row))


def write_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, one pair a line; empty values are left out."""
    pairs = [(name, cell(value)) for name, value in facts]
    shown = [(name, text) for name, text in pairs if text]
    width = max((len(name) for name, _ in shown), default=0) if sys.stdout.isatty() else 0
    for name, text in shown:
        click.echo(f"{name:<{width}}  {text}" if width else f"{name}\t{text}")


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
    """Talk to the person, not to the pipe."""
    click.echo(text, err=True)


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
    if isinstance(value, Message):
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
