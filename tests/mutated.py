"""Known-bad changes of source text: each must make a test fail. Imported first, this applies the one that the environment names.

    python -m pytest -p tests.mutated ...        with TROTH_SOURCE_MUTANT={"file": ..., "old": ..., "new": ...}

The text replaces what is there while the module is imported; no file changes.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from tests import patience

ROOT = Path(__file__).resolve().parent.parent
VARIABLE = "TROTH_SOURCE_MUTANT"
TESTS_SECONDS_MAX = 60
"""A mutant that hangs its tests is caught, too."""
WAITING_SECONDS_MAX = "10"
"""What must happen under a mutant is waited for so long: most that make a test wait make it wait for ever."""
FITS_NO_MORE = re.compile(
    r"TypeError: [^;\n]*argument|AttributeError: (module|type object) |(Name|Import|ModuleNotFound|Syntax|Indentation)Error: "
    r"(?!sys\.meta_path is None)"
)
"""What Python says of a change that was made for other code than there is now: that is caught whatever the tests look at. (The
exception is what Python 3.13 says when something is logged while it ends.)"""


@dataclass(frozen=True)
class SourceMutant:
    """One known-bad change."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """The tests that must catch it, cheapest first."""

    def text(self) -> str:
        """The file with the change. What is replaced must be there exactly once."""
        source = (ROOT / self.file).read_text(encoding="utf-8")
        assert source.count(self.old) == 1, f"{self.name}: {self.old!r} is {source.count(self.old)} times in {self.file}"
        return source.replace(self.old, self.new)

    def environment(self) -> dict[str, str]:
        """The environment in which Python imports the changed text, with this module as a plugin or imported first. MySQL, which
        would start for each of them, finds nothing that MariaDB does not."""
        patient = os.environ.get(patience.VARIABLE, WAITING_SECONDS_MAX)
        text = json.dumps(asdict(self))
        return {**os.environ, "TEST_MYSQL_BIN": "", VARIABLE: text, "PYTHONPATH": str(ROOT), patience.VARIABLE: patient}

    def survives(self) -> bool:
        """Run its tests; whether all of them pass."""
        # A mutant's tests must not try mutants themselves.
        options = ("-x", "-q", "-p", "tests.mutated", "-p", "no:cacheprovider", "--ignore-glob=*mutants.py")
        command = [sys.executable, "-m", "pytest", *options, *self.tests]
        with tempfile.TemporaryFile() as said:
            running = subprocess.Popen(
                command, cwd=ROOT, env=self.environment(), stdout=said, stderr=said, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = running.wait(TESTS_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                return False
            finally:
                # A broken test leaves its children behind: those of its session end with it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
            said.seek(0)
            text = said.read().decode(errors="replace")
            assert code in (0, 1) and not FITS_NO_MORE.search(text), f"{self.name}: {text[-2000:]}"
        return code == 0


def survivors(mutants: Sequence[SourceMutant], jobs: int = 2) -> list[str]:
    """Run the tests of each mutant; the names of those that nothing caught. Progress goes to stderr."""
    found = []
    with ThreadPoolExecutor(jobs) as pool:
        for mutant, survived in zip(mutants, pool.map(SourceMutant.survives, mutants), strict=True):
            sys.stderr.write(f"  {'SURVIVED' if survived else 'killed':10} {mutant.name}\n")
            if survived:
                found.append(mutant.name)
    return found


def changes(package: str, file: str, tests: tuple[str, ...], *texts: tuple[str, str, str]) -> list[SourceMutant]:
    """Several changes of one file, each with its name, the old text and the new one, that the same tests must catch."""
    return [SourceMutant(name, f"{package}/{file}.py", old, new, tests) for name, old, new in texts]


def drawn(mutants: Sequence[SourceMutant], count: int, variable: str) -> Sequence[SourceMutant]:
    """Some `count` of them, the same ones at each run; all where the environment variable says `all`."""
    return mutants if os.environ.get(variable) == "all" else mutants[:: len(mutants) // count]


def check_all_fit(mutants: Sequence[SourceMutant]) -> None:
    """Every mutant changes what is there, and has a name of its own."""
    for mutant in mutants:
        mutant.text()
    assert len({mutant.name for mutant in mutants}) == len(mutants)


def main(mutants: Sequence[SourceMutant]) -> int:
    """Run them, or those whose name or file has the text of the command line; returns the exit status."""
    wanted = " ".join(sys.argv[1:])
    chosen = [mutant for mutant in mutants if wanted in mutant.name or wanted in mutant.file]
    alive = survivors(chosen)
    sys.stdout.write(f"mutants: killed={len(chosen) - len(alive)}/{len(chosen)}\n")
    return 1 if alive else 0


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the one module that is changed, before anybody else does (pytest has a hook of its own for what it rewrites)."""

    def __init__(self, mutant: SourceMutant) -> None:
        self._path = ROOT / mutant.file
        self._module = mutant.file.removesuffix(".py").replace("/", ".")
        self._text = mutant.text()
        assert self._module not in sys.modules, f"{self._module} was imported before its mutant"

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._text, str(self._path), "exec"), module.__dict__)


if VARIABLE in os.environ:
    _given = json.loads(os.environ[VARIABLE])
    sys.meta_path.insert(0, _Finder(SourceMutant(**{**_given, "tests": tuple(_given["tests"])})))
