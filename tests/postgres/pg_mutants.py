"""Known-bad changes of PostgreSQL as a resource, and of slots, each with the tests that must catch it."""

from __future__ import annotations

from tests.mutated import SourceMutant

BLOCKING = "coordinator/core/blocking.py"
TOLD = ("tests/coordinator_core/test_blocking.py",)
BLOCKED = ("tests/postgres/test_pg_blocked.py",)
CORE = "coordinator/core/slots.py"
DECIDING = "coordinator/core/deciding.py"
TABLE = "troth/log/postgres_branches.py"
ROOM = "participant_sdk/resources/postgres/"
SHARED = "participant_sdk/resources/relational/"
SLOTS = ("tests/coordinator_core/test_slots.py",)
FAULTS = ("tests/postgres/test_faults.py",)
OPERATIONS = ("tests/postgres/test_operations.py",)
OUTBOX = ("tests/postgres/test_outbox.py",)
RELAY, TURNS = "participant_sdk/outbox/relay.py", "participant_sdk/outbox/turns.py"

CHEAP = (
    SourceMutant("a slot that is away gets work", CORE, "return not slot.ready, len(", "return len(", SLOTS),
    SourceMutant("all work goes to one slot", CORE, "len(slot.unended) + len(slot.recovered), slot.next_order", "0, 0", SLOTS),
    SourceMutant("one slot is asked for all", CORE, "[slot.name for slot in slots]", "[slots[0].name]", SLOTS),
    SourceMutant("a second slot is let in", CORE, "service_of(name) == service and name", "False and name", SLOTS),
    SourceMutant("nobody may be loosely coupled", CORE, " or participant.loosely_coupled", "", SLOTS),
    SourceMutant("a commit may name two slots", DECIDING, "return cause_of(Reason.SECOND_SLOT", "cause_of(Reason.SECOND_SLOT",
                 SLOTS),
    SourceMutant("clients may name a slot", CORE, "if service_of(name) == name else None", "", SLOTS),
    SourceMutant("a name that begins so is one's own", "troth/gids.py", '{_MARK}:{service}:{slot}:"', '{_MARK}:{service}"',
                 ("tests/common/test_gids.py",)),
    SourceMutant("who goes on does not wait for the rollback", "participant_sdk/external.py",
                 "            await asyncio.wait((losing,))\n", "            pass\n", ("tests/participant/test_external.py",)),
    SourceMutant("what begins goes before what is decided", "participant_sdk/external.py",
                 "            await self._backlog.give_way()\n", "", ("tests/participant/test_external.py",)),
    SourceMutant("what was finished counts as a backlog", "participant_sdk/backlog.py", "            self._unfinished -= 1\n",
                 "            pass\n", ("tests/participant/test_external.py",)),
    SourceMutant("who begins waits for a resource that finishes nothing", "participant_sdk/backlog.py",
                 "asyncio.timeout(HELD_BACK_SECONDS_MAX)", "asyncio.timeout(None)", ("tests/participant/test_external.py",)),
    SourceMutant("any cancellation is ours", "participant_sdk/border.py", "asyncio.CancelledError) and is_cancelling():",
                 "asyncio.CancelledError):", ("tests/participant/test_border.py",)),
    SourceMutant("what nobody knows stays prepared", "participant_sdk/external.py", "        self._jobs.start(self._sweep())\n", "",
                 ("tests/participant/test_external.py",)),
    SourceMutant("what is told for people has no end", BLOCKING, "if len(participant.blocking) < BLOCKING_MAX:", "if True:", TOLD),
    SourceMutant("names are kept as they come", BLOCKING, "name[:NAME_CHARACTERS_MAX] for name in told[:NAMES_MAX]",
                 "name for name in told", TOLD),
    SourceMutant("of what is over it is told whom it holds up", BLOCKING, " or not _is_open(book, participant, name)", "", TOLD),
    SourceMutant("who holds nobody up takes a place", BLOCKING, "BLOCKING_MAX and since_ms:", "BLOCKING_MAX:", TOLD),
    SourceMutant("since when is since now", BLOCKING, "(before.since_ms if before is not None else 0) or", "0 or", TOLD),
    SourceMutant("what a resource tells is believed", "participant_sdk/blocked.py", "called(_told, answer) if", "_told(answer) if",
                 ("tests/participant/test_blocked.py",)),
    SourceMutant("a resource is asked with each question", "participant_sdk/blocked.py", "        if now >= self._again_at:",
                 "        if True:", ("tests/participant/test_blocked.py",)),
)  # fmt: skip
"""Those whose tests need no server."""

