"""`troth cell`: the nodes and the shards of a cell."""

from __future__ import annotations

import click

from coordinator.cli import render
from coordinator.cli.command import Command, coordinator_option, json_option
from coordinator.cli.remote import connected
from troth.v1 import admin_pb2


@click.command(cls=Command, examples="troth cell\ntroth cell --json")
@coordinator_option
@json_option
def cell(coordinator: str | None, timeout: float, as_json: bool) -> None:
    """Tell which nodes the cell has, and which shard is where. Ask any node; BACKLOG and UNDECIDED are of its own shards."""
    with connected(coordinator, timeout) as remote:
        response = remote.call(remote.admin.GetCell, admin_pb2.GetCellRequest())
    if as_json:
        render.write_json(render.plain(response))
        return
    if response.nodes:
        nodes = (
            (one.node, one.address, one.shards, _lease(one.lease_seconds), _words(one))
            for one in response.nodes
        )  # fmt: skip
        render.write_table(("NODE", "ADDRESS", "SHARDS", "LEASE", ""), nodes)
        render.say()
    shards = (
        (
            one.coordinator, one.node or "nobody", one.epoch, _lease(one.lease_seconds) if response.nodes else "", one.batches,
            one.backlog if here else "", one.undecided if here else "", "leaving" if one.leaving else one.trouble,
        )
        for one in response.shards
        for here in (one.node == response.node,)
    )  # fmt: skip
    render.write_table(("SHARD", "NODE", "EPOCH", "LEASE", "BATCHES", "BACKLOG", "UNDECIDED", ""), shards)


def _words(node: admin_pb2.NodeSummary) -> str:
    found = ["draining"] if node.draining else []
    if node.HasField("canary") and node.canary < 1 and not node.draining:
        found.append(f"canary {node.canary:g}")
    if node.other_settings:
        found.append(f"other {', '.join(node.other_settings)}")
    return "; ".join(found)


def _lease(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds > 0 else "lapsed"
