"""Bad input: a clear error with a stable reason, and nothing lost.

The list of what is bad, in the order in which it was asked for; each names the test that shows it, with its file
under `tests/`. Those without a file are below, against real processes: a daemon and a service, both also under `python -O`.

    unknown participant, operation               test_runs_that_are_refused
    unknown transaction                          test_what_is_unknown_or_over
    arguments that do not decode or miss         test_runs_that_are_refused
    payload, key, participants over their limit  test_runs_that_are_refused
    frame over its limit                         fuzz/test_port.py::test_bytes_that_are_no_frame_get_a_goodbye
    results over the limit
      fuzz/test_coordinator_bounds.py::test_results_over_the_limit_abort_what_is_not_committed
    the same key with another body               test_the_same_key_with_another_body
    zero, negative, absurd timeouts              test_runs_that_are_refused
    ... at the Python client                     client/test_client_run.py::test_absurd_timeouts_are_refused
    commit twice, commit after abort and so on   test_what_is_unknown_or_over
    enlist after the decision                    coordinator_core/test_rules.py::test_enlisting_closes_when_the_commit_begins
    work on a rolled-back branch                 participant_core/test_transcripts.py::test_transcript
    ids one of which is a prefix of another      participant_core/test_table.py::test_id_that_is_a_prefix_of_another_is_another
    ... on the wire                              fuzz/test_coordinator_wire.py::test_hostile_peers_change_nothing_for_others
    a second participant, same name and log      test_a_second_participant_of_the_same_log
    ... a newer incarnation of the same log
      coordinator_shell/test_shell_streams.py::test_a_newer_incarnation_sends_the_older_stream_away
    a second participant, same name, other log   test_a_second_participant_with_another_log
    COMMIT for a branch never seen               participant_core/test_transcripts.py::test_transcript
    an operation that commits, attaches, ...     test_operations_that_must_not
    ... each forbidden statement                 resources/test_sqlite_guard.py::test_a_forbidden_statement_is_refused_and_named
    a service that opens its SQLite file         test_a_service_that_opens_its_file
    an unknown protocol version                  test_an_unknown_protocol_version
    HTTP, TLS hello, random bytes                fuzz/test_port.py::test_knocks_do_not_stop_it
    port taken                                   cli/test_cli_serve.py::test_a_taken_port_is_exit_2
    data directory locked                        cli/test_cli_serve.py::test_a_taken_directory_is_exit_3
    ... of another coordinator                   cli/test_cli_serve.py::test_the_directory_of_another_is_exit_3
    ... read-only                                test_a_read_only_directory
    ... read-only, where root runs the tests     log/test_log_sqlite.py::test_a_read_only_directory_is_refused
    ... of a newer format                        test_logs_that_cannot_be_used
    log truncated, damaged in the middle         test_logs_that_cannot_be_used
    ... every byte                               log/test_log_damage.py::test_a_flipped_byte_of_a_closed_log_costs_nothing
    ... the resource's file                      fuzz/test_files.py::test_damage_to_a_closed_file_loses_nothing_silently
    disk full and I/O error                      log/test_log_sqlite.py::test_a_full_disk_fails_the_log_for_good_and_loses_nothing
    ... the daemon                               coordinator_shell/test_shell_life.py::test_a_failed_log_ends_the_daemon
    ... the participant
      participant/test_participant.py::test_a_failed_log_ends_the_participant_and_a_restart_recovers
    unknown settings, mistyped variables         cli/test_cli_serve.py::test_wrong_settings_are_exit_2
    text of exceptions                           coordinator_shell/test_shell_unary.py::test_the_text_of_an_exception_stays_here
    ... of operations                            test_operations_that_must_not
    python -O                                        every test below runs both ways
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from coordinator.directory import LOG_FILE
from tests.fuzz.daemon import ROOT, SECONDS, Daemon, environment
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2, participant_pb2, participant_pb2_grpc
from troth.values import encode_arguments

UNKNOWN_ID = "c1.1.0123abcd.0.4711"


class Service:
    """A bank in a process of its own."""

    def __init__(self, name: str, directory: Path, coordinator: str, python: tuple[str, ...] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        command = [sys.executable, *python, "-m", "tests.fuzz.bank", name, str(directory), coordinator]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(), cwd=ROOT
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().strip()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=SECONDS)

    def ended(self) -> int:
        """Wait for the end of one that cannot go on."""
        self.process.communicate(timeout=SECONDS)
        return self.process.returncode


@dataclass(frozen=True, slots=True)
class Site:
    """A daemon, a bank, and how to talk to them."""

    daemon: Daemon
    bank: Service
    stub: client_pb2_grpc.TransactionServiceStub
    python: tuple[str, ...]

    def balance(self) -> int:
        """What account a holds: committed work only, and no lock is left over."""
        answer = self.stub.Run(run("bank", add(0)), timeout=SECONDS).answer
        assert answer.outcome == common_pb2.OUTCOME_COMMITTED
        results: int = common_pb2.Results.FromString(answer.results[0].results).values[0].integer
        return results


@pytest.fixture(scope="module", params=[(), ("-O",)], ids=["python", "python -O"])
def site(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    python: tuple[str, ...] = request.param
    flags = ("--set", "participants_max=3", "--set", "payload_bytes_max=1000", "--set", "key_bytes_max=20")
    with (
        Daemon(directory / "c1", *flags, python=python) as daemon,
        Service("bank", directory / "bank", daemon.address, python) as bank,
        grpc.insecure_channel(daemon.address) as channel,
    ):
        assert bank.line == "ready"
        yield Site(daemon, bank, client_pb2_grpc.TransactionServiceStub(channel), python)


def operation(name: str, **arguments: Any) -> common_pb2.Operation:
    return common_pb2.Operation(name=name, arguments=encode_arguments(arguments))


def add(amount: int) -> common_pb2.Operation:
    return operation("add", account="a", amount=amount)


def run(participant: str, *operations: common_pb2.Operation, timeout_ms: int = 10_000, **fields: Any) -> client_pb2.RunRequest:
    if fields.get("key"):
        fields.setdefault("first_attempt_ms", time.time_ns() // 1_000_000)
    branch = client_pb2.BranchRequest(participant=participant, operations=operations)
    return client_pb2.RunRequest(branches=[branch], timeout_ms=timeout_ms, **fields)


def refused(call: Callable[..., Any], request: Any) -> tuple[str, str, str]:
    """Code, stable reason and message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=SECONDS)
    status = rpc_status.from_call(caught.value)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert "Traceback" not in status.message
    return caught.value.code().name, info.reason, status.message


