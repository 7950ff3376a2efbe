"""`troth txn watch` beside a daemon that is killed and started again: real processes."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import grpc

from tests.cli.test_cli_serve import SECONDS, command, environment, serve
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2, participant_pb2, participant_pb2_grpc

__all__ = ["serve"]


def test_a_watch_goes_on_by_itself_when_the_daemon_is_started_again(serve: Any, tmp_path: Path) -> None:
    """A commit that one of two participants has not acknowledged; a coordinator that is killed, and comes back on another port."""
    first = serve()
    with grpc.insecure_channel(first.address) as channel:
        transaction_id, voters = _committing(channel)
        watch = subprocess.Popen(
            command("txn", "watch", transaction_id, "--timeout", "120"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(TROTH_DATA_DIRECTORY=str(tmp_path / "c1")),
        )  # fmt: skip
        try:
            assert watch.stdout is not None and watch.stderr is not None
            assert watch.stdout.readline().startswith("COMMITTING\tCOMMITTED\t")
            first.ended(signal.SIGKILL)
            assert "went away" in watch.stderr.readline()
            second = serve()
            assert watch.stderr.readline() == f"troth: the coordinator answers again at {second.address}\n"
            with grpc.insecure_channel(second.address) as again:
                for one in voters:
                    one.come_back(again)
                out, err = watch.communicate(timeout=SECONDS)
        finally:
            watch.kill()
            watch.communicate()
    assert watch.returncode == 0, err
    assert out.splitlines()[-1].startswith("COMMITTED\tCOMMITTED\t")


def _committing(channel: grpc.Channel) -> tuple[str, list[Voter]]:
    """A transaction that is committed, and of which one participant owes its acknowledgement."""
    voters = [Voter(channel, "prompt"), Voter(channel, "silent", acknowledges=False)]
    request = client_pb2.RunRequest(
        timeout_ms=60_000, branches=[
            client_pb2.BranchRequest(participant=name, operations=[common_pb2.Operation(name="work")])
            for name in ("prompt", "silent")
        ],
    )  # fmt: skip
    answer = client_pb2_grpc.TransactionServiceStub(channel).Run(request, timeout=SECONDS)
    return answer.answer.transaction_id, voters


class Voter:
    """A participant that votes YES on everything."""

    def __init__(self, channel: grpc.Channel, name: str, *, acknowledges: bool = True) -> None:
        self.name, self._acknowledges, self._orders = name, acknowledges, dict[str, int]()
        self._connect(channel, [])

    def come_back(self, channel: grpc.Channel) -> None:
        """Connect again, list what is prepared, and acknowledge from now on."""
        self._acknowledges = True
        prepared = participant_pb2.BRANCH_STATE_PREPARED
        self._connect(channel, [
            participant_pb2.BranchReport(transaction_id=one, order=order, state=prepared) for one, order in self._orders.items()
        ])  # fmt: skip

    def _connect(self, channel: grpc.Channel, reports: list[participant_pb2.BranchReport]) -> None:
        hello = participant_pb2.Hello(
            protocol=common_pb2.ProtocolRange(lowest=1, highest=1), participant=self.name, log_id=self.name[0].encode().hex() * 16,
            incarnation=1, nonce="0badcafe",
        )  # fmt: skip
        self._frames: queue.Queue[participant_pb2.SessionRequest] = queue.Queue()
        # With nothing to report that is said with Hello: whoever is welcomed then can be asked to vote at once.
        self._frames.put(participant_pb2.SessionRequest(hello=hello, reports_complete=not reports))
        self._call = participant_pb2_grpc.ParticipantServiceStub(channel).Session(iter(self._frames.get, None))
        assert next(self._call).HasField("welcome")
        if reports:
            self._frames.put(participant_pb2.SessionRequest(reports=reports, reports_complete=True))
        threading.Thread(target=self._serve, args=(self._call,), daemon=True).start()

    def _serve(self, call: Any) -> None:
        with contextlib.suppress(grpc.RpcError):
            for frame in call:
                self._answer(frame)

    def _answer(self, frame: participant_pb2.SessionResponse) -> None:
        for one in frame.prepares:
            self._orders[one.transaction_id] = one.order
            vote = participant_pb2.Vote(transaction_id=one.transaction_id, order=one.order, kind=participant_pb2.VOTE_KIND_YES)
            self._frames.put(participant_pb2.SessionRequest(votes=[vote]))
        for decision in frame.decisions if self._acknowledges else ():
            kind = participant_pb2.ACKNOWLEDGEMENT_KIND_DONE
            done = participant_pb2.Acknowledgement(transaction_id=decision.transaction_id, kind=kind)
            self._frames.put(participant_pb2.SessionRequest(acknowledgements=[done]))


def test_a_watch_ends_when_nobody_comes_back(serve: Any, tmp_path: Path) -> None:
    first = serve()
    with grpc.insecure_channel(first.address) as channel:
        stub = client_pb2_grpc.TransactionServiceStub(channel)
        transaction_id = stub.Begin(client_pb2.BeginRequest(timeout_ms=600_000), timeout=SECONDS).transaction_id
    watch = subprocess.Popen(
        command("txn", "watch", transaction_id, "--timeout", "3", "--coordinator", first.address),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert watch.stdout is not None
    assert watch.stdout.readline().startswith("ACTIVE")
    first.ended(signal.SIGKILL)
    _, said = watch.communicate(timeout=SECONDS)
    assert (watch.returncode, said.count("COORDINATOR_AWAY")) == (4, 1)