COSTLY = (
    SourceMutant("readers leave a marker", TABLE, " WHERE pg_current_xact_id_if_assigned() IS NOT NULL", "",
                 ("tests/postgres/test_pg_contract.py",)),
    SourceMutant("an absent gid was rolled back", ROOM + "finishing.py", "Fate.COMMITTED if rows[0][0] else Fate.DEAD", "Fate.DEAD",
                 FAULTS),
    SourceMutant("an absent gid was finished", ROOM + "finishing.py", "            return False\n        return True",
                 "            return True\n        return True", FAULTS),
    SourceMutant("slow backends go on", ROOM + "finishing.py", "                await self.ask(END_BRANCH, (digest(name),))\n",
                 "                pass\n", FAULTS),
    SourceMutant("earlier processes go on", ROOM + "resource.py",
                 "await self._finishers.ask(END_EARLIER, (short_name(self._participant), self._nonce))", "[]", FAULTS),
    SourceMutant("a refused gid is rolled back", SHARED + "resource.py", "if resource_branch in self._gone:", "if False:", FAULTS),
    SourceMutant("no tombstone is left", TABLE, "VALUES (%(gid)s, false) ON CONFLICT",
                 "SELECT %(gid)s, false WHERE false ON CONFLICT", FAULTS),
    SourceMutant("who catches a refusal goes on", SHARED + "guard.py",
                 "        self.denial = RequestError(Reason.FORBIDDEN_SQL, what)\n        return self.denial",
                 "        return RequestError(Reason.FORBIDDEN_SQL, what)", OPERATIONS),
    SourceMutant("methods end the transaction", ROOM + "guard.py", "_ENDS = (\"commit\", ", "_ENDS = (", OPERATIONS),
    SourceMutant("a connection refuses for ever", ROOM + "guard.py", "            connection.__class__ = kind\n", "", OPERATIONS),
    SourceMutant("failed transactions go on", ROOM + "branch.py", "        if status == TransactionStatus.INERROR:",
                 "        if status == TransactionStatus.INERROR and False:", OPERATIONS),
    SourceMutant("values are told", ROOM + "sqlstates.py", "        told = f\"{operation}: {name} does not hold",
                 "        told = f\"{error} {operation}: {name} does not hold", OPERATIONS),
    SourceMutant("settings outlive the branch", ROOM + "resource.py", "{int(limits.lock_wait_seconds * 1000)}', true)",
                 "{int(limits.lock_wait_seconds * 2000)}', false)", OPERATIONS),
    SourceMutant("a StopIteration in a block reaches nobody", "participant_sdk/pins.py",
                 " and not isinstance(error, StopIteration)", "", ("tests/postgres/test_blocks.py",)),
    SourceMutant("a fault of the relay ends it", "participant_sdk/outbox/relay.py",
                 "except Exception as error:\n                    wait",
                 "except self._outbox.kinds as error:\n                    wait", (OUTBOX[0] + "::TestBroken",)),
    SourceMutant("what another relay has put off is delivered", "participant_sdk/outbox/of_postgres.py",
                 " AND (due <= clock_timestamp() OR %s) ORDER BY position FOR", " AND (true OR %s) ORDER BY position FOR",
                 (OUTBOX[0] + "::TestBroken",)),
    SourceMutant("what a delivery raises ends the relay", "participant_sdk/outbox/relay.py",
                 "await finished(self._deliver, message)", "await self._deliver(message)", OUTBOX),
    SourceMutant("a key has one message in a batch", TURNS, "each_max = -(-most.messages // (len(keys) + len(positions)))",
                 "each_max = 1", (OUTBOX[0] + "::TestTurns",)),
    SourceMutant("what is behind another relay's passes it", TURNS, "one.key in broken or (one.position not in taken and one.key is"
                 " not None)", "False", (OUTBOX[0] + "::TestTurns",)),
    SourceMutant("what is behind one that is not due passes it", TURNS, "if line in stopped or not", "if not",
                 (OUTBOX[0] + "::TestTurns",)),
    SourceMutant("what is behind one that fails passes it", RELAY, "            if error is not None:\n                break\n", "",
                 (OUTBOX[0] + "::TestTurns",)),
    SourceMutant("a topic that is away goes with the others", RELAY, "apart = {*self._apart, *+self._flying}", "apart = set()",
                 (OUTBOX[0] + "::TestTurns",)),
    SourceMutant("a topic that is away is tried with all", RELAY, "min(PROBE_MAX, limits.batch_max) if", "limits.batch_max if",
                 (OUTBOX[0] + "::TestTurns",)),
    SourceMutant("one that is away is its whole topic", RELAY, "[topic for topic in errors if topic not in reached]", "[*errors]",
                 (OUTBOX[0] + "::TestTurns",)),
    SourceMutant("a batch waits for its slowest", RELAY, "timeout=self._limits.look_seconds)", "timeout=None)",
                 (OUTBOX[0] + "::TestTurns",)),
    SourceMutant("a batch goes on with a key for ever", RELAY, "if outcomes and clock() >= ends:", "if False:",
                 (OUTBOX[0] + "::TestTurns",)),
    SourceMutant("a look begins at the first topic", TURNS, 'topics[-1] if len(topics) == TOPICS_MAX else ""', '""',
                 (OUTBOX[0] + "::TestTurns",)),
    SourceMutant("who cannot record a delivery delivers", "participant_sdk/outbox/of_postgres.py",
                 "            await try_to_record(self, connection)\n", "", OUTBOX),
    SourceMutant("who is silent keeps what he has", "participant_sdk/outbox/of_postgres.py",
                 "            await connection.execute(_BEGIN, (self._idle,))\n", "", OUTBOX),
    SourceMutant("a text that cannot be stored ends the relay", "participant_sdk/border.py", "encodable(words[:", "(words[:",
                 OUTBOX),
    SourceMutant("it is told who waits for the branches of others", ROOM + "resource.py",
                 "asking.ask(branches.HELD, (gid_prefix(self._participant),))", 'asking.ask(branches.HELD, ("",))', BLOCKED),
    SourceMutant("nobody is said to wait", TABLE, "coalesce(waits.sessions, 0), coalesce(", "0, coalesce(", BLOCKED),
    SourceMutant("who goes leaves what is decided undone", "participant_sdk/embedded/service.py",
                 "while await own.owing():", "while False:", ("tests/postgres/test_embedded_pg.py",)),
    SourceMutant("nobody visits", "participant_sdk/slots.py", "if slot.owned:\n", "if True:\n", ("tests/postgres/test_slots.py",)),
)  # fmt: skip
"""Those whose tests start a server."""
