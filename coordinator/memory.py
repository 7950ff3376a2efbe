"""How much memory this process may use: the machine's, or that of the control groups which it is in, whichever is least."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def usable_bytes(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The memory that limits us, in bytes. `groups` is where control groups are mounted, of either version."""
    return min((_of_the_machine(), *_of_groups(proc, groups)))


def _of_the_machine() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_groups(proc: Path, groups: Path) -> Iterator[int]:
    """The limits of our groups and of all groups around them. What is not there, or is no number (`max`), limits nothing."""
    for root, path, file in _memberships(proc, groups):
        # In a container the path is that of the host, while the container's own group is mounted at the root.
        for group in (path, *path.parents):
            with contextlib.suppress(OSError, ValueError):
                yield int((root / group.relative_to("/") / file).read_text())


def _memberships(proc: Path, groups: Path) -> Iterator[tuple[Path, Path, str]]:
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield groups, Path(path), "memory.max"
            elif "memory" in controllers.split(","):
                yield groups / "memory", Path(path), "memory.limit_in_bytes"
