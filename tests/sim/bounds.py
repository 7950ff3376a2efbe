"""Memory and log are bounded: by the limits while the run goes on, and by next to nothing when the retention has passed."""

from __future__ import annotations

from collections.abc import Iterator

from participant_sdk.core.branches import UNPREPARED, State
from tests.sim import leftovers
from tests.sim.checkers import checker
from tests.sim.process import SLACK_RECORDS
from tests.sim.results import RESULT_BYTES
from tests.sim.roles import CoordinatorProcess, ParticipantProcess
from tests.sim.scene import Scene

RECORDS_MAX = 24
"""Records of a log beyond twice what is live, while work goes on: what the cleaner has not come to yet."""
LATE_SECONDS = 0.5
"""How late a timer may be looked at."""
LAST_RECORDS_MAX = 40
"""The same when nothing is done any more: without new records nothing is cleaned."""


class Limits:
    """Looks at the cores of a run now and then; `violations` is what it found."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.violations: set[str] = set()

    def look(self) -> None:
        """Compare what the cores hold with their limits."""
        if self._scene.coordinator.alive:
            book = self._scene.coordinator.core._book
            self.violations.update(f"{leftovers.NAME}: {text}" for text in leftovers.inconsistent(book))
            self.violations.update(f"bounded: {text}" for text in _coordinator(self._scene.coordinator))
        for participant in self._scene.participants.values():
            if participant.alive:
                self.violations.update(f"bounded: {text}" for text in _participant(participant))
        for process in [self._scene.coordinator, *self._scene.participants.values()]:
            allowed = 2 * process.core.live_owners() + SLACK_RECORDS + RECORDS_MAX
            if process.alive and process.serving and process.log_records > allowed:
                self.violations.add(f"bounded: the log of {process.name} has more than {RECORDS_MAX} records too many")


def _coordinator(process: CoordinatorProcess) -> Iterator[str]:
    book, settings = process.core._book, process.settings
    for name, joiners in book.joiners.items() if not process.paused else ():
        if any(joiner.until + LATE_SECONDS < process.world.now for joiner in joiners):
            yield f"a retry waits for the settlement of {name} past its own time"
    if any(ticket not in process.watching for tickets in book.watchers.values() for ticket in tickets):
        yield "somebody who has left is still told of a transaction"
    work = len(book.live) - book.late_heuristics - len(book.asking)
    if work > settings.open_transactions_max:
        yield f"{work} transactions are open, and {settings.open_transactions_max} are allowed"
    if len(book.asking) > settings.questions_max:
        yield f"{len(book.asking)} questions are open, and {settings.questions_max} are allowed"
    if len(book.keys) > settings.keys_max:
        yield f"{len(book.keys)} keys are kept, and {settings.keys_max} are allowed"
    if book.open_bytes > settings.open_bytes_max:
        yield f"open transactions hold {book.open_bytes} bytes, and {settings.open_bytes_max} are allowed"
    if book.kept_bytes > settings.key_results_bytes_max:
        yield f"{book.kept_bytes} bytes are kept under keys, and {settings.key_results_bytes_max} are allowed"
    listed = sum(one.report_bytes for one in book.participants.values())
    if listed > settings.reports_bytes_max:
        yield f"{listed} bytes are listed by Hellos under way, and {settings.reports_bytes_max} are allowed"
    for session in book.sessions.values():
        if session.keeps_answers and len(session.answers) > settings.unseen_answers_max:
            yield f"{len(session.answers)} answers are kept for {session.name}, and {settings.unseen_answers_max} are allowed"


def _participant(process: ParticipantProcess) -> Iterator[str]:
    machine = process.core._m
    open_branches = sum(branch.state in UNPREPARED or branch.state is State.PREPARED for branch in machine.branches.values())
    if open_branches > process.config.open_branches_max:
        yield f"{open_branches} branches are open at {process.name}, and {process.config.open_branches_max} are allowed"
    waiting = len({id(entry) for _, entry in machine.call_tickets.values()})  # a repeated call joins the one that waits
    if waiting > process.config.calls_waiting_max:
        yield f"{waiting} calls wait at {process.name}, and {process.config.calls_waiting_max} are allowed"
    held = sum(branch.calls.bytes for branch in machine.branches.values() if branch.calls is not None)
    if machine.calls_bytes != held:
        yield f"{process.name} counts {machine.calls_bytes} bytes of calls, and holds {held}"


@checker("bounded")
def nothing_waits(scene: Scene) -> Iterator[str]:
    """What clients have been answered, and have acknowledged, is kept for nobody; sessions end with their clients."""
    sessions = scene.coordinator.core._book.sessions
    if len(sessions) > len(scene.clients) + 1:
        yield f"{len(sessions)} sessions are kept for {len(scene.clients)} clients and for unary calls"
    answers = sum(len(session.answers) for session in sessions.values())
    if answers:
        yield f"{answers} answers are kept, and every client has acknowledged all of its own"


@checker("bounded")
def nothing_unlearnt(scene: Scene) -> Iterator[str]:
    """An epoch has no end that is known: what is over is forgotten by watermarks of its own epoch, not only by the next one's."""
    epoch, book = scene.coordinator.core.epoch, scene.coordinator.core._book
    for participant in scene.participants.values():
        machine, known = participant.core._m, book.participants[participant.name]
        if machine.watermark_of("c1").asked != (epoch, known.watermark_sent):
            continue  # the last one was lost on its way; the next one, or the next Hello, says as much
        for branch in machine.branches.values():
            if branch.epoch == epoch and branch.forced is None:
                yield f"{participant.name} remembers {branch!r} with the order {branch.order} until another epoch comes"


@checker("bounded")
def nothing_grows(scene: Scene) -> Iterator[str]:
    """When all is over and the retention has passed, the tables are empty and the logs are short."""
    if not scene.aged:
        return
    book = scene.coordinator.core._book
    sizes = {
        "transactions": (len(book.live), 0),
        "finished transactions": (len(book.finished), scene.young),
        "keys": (len(book.keys), scene.young),
        "sessions": (len(book.sessions), len(scene.clients) + 1),
        "answers": (sum(len(session.answers) for session in book.sessions.values()), 0),
        "timers": (len(book.timers), 1),
        "unfinished branches": (sum(len(one.unended) + len(one.recovered) for one in book.participants.values()), 0),
        "questions": (sum(len(one.questions) + len(one.reports) for one in book.participants.values()), 0),
        "bytes of results": (book.unseen_bytes, 0),
        "bytes of open transactions": (book.open_bytes, 0),
        "bytes of results under keys": (book.kept_bytes, scene.young * RESULT_BYTES),
    }
    for what, (there, allowed) in sizes.items():
        if there > allowed:
            yield f"the coordinator holds {there} {what}, and {allowed} are enough"
    for process in [scene.coordinator, *scene.participants.values()]:
        allowed = 2 * process.core.live_owners() + SLACK_RECORDS + LAST_RECORDS_MAX
        if len(process.disk.durable) > allowed:
            yield f"the log of {process.name} has {len(process.disk.durable)} records, and {allowed} are enough"
    for participant in scene.participants.values():
        yield from _forgotten(participant)


def _forgotten(participant: ParticipantProcess) -> Iterator[str]:
    machine = participant.core._m
    held = {
        "branches": len(machine.branches), "timers": len(machine.timers), "callers": len(machine.call_tickets),
        "indexed branches": sum(len(one.finished) for one in machine.watermarks.values()),
    }  # fmt: skip
    for what, there in held.items():
        if there:
            yield f"{participant.name} still holds {there} {what}"
