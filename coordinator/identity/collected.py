"""Audit logs that were collected from the nodes of a cell.

Nodes decide, so nodes record: each has a chain of its own, and each is verified by itself. Together, by time, they are what
people did to the cell. A log names its node itself, in what begins it and in each signed checkpoint; so one that was put in
another's place shows, and one that is missing does where somebody names its node, or has kept a checkpoint of it.

The order of entries of one node is that of its chain. Between nodes it is as good as their clocks. What belongs together is tied
by more than time: the object, the id of a request (its `asked` and `done`, at one node), and the id of a review, which goes with
its shard: who asked is in the log of the node that had it then, and who approved in that of the node that had it later.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.identity.audit import files_of, lines_of

LINKS = ("request", "review")
"""The ids that tie entries together."""


@dataclass(frozen=True, slots=True)
class Place:
    """A directory with an audit log, and whose it is to be; empty where nobody has said so."""

    node: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry, and the node whose log has it."""

    node: str
    entry: Mapping[str, Any]


def entries_of(directory: Path) -> Iterator[dict[str, Any]]:
    """The entries of one log; what is none is left to `verify`. Raises `ConfigError` where there is no log."""
    for line in lines_of(directory):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def node_of(directory: Path) -> str:
    """The node whose log it is, as the log says it last; empty where it does not say."""
    return next((str(one["chain"]) for one in reversed(list(entries_of(directory))) if "chain" in one), "")


def collect(places: Sequence[Place]) -> tuple[dict[str, Path], list[str]]:
    """The logs by node, and what is wrong with the collection: a log that is missing, that is another node's, or that is there
    twice."""
    logs: dict[str, Path] = {}
    problems = []
    for place in places:
        if not files_of(place.directory):
            problems.append(f"{place.node or place.directory}: its audit log is missing: there is none in {place.directory}")
            continue
        says = node_of(place.directory)
        node = place.node or says or str(place.directory)
        if says and says != node:
            problems.append(f"{node}: the audit log in {place.directory} is of {says}")
        if node in logs:
            problems.append(f"{node}: both {logs[node]} and {place.directory} are its audit log")
            node = str(place.directory)
        logs[node] = place.directory
    return logs, problems


def merged(logs: Mapping[str, Path]) -> Iterator[Placed]:
    """The entries of all logs by time, those of each node in the order of its chain."""
    for _, _, placed in heapq.merge(*(_timed(node, logs[node]) for node in sorted(logs)), key=lambda one: one[:2]):
        yield placed


def _timed(node: str, directory: Path) -> Iterator[tuple[str, str, Placed]]:
    latest = ""
    for entry in entries_of(directory):
        latest = max(latest, str(entry.get("at", "")))  # a clock that was set back changes nothing about a chain's order
        yield latest, node, Placed(node, entry)


def about(entries: Iterable[Placed], what: str) -> list[Placed]:
    """Those entries that are about something (a transaction, a participant, a request, a review), and those that a request or
    a review ties to them."""
    found = list(entries)
    tied = {what}
    known = 0
    while known != len(tied):
        known = len(tied)
        for one in found:
            if _is_about(one.entry, what, tied):
                tied.update(str(one.entry[link]) for link in LINKS if one.entry.get(link))
    return [one for one in found if _is_about(one.entry, what, tied)]


def _is_about(entry: Mapping[str, Any], what: str, tied: set[str]) -> bool:
    return what in str(entry.get("object", "")).split() or any(entry.get(link) in tied for link in LINKS)
