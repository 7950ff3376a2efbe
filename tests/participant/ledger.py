"""A resource of the contract whose store is a Python object that outlives it: for the contract suite and the driver's tests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from participant_sdk.causes import cause_of_operation
from participant_sdk.registry import Registry
from participant_sdk.resources.contract import (
    Begun,
    BranchOutcome,
    Broken,
    Done,
    InDoubt,
    Known,
    OperationRegistry,
    Performed,
    Prepared,
    Refused,
    Resource,
    Unreachable,
)
from troth.errors import Refuse
from troth.v1 import common_pb2, record_pb2


@dataclass
class Store:
    """What survives a process. `faults` are answered, one each time, instead of doing what is named."""

    entries: dict[str, int] = field(default_factory=dict)
    prepared: dict[str, dict[str, int]] = field(default_factory=dict)
    committed: set[str] = field(default_factory=set)
    faults: dict[str, deque[Any]] = field(default_factory=dict)
    rollbacks: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """The rollbacks that were asked for."""
    finishing: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether commits and rollbacks get on: while it is clear, they wait."""
    begun: list[str] = field(default_factory=list)
    """The branches that were begun, in their order."""

    def __post_init__(self) -> None:
        self.finishing.set()

    def fault(self, step: str) -> Any:
        """The fault that stands for a step, if any."""
        waiting = self.faults.get(step)
        return waiting.popleft() if waiting else None


class View:
    """What operations get: the store as this branch sees it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.changes: dict[str, int] = {}

    def get(self, name: str) -> int | None:
        return self.changes.get(name, self._store.entries.get(name))


class LedgerResource:
    """The resource."""

    atomic = False
    async_reason = ""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._views: dict[str, View] = {}
        self._participant = ""
        self._operations: OperationRegistry = Registry()

    def bind(self, participant: str, operations: OperationRegistry) -> None:
        self._participant, self._operations = participant, operations

    async def open(self) -> Done | Unreachable | Broken:
        return self.store.fault("open") or Done()

    async def close(self) -> None:
        self._views.clear()

    async def begin(self, transaction_id: str) -> Begun | Refused | Unreachable:
        branch = f"{self._participant}/{transaction_id}"
        self.store.begun.append(branch)
        self._views[branch] = View(self.store)
        return self.store.fault("begin") or Begun(branch)

    async def execute(self, resource_branch: str, operation: common_pb2.Operation) -> Performed | Refused | Unreachable:
        try:
            value = self._operations.bind(operation)(self._views[resource_branch])
        except Exception as error:
            return Refused(cause_of_operation(error, self._participant, operation.name))
        return self.store.fault("execute") or Performed(value)

    async def prepare(self, resource_branch: str) -> Prepared | Refused | Unreachable:
        changes = self._views.pop(resource_branch).changes
        fault = self.store.fault("prepare")
        if fault is not None:
            return fault  # type: ignore[no-any-return]  # a fault is whatever the test put there
        if changes:
            self.store.prepared[resource_branch] = changes
        return Prepared(bool(changes), rows=[name.encode() for name in changes])

    async def commit(
        self, resource_branch: str, work: record_pb2.BranchWork, *, one_phase: bool
    ) -> Done | Refused | Unreachable | Broken:
        await self.store.finishing.wait()
        fault = self.store.fault("commit")
        if fault is not None:
            return fault  # type: ignore[no-any-return]  # a fault is whatever the test put there
        if one_phase and resource_branch in self._views:
            self.store.prepared[resource_branch] = self._views.pop(resource_branch).changes
        if resource_branch in self.store.prepared:
            self.store.entries.update(self.store.prepared.pop(resource_branch))
            self.store.committed.add(resource_branch)
        return Done() if resource_branch in self.store.committed else Broken("somebody rolled it back")

    async def rollback(self, resource_branch: str, work: record_pb2.BranchWork) -> Done | Unreachable | Broken:
        self.store.rollbacks.put_nowait(resource_branch)
        await self.store.finishing.wait()
        fault = self.store.fault("rollback")
        if fault is not None:
            return fault  # type: ignore[no-any-return]  # a fault is whatever the test put there
        self._views.pop(resource_branch, None)
        self.store.prepared.pop(resource_branch, None)
        return Done()

    async def in_doubt(self) -> InDoubt | Unreachable:
        return self.store.fault("in_doubt") or InDoubt(
            [branch for branch in self.store.prepared if branch.startswith(f"{self._participant}/")]
        )

    async def outcome(self, resource_branch: str) -> Known | Unreachable:
        if resource_branch in self.store.prepared:
            return Known(BranchOutcome.PREPARED)
        committed = resource_branch in self.store.committed
        return Known(BranchOutcome.COMMITTED if committed else BranchOutcome.NEVER_SEEN)

    async def forget(self, resource_branch: str) -> Done | Unreachable:
        self.store.committed.discard(resource_branch)
        return Done()


def register(add: Callable[..., Any]) -> None:
    """Register the contract suite's operations by `add(function)`."""

    def put(view: View, *, name: str, value: int) -> None:
        view.changes[name] = value

    def get(view: View, *, name: str) -> int | None:
        return view.get(name)

    def refuse(view: View, *, name: str, value: int) -> None:
        view.changes[name] = value
        raise Refuse("NO", "it refuses")

    for function in (put, get, refuse):
        add(function)


class LedgerWorkbench:
    """The suite's workbench."""

    def __init__(self) -> None:
        self.store = Store()

    def resource(self) -> Resource:
        return LedgerResource(self.store)

    def register(self, registry: Registry) -> None:
        register(registry.add)

    async def crash(self, resource: Resource) -> None:
        assert isinstance(resource, LedgerResource)
        resource._views.clear()

    async def visible(self, name: str) -> int | None:
        return self.store.entries.get(name)
