"""What it costs to be closed: TLS both ways and a policy, against neither, in the same run."""

from __future__ import annotations

from contextlib import AsyncExitStack
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import Result, measure
from coordinator.pki import authority
from troth.identity.tls import Tls

if TYPE_CHECKING:
    from bench.stages import Bench

ROUNDS = 3
"""The two are measured in turns, since the machine is not always equally fast."""
CALLERS = (128, 1024)
CLIENT, OPERATOR = "spiffe://bench/client", "spiffe://bench/operator"


class Closed:
    """An authority and a policy for one cluster, in files."""

    def __init__(self, directory: Path, participants: list[str]) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._authorities = authority.init(directory / "pki", "bench")
        grants = [f'[[grant]]\nto = ["spiffe://bench/{name}"]\nparticipate = ["{name}"]\n' for name in participants]
        grants.append(f'[[grant]]\nto = ["{CLIENT}"]\nbegin = ["*"]\n\n[[grant]]\nto = ["{OPERATOR}"]\nroles = ["administrator"]\n')
        self._policy = directory / "policy.toml"
        self._policy.write_text("\n".join(grants))
        self._policy.chmod(0o600)

    def tls(self, file: str, *names: str) -> Tls:
        """A certificate with these names."""
        certificate = authority.issue(self._directory / "pki", file, names, 1)
        return Tls(self._authorities, certificate, certificate.with_suffix(".key"))

    def settings(self) -> tuple[str, ...]:
        """The coordinator's."""
        tls = self.tls("coordinator", "localhost", "127.0.0.1")
        files = f"tls_authorities={tls.authorities}", f"tls_certificate={tls.certificate}", f"tls_key={tls.key}"
        return (*files, f"policy={self._policy}")


def share(results: dict[str, Result], callers: int) -> float:
    """The rate of the closed one to that of the open one, over all rounds; nan where that was not measured."""
    turns = {kind: [results.get(f"{kind} {callers} {turn}") for turn in range(ROUNDS)] for kind in ("open", "closed")}
    rates = {kind: sum(one.rate if one is not None else nan for one in found) for kind, found in turns.items()}
    return rates["closed"] / rates["open"]


async def closed(bench: Bench) -> None:
    """One-shot transactions over two log-only participants, open and closed."""
    from bench.cluster import Cluster
    from bench.stages import PAIR, one_shot

    names = [name for group in PAIR for name in group]
    async with AsyncExitStack() as stack:
        clusters = {}
        for kind in ("open", "closed"):
            directory = bench.directory / f"access-{kind}"
            access = Closed(directory / "access", names) if kind == "closed" else None
            clusters[kind] = await stack.enter_async_context(Cluster(directory, PAIR, access=access))
        for callers in CALLERS:
            for turn in range(ROUNDS):
                for kind, cluster in clusters.items():
                    pids, once = {**bench.pids, **cluster.pids}, one_shot(cluster.client, names)
                    bench.add(await measure(f"{kind} {callers} {turn}", callers, once, bench.span, pids, cluster.counts))