BRANCHES = [client_pb2.BranchRequest(participant=name, operations=[add(1)]) for name in ("bank", "b", "c", "d")]
RUNS: dict[str, tuple[client_pb2.RunRequest, str]] = {
    "no branch": (client_pb2.RunRequest(timeout_ms=1000), "INVALID_ARGUMENT"),
    "no operation": (run("bank"), "INVALID_ARGUMENT"),
    "unknown participant": (run("nobody", add(1)), "UNKNOWN_PARTICIPANT"),
    "participant without a name": (run("", add(1)), "UNKNOWN_PARTICIPANT"),
    "unknown operation": (run("bank", operation("subtract")), "UNKNOWN_OPERATION"),
    "the same participant twice": (client_pb2.RunRequest(branches=[BRANCHES[0]] * 2, timeout_ms=1000), "INVALID_ARGUMENT"),
    "too many participants": (client_pb2.RunRequest(branches=BRANCHES, timeout_ms=1000), "TOO_MANY_PARTICIPANTS"),
    "too many operations": (run("bank", *[add(1)] * 65), "TOO_MANY_OPERATIONS"),
    "arguments that do not decode": (run("bank", common_pb2.Operation(name="add", arguments=b"\xff\xff")), "BAD_ARGUMENTS"),
    "missing arguments": (run("bank", operation("add", account="a")), "BAD_ARGUMENTS"),
    "arguments too many": (run("bank", operation("add", account="a", amount=1, more=1)), "BAD_ARGUMENTS"),
    "arguments of another type": (run("bank", operation("add", account="a", amount="1")), "BAD_ARGUMENTS"),
    "payload": (run("bank", operation("add", account="a" * 1001, amount=1)), "PAYLOAD_TOO_LARGE"),
    "key": (run("bank", add(1), key="k" * 21), "INVALID_KEY"),
    "key in bytes": (run("bank", add(1), key="\u20ac" * 7), "INVALID_KEY"),
    "a key without its first attempt": (run("bank", add(1), key="k", first_attempt_ms=0), "INVALID_ARGUMENT"),
    "no timeout": (run("bank", add(1), timeout_ms=0), "INVALID_TIMEOUT"),
    "absurd timeout": (run("bank", add(1), timeout_ms=2**32 - 1), "INVALID_TIMEOUT"),
    "a number in a unary call": (run("bank", add(1), number=7), "INVALID_ARGUMENT"),
    "a first attempt before time began": (run("bank", add(1), first_attempt_ms=-(2**63)), "EXPIRED"),
    "a first attempt in the future": (run("bank", add(1), first_attempt_ms=2**62), "CLOCK_SKEW"),
}


@pytest.mark.parametrize("what", RUNS)
def test_runs_that_are_refused(site: Site, what: str) -> None:
    before = site.balance()
    request, reason = RUNS[what]
    assert refused(site.stub.Run, request)[1] == reason
    assert site.balance() == before


