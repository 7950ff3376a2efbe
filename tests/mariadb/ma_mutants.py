"""Known-bad changes of MariaDB as a resource and as the place of a log, each with the test that must catch it."""

from __future__ import annotations

from tests.mutated import SourceMutant

ROOM = "participant_sdk/resources/mariadb/"
FINISHING, GUARD = ROOM + "finishing.py", ROOM + "guard.py"
ONE = "troth/mariadb/finishing.py"
"""How one branch is finished."""
DRIFT = "coordinator/drift/databases.py"
OPERATIONS = "tests/mariadb/test_ma_operations.py"
TABLE, LOG = "troth/log/mariadb_branches.py", "troth/log/mariadb_schema.py"


def faults(name: str) -> tuple[str, ...]:
    return (f"tests/mariadb/test_ma_faults.py::{name}",)


def reconciling(name: str) -> tuple[str, ...]:
    return (f"tests/cli/test_cli_reconcile_mariadb.py::{name}",)


BLOCKED = ("tests/mariadb/test_ma_blocked.py",)

OUTBOX = "tests/mariadb/test_ma_outbox.py"
RELAY, LEAVING = "participant_sdk/outbox/of_mariadb.py", "participant_sdk/outbox/leaving.py"
STORE = "participant_sdk/outbox/store.py"

MUTANTS = (
    SourceMutant("a key is held by nobody", LEAVING, "    if key is not None:\n        yield HOLD",
                 "    if False:\n        yield HOLD", (OUTBOX + "::TestDrivers",)),
    SourceMutant("a key whose row is missing is held by nobody", LEAVING, "    if changed != 1:", "    if False:", (OUTBOX,)),
    SourceMutant("a look sees what is set aside", RELAY, "`key` = %s AND aside IS NULL ORDER BY position",
                 "`key` = %s ORDER BY position", (OUTBOX + "::TestRelay",)),
    SourceMutant("a look begins anew at each key", RELAY, "AND `key` > %s", "AND `key` >= %s", (OUTBOX + "::TestTurns",)),
    SourceMutant("relays take the same", RELAY, " OR %s) ORDER BY position FOR UPDATE SKIP LOCKED",
                 " OR %s) ORDER BY position", (OUTBOX + "::TestRelay",)),
    SourceMutant("it is set aside one time late", RELAY, "IF(attempts + 1 >=", "IF(attempts >=", (OUTBOX + "::TestRelay",)),
    SourceMutant("who is silent keeps what he has", RELAY,
                 '            await connection.ask(f"SET SESSION {connection.dialect.idle_limit} = %s", (self._idle_seconds,))\n',
                 "",
                 (OUTBOX + "::TestRelay",)),
    SourceMutant("texts are in another character set", LEAVING,
                 "CONVERT(UNHEX(%s) USING utf8mb4), CONVERT(UNHEX(%s) USING utf8mb4)",
                 "CONVERT(UNHEX(%s) USING latin1), CONVERT(UNHEX(%s) USING latin1)", (OUTBOX + "::TestPools",)),
    SourceMutant("who cannot delete delivers", STORE, "    await outbox.done(connection, [_NOBODY])\n", "",
                 (OUTBOX + "::test_who_could_not_record_a_delivery_delivers_nothing",)),
    SourceMutant("who cannot count failures delivers", STORE, '    await outbox.failed(connection, _NOBODY, "", 0.0, 1)\n', "",
                 (OUTBOX + "::test_who_could_not_record_a_delivery_delivers_nothing",)),
    SourceMutant("keys share few rows", "troth/log/mariadb_outbox.py", '"big") % KEYS', '"big") % 16',
                 ("tests/log/test_mariadb_branches.py",)),
    SourceMutant("of several it is said whose lock it is", ROOM + "resource.py", "if waiting and len(prepared) != 1:", "if False:",
                 BLOCKED),
    SourceMutant("of what is not certain nothing else is said", ROOM + "resource.py", "if waiting and len(prepared) != 1:",
                 "if len(prepared) != 1 or waiting:", BLOCKED),
    SourceMutant("success is believed", ONE, "                await _prove(connection, name, commit)\n", "",
                 faults("test_a_success_that_is_none_is_found_out")),
    SourceMutant("a demoted server is asked", ONE, 'if str(read_only) not in ("0", "OFF"):', "if False:",
                 reconciling("test_a_server_that_was_demoted_is_not_asked")),
    SourceMutant("who reconciles needs no proof", DRIFT, "if not await finishing.marker(connection, name, uncommitted=True):",
                 "if False:", reconciling("test_what_has_no_proof_is_not_touched")),
    SourceMutant("who reconciles takes what is gone for finished", DRIFT, "if committed is commit:", "if True:",
                 reconciling("test_what_people_have_ended_otherwise_meanwhile_is_told")),
    SourceMutant("who reconciles finishes what a session holds", ONE, "return session is not None", "return False",
                 reconciling("test_a_branch_whose_session_is_there_is_left_to_it")),
    SourceMutant("an absent id was committed", FINISHING, "Fate.COMMITTED if row and row[0] else Fate.DEAD", "Fate.COMMITTED",
                 faults("test_a_rollback_by_hand_is_found_out_when_the_decision_is_commit")),
    SourceMutant("an absent id was rolled back", FINISHING, "Fate.COMMITTED if row and row[0] else Fate.DEAD", "Fate.DEAD",
                 faults("test_a_commit_by_hand_is_found_out_when_the_decision_is_abort")),
    SourceMutant("attached is unknown", FINISHING, "await end_branch(connection, name, self.database)\n        raise",
                 "pass\n        raise", faults("test_a_branch_that_is_still_attached_is_not_taken_for_unknown")),
    SourceMutant("slow sessions go on", FINISHING, "await end_branch(connection, name, self.database)\n                raise",
                 "pass\n                raise",
                 faults("test_a_session_about_to_prepare_is_ended_before_an_absent_id_is_believed")),
    SourceMutant("earlier processes go on", ROOM + "sessions.py", "        await _kill(connection, session)\n    return found",
                 "        pass\n    return []", faults("test_what_an_earlier_process_still_does_is_ended_at_the_next_start")),
    SourceMutant("lock timeouts that are caught are forgotten", GUARD, "if errors.number(error) in _FATAL or", "if",
                 faults("test_a_lock_timeout_that_the_author_catches_is_still_a_no")),
    SourceMutant("branches of others are listed", TABLE, " and xid.branch == mine]", "]",
                 faults("test_branches_of_others_on_the_same_server_are_not_listed")),
    SourceMutant("readers leave a marker", TABLE, " SELECT %s FROM DUAL WHERE {WRITTEN} <> %s",
                 " SELECT %s FROM DUAL WHERE %s >= 0",
                 (OPERATIONS + "::test_locks_and_updates_that_change_nothing_are_no_change",)),
    SourceMutant("a claim that only updates passes by", LOG, ' AND epoch = %(epoch)s LOCK IN SHARE MODE"\n)',
                 ' AND epoch = %(epoch)s"\n)',
                 ("tests/log/test_log_mariadb.py::test_an_append_that_waited_behind_the_claim_does_not_land",)),
)  # fmt: skip
