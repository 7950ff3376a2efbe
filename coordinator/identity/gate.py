"""The gate: everything that comes in is asked about here, against the policy that is in force.

Without a policy the gate is open: on loopback, or where somebody has said so (`policy = "open"`). In a dry run everything is
allowed, and what would not be is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from coordinator.identity import asked
from coordinator.identity.followed import Followed
from coordinator.identity.policy import DRY_RUN, EVERYTHING, NOBODY_NAME, Decision, Policy, decide, parse
from coordinator.identity.who import Witness
from coordinator.shell_settings import ShellSettings
from troth.errors import Reason, RequestError
from troth.identity.peer import Identity, named
from troth.ids import service_of
from troth.logs import get_logger
from troth.quiet import Quiet

log = get_logger("troth.gate")

OPEN_POLICY = "open"
"""The value of the setting `policy` that lets everybody do anything."""
SHARD_METADATA = "troth-shard"
"""Names the shard that a call was passed on to. A node that has not got it (any more) refuses the call."""
CALLER_METADATA = "troth-caller-bin"
"""Says whose call it is that another node of the cell has passed on."""
REMEMBERED_MAX = 65_536
"""Decisions that are remembered; then all are forgotten. A decision is as good as the policy that made it, and goes with it."""


class Mode(Enum):
    """How the gate stands."""

    OPEN = "open"
    DRY_RUN = "dry-run"
    CLOSED = "closed"


class Gate:
    """Decides what callers may do. Making it raises `ConfigError` for a policy that cannot be used."""

    def __init__(
        self, shell: ShellSettings, witness: Witness, quiet: Quiet,
        judge: Callable[[Policy, str, str, str], Decision] = decide, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.use(shell)
        self._clock = clock
        self._begun: dict[str, int] = {}
        """What each identity has begun in the present second."""
        self._second = 0
        self._witness, self._quiet, self._judge = witness, quiet, judge
        named = shell.policy and shell.policy != OPEN_POLICY
        self._policy = Followed(shell.policy, parse) if named else None
        self._remembered: dict[tuple[str, str, str], Decision] = {}
        self._remembered_of = 0
        """Of which version of the policy they are."""
        self.refused = 0
        """What was refused, or in a dry run would have been, since the start."""
        self.on_refusal: Callable[[Identity, str, str, str], None] = lambda identity, action, object_name, why: None
        """Hears of each, with who, what, on which object, and why."""

    def use(self, shell: ShellSettings) -> None:
        """Have another limit from now on."""
        self._begins_per_second = shell.identity_begins_per_second

    @property
    def mode(self) -> Mode:
        """How it stands now."""
        if self._policy is None:
            return Mode.OPEN
        return Mode.DRY_RUN if self._policy().mode == DRY_RUN else Mode.CLOSED

    @property
    def policy(self) -> Followed[Policy] | None:
        """The file that is followed; `None` where the gate is open."""
        return self._policy

    def decision(self, name: str, action: str, object_name: str) -> Decision:
        """What the policy says, remembered. Raises nothing, tells nobody."""
        followed = self._policy
        if followed is None:
            return Decision(True, "there is no policy")
        policy = followed()
        if followed.versions != self._remembered_of or len(self._remembered) > REMEMBERED_MAX:
            self._remembered.clear()
            self._remembered_of = followed.versions
        key = (name, action, object_name)
        decision = self._remembered.get(key)
        if decision is None:
            decision = self._remembered[key] = self._judge(policy, name, action, object_name)
        return decision

    def why_not(self, identity: Identity, asked_for: Iterable[asked.Asked]) -> str:
        """Why an identity may not do all of this; empty when it may. Of a refusal everybody is told who has to know of it."""
        if self._policy is None:
            return ""
        for action, object_name in asked_for:
            decision = self.decision(identity.name, action, object_name)
            if not decision.allowed and self.refuse(identity, action, object_name, decision.why):
                return decision.why
        return ""

    def refuse(self, identity: Identity, action: str, object_name: str, why: str) -> bool:
        """Tell of a refusal; returns whether it is one, and not a dry run."""
        closed = self.mode is Mode.CLOSED
        self.refused += 1
        text = "refused by the policy" if closed else "a dry run: the policy would refuse"
        self._quiet.tell(log.warning, text, caller=str(identity), action=action, object=object_name, why=why)
        self.on_refusal(identity, action, object_name, why)
        return closed

    def require(self, identity: Identity, asked_for: Iterable[asked.Asked]) -> None:
        """Raise `RequestError` (FORBIDDEN) unless an identity may do all of this."""
        why = self.why_not(identity, asked_for)
        if why:
            raise RequestError(Reason.FORBIDDEN, why)

    def is_node(self, identity: Identity, metadata: Any) -> bool:
        """Whether a call was passed on by another node of the cell, or asked for by one."""
        passed_on = any(key == SHARD_METADATA for key, _ in metadata or ())
        return passed_on and self.decision(identity.name, "forward", EVERYTHING).allowed

    def too_fast(self, identity: Identity) -> str:
        """Why an identity may begin nothing more in this second; empty when it may."""
        if not self._begins_per_second or not identity.name:
            return ""
        second = int(self._clock())
        if second != self._second:
            self._begun, self._second = {}, second
        self._begun[identity.name] = begun = self._begun.get(identity.name, 0) + 1
        if begun <= self._begins_per_second:
            return ""
        return f"{identity} begins more than {self._begins_per_second} transactions a second (identity_begins_per_second)"

    # ---- whose a transaction is

    def owner_name(self, identity: Identity) -> str:
        """The owner of what an identity begins; empty where nobody is asked for his."""
        return (identity.name or NOBODY_NAME) if self.mode is Mode.CLOSED else ""

    def acts_as(self, identity: Identity, action: str, owner: str | None) -> str:
        """In whose name somebody ends, reads or watches a transaction: his own, or its owner's where the policy lets him. Raises
        `RequestError` (FORBIDDEN)."""
        name = identity.name or NOBODY_NAME
        if self._policy is None or not owner or owner == name:
            return self.owner_name(identity)
        self.require(identity, ((action, owner),))
        return owner if self.mode is Mode.CLOSED else ""

    def invites(self, owner: str, service: str) -> bool:
        """Whether whoever began a transaction may have a participant work in it."""
        asked_for = asked.interactive(service)
        decision = self.decision(owner, "begin", asked_for)
        return decision.allowed or not self.refuse(named(owner), "begin", asked_for, decision.why)

    # ---- calls and streams

    def behind(self, identity: Identity, metadata: Any) -> Identity:
        """Whose a call is that a node has passed on. Raises `RequestError` (FORBIDDEN) when somebody else says so."""
        if self._policy is None:
            return identity
        for key, value in metadata or ():
            if key == CALLER_METADATA:
                self.require(identity, (("forward", EVERYTHING),))
                return named(bytes(value).decode("utf-8", "replace"))
        return identity

    def call(self, identity: Identity, method: str, request: Any) -> None:
        """A unary call, or the opening of a stream. Raises `RequestError` (FORBIDDEN)."""
        if self._policy is None:
            return
        ask = asked.CALLS.get(method)
        if ask is None:
            self._refuse_unknown(identity, f"the method {method}")
        elif ask is asked.about_own:
            self.client_hello(identity)
        else:
            self.require(identity, ask(request))

    def client_hello(self, identity: Identity) -> None:
        """A client's stream begins, or somebody asks about a transaction that may be his. Raises `RequestError` (FORBIDDEN)."""
        if self._policy is None or any(self.decision(identity.name, action, asked.ANY).allowed for action in asked.HELLO):
            return
        why = f"no grant gives {identity.name or NOBODY_NAME} anything that a client does"
        if self.refuse(identity, asked.HELLO[0], asked.ANY, why):
            raise RequestError(Reason.FORBIDDEN, why)

    def client_frame(self, identity: Identity, frame: Any) -> None:
        """A frame of a client, as a whole; each of its requests is asked about where it is answered (`why_not`). Raises
        `RequestError` (FORBIDDEN, TOKEN_EXPIRED), which ends the stream."""
        if self._policy is not None:
            self._witness.check(identity)
            for field, _ in frame.ListFields():
                if field.name not in asked.CONNECT:
                    self._refuse_unknown(identity, f"the field {field.name}")

    def participant_frame(self, identity: Identity, name: str, frame: Any) -> None:
        """A frame of a participant. Raises `RequestError` (FORBIDDEN, TOKEN_EXPIRED), which ends the stream."""
        if self._policy is None:
            return
        self._witness.check(identity)
        object_name = service_of(name)
        for field, _ in frame.ListFields():
            action = asked.SESSION.get(field.name)
            if action is None:
                self._refuse_unknown(identity, f"the field {field.name}")
            else:
                self.require(identity, ((action, object_name),))

    def _refuse_unknown(self, identity: Identity, what: str) -> None:
        why = f"{what} is not among what a policy decides about"
        if self.refuse(identity, "unknown", what, why):
            raise RequestError(Reason.FORBIDDEN, why)
