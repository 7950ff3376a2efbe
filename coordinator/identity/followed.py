"""A file of settings that is followed while the daemon runs: read again once it has changed, and the last good content stays."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from troth.errors import ConfigError
from troth.identity.tls import content_of, stamp_of
from troth.logs import get_logger

Content = TypeVar("Content")

LOOK_SECONDS = 1.0
"""How often a file is looked at, at most: who has changed it waits no longer."""

log = get_logger("troth.identity")


class Followed(Generic[Content]):
    """What a file holds. Making it raises `ConfigError` for a file that cannot be used; later such a file is told once, and the
    last good content stays in use."""

    def __init__(self, path: str, parse: Callable[[bytes], Content], clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._parse, self._clock = parse, clock
        self._stamp = stamp_of(path)
        self._looked = clock()
        self.digest = ""
        """What tells the content apart from another one."""
        self._content = self._read()
        self.versions = 1
        """How many good contents there were."""
        self.on_change: Callable[[ConfigError | None], None] = lambda error: None
        """Hears of every change: `None`, or why it cannot be used."""

    def __call__(self) -> Content:
        """The newest good content."""
        now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        return self._content

    def _look(self) -> None:
        stamp = stamp_of(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._content = self._read()
        except ConfigError as error:
            log.error("a new file cannot be used; the last good one stays", file=self.path, why=error.message, hint=error.hint)
            self.on_change(error)
        else:
            self.versions += 1
            log.info("a new file is in use", file=self.path)
            self.on_change(None)

    def _read(self) -> Content:
        content = content_of(self.path)
        _check_who_writes(Path(self.path))
        parsed = self._parse(content)
        self.digest = hashlib.sha256(content).hexdigest()
        return parsed


def _check_who_writes(path: Path) -> None:
    """Whoever may write such a file may do anything."""
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o022:
        text = f"{path} may be written by others (mode {mode:04o})"
        raise ConfigError(text, hint="Let only its owner write it: chmod go-w.")
