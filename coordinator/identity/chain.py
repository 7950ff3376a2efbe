"""The chain of an audit log: what makes a change of it show.

Each entry is one line of JSON, with the hash of the one before it and its own:

    {"seq": 7, "at": "2026-11-30T01:02:03.456Z", "kind": "refused", ..., "prev": "1f0c...", "hash": "9a41..."}

So an entry that was changed does not fit its hash, and one that was dropped, put in, or put elsewhere does not fit its
neighbours (Haber and Stornetta, "How to Time-Stamp a Digital Document", 1991, section 5.1). Whoever can write the file can make
the whole chain anew, or cut its end. That shows by *checkpoints*: entries that sign how far the chain is, with a key that need
not lie on the same machine's disk in the clear, and that can be kept elsewhere. `verify` finds what was done to everything up
to the last checkpoint that it is given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Entry = Mapping[str, Any]

FIRST = "0" * 64
"""The hash before the first entry."""
CHECKPOINT = "checkpoint"
DROPPED = "dropped"
"""The kind of the entry that says through which one older entries were dropped, by the retention."""
PROBLEMS_MAX = 100
"""Problems that are told; after a change everything behind it may be wrong."""


class Signer(Protocol):
    """A private key."""

    def sign(self, data: bytes) -> bytes:
        """Sign."""


class Verifier(Protocol):
    """A public key."""

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise when the signature is not of this key and these data."""


def canonical(document: Mapping[str, Any]) -> bytes:
    """A document in the one form that is hashed."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def hash_of(entry: Entry) -> str:
    """The hash of an entry, over all of it but the hash itself."""
    return hashlib.sha256(canonical({name: value for name, value in entry.items() if name != "hash"})).hexdigest()


def linked(fields: Mapping[str, Any], seq: int, prev: str) -> dict[str, Any]:
    """An entry in its place."""
    entry = {"seq": seq, **fields, "prev": prev}
    return {**entry, "hash": hash_of(entry)}


def what_is_signed(chain: str, seq: int, prev: str) -> bytes:
    """What a checkpoint signs: that the entry before it is the last of the chain, and what it was."""
    return canonical({"chain": chain, "seq": seq, "prev": prev, "what": "troth audit checkpoint"})


def checkpoint(chain: str, at: str, seq: int, prev: str, signer: Signer) -> dict[str, Any]:
    """A checkpoint in its place."""
    signature = signer.sign(what_is_signed(chain, seq, prev)).hex()
    return linked({"at": at, "kind": CHECKPOINT, "chain": chain, "signature": signature}, seq, prev)


@dataclass(slots=True)
class Verdict:
    """What a look at a chain has found."""

    entries: int = 0
    first: int = 0
    last: int = 0
    checkpoints: int = 0
    signed_through: int = 0
    """The seq of the last checkpoint whose signature is right; what follows it may have been cut or made anew without a trace."""
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        """Remember a problem."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)


def verify(
    lines: Iterable[bytes], verifier: Verifier | None = None, known: Entry | None = None, first: int = 1
) -> Verdict:  # fmt: skip
    """Look at a chain, line by line. `known` is the last checkpoint that somebody has kept elsewhere; `first` the entry that
    has to be the first one, where older files were put away."""
    verdict = Verdict()
    prev: str | None = None
    begins_after = ""
    seen_known = known is None
    dropped_through: Entry = {}
    for number, line in enumerate(lines, 1):
        entry = _read(line, number, verdict)
        if entry is None:
            continue
        begins_after = begins_after or str(entry.get("prev"))
        _look(entry, prev, verdict)
        if entry.get("kind") == DROPPED:
            dropped_through = entry
        if verifier is not None and entry.get("kind") == CHECKPOINT:
            _look_at_signature(entry, verifier, verdict)
        seen_known |= known is not None and entry.get("seq") == known.get("seq") and entry.get("hash") == known.get("hash")
        prev = str(entry.get("hash"))
    said = dropped_through.get("through") == verdict.first - 1 and dropped_through.get("through_hash") == begins_after
    if verdict.first != first and not said:
        verdict.note(f"the first entry is {verdict.first or 'missing'}, and not {first}: older ones were dropped")
    if known is not None and verifier is not None:
        _look_at_signature(known, verifier, Verdict(problems=verdict.problems))
    if said and known is not None and known.get("seq", 0) < verdict.first:
        verdict.note(f"the checkpoint {known.get('seq')} that was kept is of entries that were dropped since: keep a newer one")
    elif known is not None and not seen_known:
        verdict.note(f"the checkpoint {known.get('seq')} that was kept is not in it: entries were cut off, or made anew")
    return verdict


def _read(line: bytes, number: int, verdict: Verdict) -> Entry | None:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("seq"), int):
        verdict.note(f"line {number} is no entry")
        return None
    return entry


def _look(entry: Entry, prev: str | None, verdict: Verdict) -> None:
    seq = entry["seq"]
    if verdict.entries and seq != verdict.last + 1:
        verdict.note(f"after entry {verdict.last} comes {seq}: entries were dropped, put in, or put elsewhere")
    if entry.get("hash") != hash_of(entry):
        verdict.note(f"entry {seq} was changed")
    if (prev if prev is not None else entry.get("prev")) != entry.get("prev") or (seq == 1 and entry.get("prev") != FIRST):
        verdict.note(f"entry {seq} does not follow the one before it")
    if not verdict.entries:
        verdict.first = seq
    verdict.entries, verdict.last = verdict.entries + 1, seq


def _look_at_signature(entry: Entry, verifier: Verifier, verdict: Verdict) -> None:
    verdict.checkpoints += 1
    try:
        signed = what_is_signed(str(entry["chain"]), entry["seq"], str(entry["prev"]))
        verifier.verify(bytes.fromhex(str(entry["signature"])), signed)
    except Exception:  # each library's signature errors are its own
        verdict.note(f"the signature of checkpoint {entry['seq']} is not of this key")
    else:
        verdict.signed_through = entry["seq"]
