"""Known-bad changes to the SQLite resource and to the participant's core under it. Each names the promise that it breaks
(`promises`), and the checkers must catch every one.

Three belts have braces beside them, and are cut together with them. A statement that was compiled before any session is caught by
the session that is always there, and by the authorizer, which expires whatever was compiled before. What a foreign key's action
changes is looked up in the schema, and the authorizer is asked for it. Behind a virtual table stand tables of a kind of their own.
"""

from __future__ import annotations

from tests.sim_resource import mutants_guard, mutants_restore, mutants_work

MUTANTS = [*mutants_work.MUTANTS, *mutants_restore.MUTANTS, *mutants_guard.MUTANTS]
assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
