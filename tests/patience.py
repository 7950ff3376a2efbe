"""How long a test waits for what must happen. It is said in one place, and generous: nobody knows how slow a machine is, or for how
long it pauses, and a test that passes waits no longer than it has to.

A known-bad change that makes tests wait for ever is to be caught sooner: `tests.mutated` names a shorter time.
"""

from __future__ import annotations

import os

VARIABLE = "TEST_PATIENCE_SECONDS"
SECONDS = float(os.environ.get(VARIABLE, "90"))
