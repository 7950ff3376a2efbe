"""Exit codes, command by command and condition by condition: the table of docs/reference/cli.md, each line of which is run."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc
import pytest

from coordinator.cli.main import troth as tree
from coordinator.server import Daemon
from tests.cli.test_cli_offline import commands, decided, make_log
from tests.cli.test_cli_remote import ABSENT, begin, channel, connect_participant
from tests.cli.test_cli_serve import ROOT, command, environment

__all__ = ["channel"]

PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("<!-- exit codes -->") : PAGE.index("<!-- end of exit codes -->")]
LINE = re.compile(r"^\| (.+?) \| (.+?) \| (\d+) \|$", re.MULTILINE)
ROWS = [(who[1:-1] if who.startswith("`") else who, what, int(code)) for who, what, code in LINE.findall(TABLE)]

WHY = ("--why", "test", "--yes")
REPLACES = ("north", "--log-id", "22" * 16)
NAMES_ONE = (("show",), ("explain",), ("watch",), ("resolve", "abort"), ("forget",))
"""Commands of `txn` that name a transaction, with what comes after its id."""


def asking() -> Iterator[tuple[str, ...]]:
    """Every command that asks a coordinator, with arguments that are in order."""
    arguments = {f"txn {name}": (ABSENT, *rest) for name, *rest in NAMES_ONE} | {"participants replace": REPLACES}
    arguments |= {f"participants {name}": ("north",) for name in ("forget", "repair", "reconcile", "affected")}
    arguments |= {f"review {name}": ("c1-00000000",) for name in ("approve", "reject")} | {"review show": ("c1-00000000",)}
    for words in commands(tree):
        found: Any = tree
        for word in words:
            found = found.commands[word]
        options = {one.name for one in found.params}
        if "coordinator" in options:
            why, yes = WHY[:2] if "why" in options else (), WHY[2:] if "yes" in options else ()
            yield (*words, *arguments.get(" ".join(words), ()), *why, *yes)


@dataclass
class Stage:
    """What a line is tried on."""

    troth: Callable[..., Awaitable[Any]]
    daemon: Daemon
    channel: grpc.aio.Channel
    directory: Path
    monkeypatch: pytest.MonkeyPatch

    async def ask(self, *words: str) -> int:
        """A command to the daemon."""
        return int((await self.troth(*words, "--coordinator", self.daemon.address)).code)

    async def run(self, *words: str) -> int:
        """A command."""
        return int((await self.troth(*words)).code)

    async def all_asking(self, *more: str) -> set[int]:
        """Every command that asks a coordinator."""
        return {await self.run(*words, *more) for words in asking()}

    async def log(self, name: str = "coordinator.db") -> str:
        """A log of a coordinator, with one decision."""
        path = self.directory / name
        await make_log(path, "coordinator", "c1", decided())
        return str(path)

    async def damaged(self) -> str:
        """The same, with a record that is not what was written."""
        path = await self.log()
        with sqlite3.connect(path) as file:
            file.execute("UPDATE troth_records SET body = x'ff'")
        file.close()
        return path


Scene = Callable[[Stage], Awaitable[int | set[int]]]
SCENES: dict[tuple[str, str], Scene | str] = {
    ("all that ask for `--why`", "nobody can be asked (no terminal), and no `--yes`"):
        "test_cli_remote.py::test_resolve_does_not_act_unasked",
    ("txn watch", "the coordinator goes away, and does not come back within `--timeout`"):
        "test_cli_watch.py::test_a_watch_ends_when_nobody_comes_back",
    ("store init", "it cannot be reached"): "test_cli_store.py::test_a_wrong_store_is_told_without_its_secrets",
    ("store init", "no store is named"): "test_cli_store.py::test_a_wrong_store_is_told_without_its_secrets",
    ("store check", "it cannot be reached"): "test_cli_store.py::test_a_wrong_store_is_told_without_its_secrets",
    ("store upgrade", "it cannot be reached, or something uses it"):
        "test_cli_store.py::test_an_upgrade_waits_for_nobody_and_disturbs_nobody",
    ("serve", "SIGTERM or SIGINT, also twice"): "test_cli_serve.py::test_a_second_signal_ends_the_wait",
    ("serve", "wrong settings, or the port is taken"): "test_cli_serve.py::test_a_taken_port_is_exit_2",
    ("serve", "the log is in use, foreign, damaged, or fails"): "test_cli_serve.py::test_a_taken_directory_is_exit_3",
    ("config reload", "done, also when nothing differs, or with `--dry-run`"):
        "test_cli_reload.py::test_a_limit_is_in_force_at_once",
    ("config reload", "a setting is wrong, or needs a restart"): "test_cli_reload.py::test_nothing_changes_when_anything_is_wrong",
    ("conform", "no rule is broken"): "../conform/test_conform.py::test_the_sdk_keeps_every_rule",
    ("conform", "a rule is broken"): "../conform/test_conform.py::conform",
    ("doctor", "fit, or only warnings"): "test_cli_doctor.py::test_a_database_that_is_ready_and_one_that_is_not",
    ("doctor", "a problem is found"): "test_cli_doctor.py::test_a_database_that_is_ready_and_one_that_is_not",
    ("doctor", "the database cannot be reached"): "test_cli_doctor.py::test_a_server_that_is_away_is_told_in_a_line",
    ("backup", "made"): "test_cli_backup.py::test_a_backup_is_whole_and_is_put_back_where_it_came_from",
    ("backup", "a damaged log"): "test_cli_backup.py::test_a_damaged_log_is_not_backed_up_and_nothing_is_left",
    ("backup", "what is not there, has no log, or is a database's address"):
        "test_cli_backup.py::test_what_cannot_be_named_is_told",
    ("restore", "put back"): "test_cli_backup.py::test_a_backup_is_whole_and_is_put_back_where_it_came_from",
    ("restore", "nobody can be asked (no terminal), and no `--yes`"):
        "test_cli_backup.py::test_a_backup_is_whole_and_is_put_back_where_it_came_from",
    ("restore", "what is there is in use, another's, or has as much"):
        "test_cli_backup.py::test_a_restore_replaces_nothing_that_is_sound_and_has_as_much",
    ("restore", "the backup is not as it was written"): "test_cli_backup.py::test_a_backup_that_was_touched_is_refused",
    ("log in-doubt", "done, also when nothing is"):
        "test_cli_reconcile.py::test_what_is_in_doubt_in_a_file_and_what_peers_know_of_it",
    ("reconcile", "nothing is wrong, or all of it was corrected"):
        "test_cli_reconcile.py::test_what_nobody_here_holds_wrong_is_a_sentence",
    ("reconcile", "something is wrong"):
        "test_cli_reconcile.py::test_what_is_decided_is_finished_in_the_database_and_nothing_else",
    ("reconcile", "a file that is no participant's log, or a database that cannot be reached"):
        "test_cli_reconcile.py::test_a_file_that_knows_more_than_the_coordinator",
    ("keys init", "made"): "test_cli_keys.py::test_a_rotation_puts_a_key_on_top_and_no_secret_is_shown",
    ("keys init", "there is a file already"): "test_cli_keys.py::test_a_file_is_made_for_its_owner_and_never_replaced",
    ("keys show", "done"): "test_cli_keys.py::test_a_rotation_puts_a_key_on_top_and_no_secret_is_shown",
    ("keys rotate", "made"): "test_cli_keys.py::test_a_rotation_puts_a_key_on_top_and_no_secret_is_shown",
    ("keys rotate", "others can read the file"): "test_cli_keys.py::test_a_file_that_others_can_read_is_refused",
    ("keys drop", "no log needs it"): "test_cli_keys.py::test_a_key_is_dropped_when_no_log_needs_it",
    ("keys drop", "it seals, a log needs it, or no log is named"): "test_cli_keys.py::test_a_key_is_dropped_when_no_log_needs_it",
    ("review list", "done, also when there are none"): "../identity/test_reviews.py::test_from_the_order_to_its_approval",
    ("review show", "done"): "../identity/test_reviews.py::test_from_the_order_to_its_approval",
    ("review approve", "approved, and done"): "../identity/test_reviews.py::test_from_the_order_to_its_approval",
    ("review reject", "rejected"): "../identity/test_reviews.py::test_from_the_order_to_its_approval",
    ("review show", "nothing waits under that name"): "../identity/test_reviews.py::test_from_the_order_to_its_approval",
    ("policy example", "done"): "../identity/test_policy.py::test_the_commands",
    ("policy actions", "done"): "../identity/test_policy.py::test_the_commands",
    ("policy check", "right"): "../identity/test_policy.py::test_the_commands",
    ("policy check", "wrong"): "../identity/test_policy.py::test_the_commands",
    ("policy explain", "it is allowed"): "../identity/test_policy.py::test_the_commands",
    ("policy explain", "it is not"): "../identity/test_policy.py::test_the_commands",
    ("audit show", "done"): "../identity/test_audit.py::test_the_commands",
    ("audit show", "there is no audit log, or one of several is missing or another node's"):
        "../identity/test_audit_collected.py::test_a_log_in_the_place_of_another_shows",
    ("audit verify", "nobody has touched it"): "../identity/test_audit.py::test_the_commands",
    ("audit verify", "somebody has, or one of several is missing or another node's"):
        "../identity/test_audit_collected.py::test_a_log_in_the_place_of_another_shows",
    ("audit checkpoint", "done"): "../identity/test_audit.py::test_the_commands",
    ("audit export", "done"): "../identity/test_audit.py::test_the_commands",
    ("audit key", "made"): "../identity/test_audit.py::test_the_commands",
    ("token add", "made"): "../identity/test_tokens_together.py::test_everybody_is_seen_as_who_he_shows",
    ("token add", "a name that is none"): "../identity/test_tokens_together.py::test_everybody_is_seen_as_who_he_shows",
    ("token list", "done"): "../identity/test_tokens_together.py::test_everybody_is_seen_as_who_he_shows",
    ("token remove", "taken back"): "../identity/test_tokens_together.py::test_everybody_is_seen_as_who_he_shows",
    ("token remove", "there is none of that name"): "../identity/test_tokens_together.py::test_everybody_is_seen_as_who_he_shows",
    ("demo", "there is no checkout"): "test_cli_offline.py::test_the_demo_without_a_checkout_says_what_to_do",
    ("dev", "there is no checkout"): "test_cli_offline.py::test_the_demo_without_a_checkout_says_what_to_do",
}  # fmt: skip
"""For each line what tries it, or the test that does so elsewhere, mostly with real processes."""


def scene(who: str, what: str) -> Callable[[Scene], Scene]:
    """What tries a line."""

    def register(function: Scene) -> Scene:
        SCENES[who, what] = function
        return function

    return register


OUTBOX = "test_cli_outbox.py::test_what_is_set_aside_is_tried_again_or_dropped"
OUTBOX_TOPICS = "test_cli_outbox.py::test_of_each_topic_it_tells_what_waits_and_when_it_is_tried_again"
NO_OUTBOX = "test_cli_outbox.py::test_where_there_is_no_outbox_it_says_so"
SCENES.update({
    ("outbox list", "done, also when nothing is set aside"): OUTBOX,
    ("participants affected", "done, also when nothing is"):
        "test_cli_affected.py::test_everything_is_listed_by_its_id_and_the_short_list_says_by_which_command",
    ("outbox list", "there is no outbox, or what is no connection string"): NO_OUTBOX,
    ("outbox list", "the database cannot be reached"): NO_OUTBOX,
    ("outbox topics", "done, also when nothing waits"): OUTBOX_TOPICS,
    ("outbox topics", "there is no outbox, or what is no connection string"): NO_OUTBOX,
    ("outbox topics", "the database cannot be reached"): NO_OUTBOX,
    ("outbox show", "done"): OUTBOX,
    ("outbox show", "there is no such message"): OUTBOX,
    ("outbox retry", "all that were named are tried again"): OUTBOX,
    ("outbox retry", "one that was named is not set aside"): OUTBOX,
    ("outbox retry", "none is named"): OUTBOX,
    ("outbox drop", "all that were named are dropped"): OUTBOX,
    ("outbox drop", "one that was named is not set aside"): OUTBOX,
    ("outbox drop", "none is named, or nobody can be asked and no `--yes`"): OUTBOX,
})


def plain(who: str, what: str, *words: str, asks: bool = False) -> None:
    """A line that one command tries."""

    async def run(stage: Stage) -> int:
        return await (stage.ask(*words) if asks else stage.run(*words))

    SCENES[who, what] = run


for _name, _what, *_words in (
    ("status", "done"), ("cell", "done"), ("drain", "done, also when something is undecided"),
    ("cell", "done, also of a coordinator that is alone"), ("participants", "done, also when there are none"),
    ("txn list", "done, also when there are none"), ("txn list", "a state that is none", "--state", "BOGUS"),
    ("txn list", "a page token that is none", "--page-token", "x"),
    ("participants affected", "nobody has that name", "north"),
    ("participants replace", "nobody has that name", *REPLACES, *WHY), ("participants accept-loss", "nothing is lost", *WHY),
    ("participants reconcile", "nothing is wrong with it", "north"),
):  # fmt: skip
    plain(_name, _what, *_name.split(), *_words, asks=True)
for _name, _what, *_words in (
    ("config show", "done"), ("config check", "right"), ("config check", "wrong", "--set", "keys_mx=5"), ("version", "done"),
    ("doctor", "what is no connection string", "--dsn", "nonsense"),
    ("log verify", "no such file", "/nowhere/coordinator.db"), ("conform", "no `--work`"),
    ("conform", "the participant does not come", "--work", "add {}", "--run", "true", "--patience", "0.1"),
):  # fmt: skip
    plain(_name, _what, *_name.split(), *_words)


@scene("every command", "`--help`")
async def help_(stage: Stage) -> set[int]:
    return {await stage.run(*words, "--help") for words in commands(tree) if words not in (("demo",), ("dev",))}


@scene("every command", "an option that there is not")
async def no_option(stage: Stage) -> set[int]:
    return {await stage.run(*words, "--bogus") for words in commands(tree) if words not in (("demo",), ("dev",))}


@scene("every command", "interrupted by Ctrl-C, or at a question")
async def interrupted(stage: Stage) -> set[int]:
    codes = set()
    for error in (KeyboardInterrupt(), click.Abort()):

        def end(*_: Any, error: BaseException = error, **__: Any) -> None:
            raise error

        stage.monkeypatch.setattr(tree, "main", end)
        codes.add(await stage.run("status"))
    return codes


@scene("every command", "whoever reads its output is gone")
async def pipe_gone(stage: Stage) -> int:
    reading, writing = os.pipe()
    os.close(reading)
    running = await asyncio.create_subprocess_exec(*command("config", "show"), stdout=writing, env=environment())
    os.close(writing)
    return await running.wait()


@scene("all that ask a coordinator", "nobody listens at the address")
async def nobody(stage: Stage) -> set[int]:
    return await stage.all_asking("--coordinator", "127.0.0.1:1")


@scene("all that ask a coordinator", "somebody listens and does not answer within `--timeout`")
async def silent(stage: Stage) -> set[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        host, port = listener.getsockname()
        return await stage.all_asking("--coordinator", f"{host}:{port}", "--timeout", "0.1")


@scene("all that ask a coordinator", "the address is none")
async def no_address(stage: Stage) -> set[int]:
    return await stage.all_asking("--coordinator", "nowhere")


@scene("all that ask for `--why`", "it is missing")
async def no_why(stage: Stage) -> set[int]:
    return {await stage.ask(*(word for word in words if word not in WHY)) for words in asking() if "--why" in words}


async def _of_id(stage: Stage, transaction_id: str) -> set[int]:
    codes = set()
    for name, *rest in NAMES_ONE:
        why = WHY if name in ("resolve", "forget") else ()
        codes.add(await stage.ask("txn", name, transaction_id, *rest, *why))
    return codes


@scene("all that name a transaction", "its id is none")
async def no_id(stage: Stage) -> set[int]:
    return await _of_id(stage, "nonsense")


@scene("all that name a transaction", "nothing is known of it")
async def unknown(stage: Stage) -> set[int]:
    return await _of_id(stage, ABSENT)


@scene("participants replace", "the next log is accepted")
async def replaced(stage: Stage) -> int:
    call = connect_participant(stage.channel, "north")
    await call.read()
    call.cancel()
    deadline = time.monotonic() + 60
    while await stage.ask("participants", "replace", *REPLACES, *WHY):  # until its stream is seen to have ended
        assert time.monotonic() < deadline
    return 0


@scene("participants replace", "it is connected")
async def connected(stage: Stage) -> int:
    call = connect_participant(stage.channel, "north")
    await call.read()
    code = await stage.ask("participants", "replace", *REPLACES, *WHY)
    call.cancel()
    return code


def _open(*words: str) -> Scene:
    async def run(stage: Stage) -> int:
        transaction_id = await begin(stage.channel)
        return await stage.ask(*(transaction_id if word == "ID" else word for word in words))

    return run


SCENES["txn show", "done"] = _open("txn", "show", "ID")
SCENES["txn explain", "done"] = _open("txn", "explain", "ID")
SCENES["txn resolve", "done"] = _open("txn", "resolve", "ID", "abort", *WHY)
SCENES["txn forget", "it is not heuristic"] = _open("txn", "forget", "ID", *WHY)


async def _aborted(stage: Stage) -> str:
    transaction_id = await begin(stage.channel)
    assert await stage.ask("txn", "resolve", transaction_id, "abort", *WHY) == 0
    return transaction_id


@scene("txn watch", "it is over, whatever the outcome")
async def watched(stage: Stage) -> int:
    return await stage.ask("txn", "watch", await _aborted(stage))


@scene("txn resolve", "it is over already")
async def over(stage: Stage) -> int:
    return await stage.ask("txn", "resolve", await _aborted(stage), "abort", *WHY)


@scene("txn resolve", "the person says no")
async def says_no(stage: Stage) -> int:
    stage.monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    stage.monkeypatch.setattr(click, "confirm", lambda *_, **__: False)
    return await stage.ask("txn", "resolve", await begin(stage.channel), "abort", "--why", "test")


PKI = ("--directory", "keys")
ISSUE = ("pki", "issue", "payments", "--name", "spiffe://example.org/payments", *PKI)


def _certificates(*words: str, first: tuple[tuple[str, ...], ...] = ()) -> Scene:
    async def run(stage: Stage) -> int:
        for one in first:
            assert await stage.run(*one) == 0
        return await stage.run(*words)

    return run


MADE = ("pki", "init", *PKI)
SCENES["pki init", "made"] = _certificates(*MADE)
SCENES["pki init", "there is an authority already"] = _certificates(*MADE, first=(MADE,))
SCENES["pki issue", "made"] = _certificates(*ISSUE, first=(MADE,))
SCENES["pki issue", "there is no authority, or a name that is none"] = _certificates(*ISSUE)
SCENES["pki renew", "made"] = _certificates("pki", "renew", "payments", *PKI, first=(MADE, ISSUE))
SCENES["pki renew", "there is no such certificate"] = _certificates("pki", "renew", "payments", *PKI, first=(MADE,))
SCENES["pki show", "done"] = _certificates("pki", "show", "keys/authority.pem", first=(MADE,))
SCENES["pki show", "what cannot be read"] = _certificates("pki", "show", "keys/authority.pem")


@scene("log verify", "sound")
async def sound(stage: Stage) -> int:
    return await stage.run("log", "verify", await stage.log())


@scene("log verify", "damaged")
async def damaged(stage: Stage) -> int:
    return await stage.run("log", "verify", await stage.damaged())


@scene("log verify", "no log")
async def no_log(stage: Stage) -> int:
    path = stage.directory / "notes.txt"
    path.write_text("no database at all")
    return await stage.run("log", "verify", str(path))


@scene("log verify", "in use by a process")
async def in_use(stage: Stage) -> int:
    return await stage.run("log", "verify", str(Path(stage.daemon.config.shell.data_directory) / "coordinator.db"))


@scene("log dump", "done")
async def dumped(stage: Stage) -> int:
    return await stage.run("log", "dump", await stage.log())


@scene("log dump", "damaged; what can be read is printed")
async def dumped_as_it_is(stage: Stage) -> int:
    return await stage.run("log", "dump", await stage.damaged())


def _stands_in(stage: Stage, name: str) -> tuple[str, ...]:
    return ("log", "stand-in", str(stage.directory / "new" / "coordinator.db"), "--name", name, "--log-id", "5f" * 16, *WHY)


@scene("log stand-in", "made")
async def stands_in(stage: Stage) -> int:
    return await stage.run(*_stands_in(stage, "c1"))


@scene("log stand-in", "a name or an id that is none")
async def stands_in_for_nobody(stage: Stage) -> int:
    return await stage.run(*_stands_in(stage, "No Name"))


@scene("log stand-in", "there is a file")
async def replaces_nothing(stage: Stage) -> int:
    await stage.run(*_stands_in(stage, "c1"))
    return await stage.run(*_stands_in(stage, "c1"))


@scene("log resolve", "recorded")
async def recorded(stage: Stage) -> int:
    return await stage.run("log", "resolve", await stage.log(), ABSENT, "abandon", *WHY)


@scene("log resolve", "no branch of it is in doubt there")
async def not_there(stage: Stage) -> int:
    return await stage.run("log", "resolve", await stage.log(), "c1.1.0badcafe.3.5", "abandon", *WHY)


@scene("participants forget", "nobody has that name")
async def forgets_nobody(stage: Stage) -> int:
    return await stage.ask("participants", "forget", "north", *WHY)


@scene("participants repair", "nobody has that name")
async def repairs_nobody(stage: Stage) -> int:
    return await stage.ask("participants", "repair", "north", *WHY)


@scene("log resolve", "damaged")
async def in_damaged(stage: Stage) -> int:
    return await stage.run("log", "resolve", await stage.damaged(), ABSENT, "abandon", *WHY)


@pytest.mark.parametrize(("who", "what", "code"), [row for row in ROWS if not isinstance(SCENES.get(row[:2]), str)])
async def test_each_line_is_so(
    who: str, what: str, code: int, troth: Any, daemon: Daemon, channel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = SCENES[who, what]
    assert not isinstance(tried, str)
    assert await tried(Stage(troth, daemon, channel, tmp_path, monkeypatch)) in (code, {code})


def test_what_is_tried_elsewhere_is_there() -> None:
    for (who, what), place in SCENES.items():
        if isinstance(place, str):
            file, _, name = place.partition("::")
            assert f"def {name}(" in (Path(__file__).parent / file).read_text(), (who, what)


def test_every_line_is_tried_and_every_command_has_one() -> None:
    assert {row[:2] for row in ROWS} == set(SCENES)
    groups = {"", "txn", "log", "config", "store", "pki", "policy", "audit", "token", "review", "outbox", "keys"}
    groups.add("participants list")
    assert {" ".join(words) for words in commands(tree)} - groups <= {who for who, _, _ in ROWS}