OPERATIONS: dict[str, tuple[common_pb2.Operation, str]] = {
    "refuses": (operation("refuse"), "REFUSED"),
    "raises": (operation("fail"), "OPERATION_FAILED"),
    "commits": (operation("sql", text="COMMIT"), "FORBIDDEN_SQL"),
    "rolls back": (operation("sql", text="ROLLBACK"), "FORBIDDEN_SQL"),
    "ends the group": (
        operation("sql", text="INSERT OR ROLLBACK INTO accounts VALUES ('a', 1)"), "CONSTRAINT|GROUP_LOST|FORBIDDEN_SQL",
    ),
    "attaches": (operation("sql", text="ATTACH ':memory:' AS other"), "FORBIDDEN_SQL"),
    "changes the schema": (operation("sql", text="CREATE TABLE more (id TEXT PRIMARY KEY NOT NULL)"), "FORBIDDEN_SQL"),
    "sets a pragma": (operation("sql", text="PRAGMA journal_mode = DELETE"), "FORBIDDEN_SQL"),
    "reads our records": (operation("sql", text="DELETE FROM troth_records"), "FORBIDDEN_SQL"),
    "writes without a key": (operation("sql", text="INSERT INTO keyless VALUES (1)"), "UNCAPTURED_TABLE"),
    "breaks a constraint": (add(-10**9), "CONSTRAINT"),
    "is no SQL": (operation("sql", text="SELEKT"), "OPERATION_FAILED"),
    "returns an object": (operation("result", kind="object"), "BAD_RESULT"),
    "returns too large a number": (operation("result", kind="large"), "BAD_RESULT"),
    "returns too much": (operation("result", kind="bytes"), "BAD_RESULT"),
    "awaits": (operation("waits"), "BAD_RESULT|OPERATION_FAILED"),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_operations_that_must_not(site: Site, what: str) -> None:
    before = site.balance()
    bad, reasons = OPERATIONS[what]
    for operations in ((bad,), (add(1), bad)):
        _, reason, message = refused(site.stub.Run, run("bank", *operations))
        assert reason in reasons.split("|")
        assert "swordfish" not in message
    assert site.balance() == before


def test_the_same_key_with_another_body(site: Site) -> None:
    before = site.balance()
    for _ in range(2):
        assert site.stub.Run(run("bank", add(1), key="body"), timeout=SECONDS).answer.outcome == common_pb2.OUTCOME_COMMITTED
    assert refused(site.stub.Run, run("bank", add(2), key="body"))[:2] == ("ALREADY_EXISTS", "KEY_REUSED")
    assert site.balance() == before + 1


def test_what_is_unknown_or_over(site: Site) -> None:
    stub = site.stub
    commit, abort = client_pb2.CommitRequest, client_pb2.AbortRequest
    begun = stub.Begin(client_pb2.BeginRequest(timeout_ms=5000), timeout=SECONDS).transaction_id
    for _ in range(2):
        assert stub.Commit(commit(transaction_id=begun), timeout=SECONDS).answer.outcome == common_pb2.OUTCOME_COMMITTED
    assert refused(stub.Abort, abort(transaction_id=begun))[1] == "ALREADY_COMMITTED"
    begun = stub.Begin(client_pb2.BeginRequest(timeout_ms=5000), timeout=SECONDS).transaction_id
    for _ in range(2):
        assert stub.Abort(abort(transaction_id=begun), timeout=SECONDS).answer.outcome == common_pb2.OUTCOME_ABORTED
    assert refused(stub.Commit, commit(transaction_id=begun))[1] == "CLIENT_ABORT"
    begun = stub.Begin(client_pb2.BeginRequest(timeout_ms=5000), timeout=SECONDS).transaction_id
    strangers = [client_pb2.AcknowledgedOperations(participant="stranger", count=2**32 - 1)]
    assert refused(stub.Commit, commit(transaction_id=begun, acknowledged=strangers))[1] == "OPERATION_COUNT"
    for other in (UNKNOWN_ID, begun + "0", begun[:-1] + "x"):
        assert refused(stub.Commit, commit(transaction_id=other))[1] in ("IN_DOUBT", "INVALID_TRANSACTION_ID")
        assert refused(stub.Abort, abort(transaction_id=other))[1] in ("IN_DOUBT", "INVALID_TRANSACTION_ID")
    told = stub.Get(client_pb2.GetRequest(transaction_id=UNKNOWN_ID), timeout=SECONDS).answer
    assert (told.outcome, told.cause.reason) == (common_pb2.OUTCOME_IN_DOUBT, "UNKNOWN_TRANSACTION")


@pytest.mark.parametrize("versions", [(0, 0), (2, 9), (2**32 - 1, 2**32 - 1), (5, 1)])
def test_an_unknown_protocol_version(site: Site, versions: tuple[int, int]) -> None:
    offered = common_pb2.ProtocolRange(lowest=versions[0], highest=versions[1])
    hello = participant_pb2.Hello(participant="bank", log_id="x", incarnation=1, protocol=offered)
    with grpc.insecure_channel(site.daemon.address) as channel:
        session = participant_pb2_grpc.ParticipantServiceStub(channel).Session(iter([participant_pb2.SessionRequest(hello=hello)]))
        assert next(iter(session)).goodbye.cause.reason == "VERSION_MISMATCH"
        client = client_pb2.ConnectRequest(hello=client_pb2.ClientHello(protocol=offered))
        stream = client_pb2_grpc.TransactionServiceStub(channel).Connect(iter([client]))
        assert next(iter(stream)).goodbye.cause.reason == "VERSION_MISMATCH"
    site.balance()


def test_a_second_participant_of_the_same_log(site: Site) -> None:
    second = Service("bank", site.bank.directory, site.daemon.address, site.python)
    assert (second.line, second.ended()) == ("LOG_LOCKED", 3)
    site.balance()


def test_a_second_participant_with_another_log(site: Site, tmp_path: Path) -> None:
    second = Service("bank", tmp_path / "other", site.daemon.address, site.python)
    assert (second.line, second.ended()) == ("FOREIGN_LOG", 3)
    site.balance()


def test_a_service_that_opens_its_file(site: Site, tmp_path: Path) -> None:
    file = site.bank.directory / "bank.db"
    before = site.balance()
    for statement in ("SELECT * FROM accounts", "UPDATE accounts SET balance = 0"):
        beside = sqlite3.connect(file, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            beside.execute(statement)
        beside.close()
    assert site.balance() == before
    directory = tmp_path / "opened"
    with Service("opener", directory, site.daemon.address, site.python) as first:
        assert first.line == "ready"
    holder = sqlite3.connect(directory / "bank.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN IMMEDIATE")
    second = Service("opener", directory, site.daemon.address, site.python)
    assert (second.line, second.ended()) == ("LOG_FILE_OPEN_ELSEWHERE", 3)
    holder.close()
    with Service("opener", directory, site.daemon.address, site.python) as third:
        assert third.line == "ready"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(site: Site, tmp_path: Path) -> None:
    directory = tmp_path / "c1"
    with Daemon(directory, python=site.python):
        pass
    directory.chmod(0o500)
    daemon = Daemon(directory, python=site.python)
    code = daemon.refused()
    directory.chmod(0o700)
    assert (code, "LOG_READ_ONLY" in daemon.said()) == (3, True)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE troth_records SET body = x'00' WHERE seq = 2")
    connection.close()


def gap(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DELETE FROM troth_records WHERE seq = 2")
    connection.close()


def newer(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE troth_meta SET value = '99' WHERE name = 'format_version'")
    connection.close()


def another(path: Path) -> None:
    path.write_text("This is no database, but a letter to my aunt.\n" * 200)


@pytest.fixture(scope="module")
def sound_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a daemon that was started four times, the last from the very file."""
    directory = tmp_path_factory.mktemp("sound") / "c1"
    for _ in range(4):
        with Daemon(directory):
            pass
    return directory / LOG_FILE


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "LOG_DAMAGED"), (emptied, "LOG_DAMAGED"), (flipped, "LOG_DAMAGED"), (gap, "LOG_DAMAGED"), (newer, "LOG_TOO_NEW"),
        (another, "LOG_DAMAGED"),
    ],
)  # fmt: skip
def test_logs_that_cannot_be_used(
    site: Site, tmp_path: Path, sound_log: Path, damage: Callable[[Path], None], reason: str
) -> None:
    directory = tmp_path / "c1"
    directory.mkdir()
    log = Path(shutil.copy(sound_log, directory))
    damage(log)
    before = log.read_bytes()
    daemon = Daemon(directory, python=site.python)
    assert daemon.refused() == 3
    told = [line for line in daemon.said().splitlines() if reason in line]
    assert told and "(" in told[0], "it must say what to do"
    assert "Traceback" not in daemon.said()
    assert log.read_bytes() == before


def test_every_named_test_is_there() -> None:
    assert __doc__ is not None
    named = re.findall(r"\s(?:(\S+)::)?(test_\w+)$", __doc__, re.MULTILINE)
    assert len(named) > 30
    for file, name in named:
        text = (ROOT / "tests" / (file or "fuzz/test_bad_input.py")).read_text()
        assert f"def {name}(" in text, f"{file}::{name}"
