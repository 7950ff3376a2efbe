"""Writes the bill of materials of a lock, in CycloneDX 1.6: each package with its version and the hashes of its files.

    python requirements/bill.py requirements/daemon.txt > requirements/daemon.cdx.json

It says nothing that is not in the lock, so it has no time and no serial number: the same lock makes the same bill.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = re.compile(r"^([a-z0-9-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def packages(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of each package of a lock, by name."""
    return {name: (version, re.findall(r"sha256:([0-9a-f]{64})", hashes)) for name, version, hashes in _PACKAGE.findall(lock)}


def bill(lock: str) -> dict[str, Any]:
    """The bill of materials of a lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    components = [
        {
            "type": "library", "bom-ref": f"pkg:pypi/{name}@{version}", "name": name, "version": version,
            "purl": f"pkg:pypi/{name}@{version}", "hashes": [{"alg": "SHA-256", "content": one} for one in hashes],
        }
        for name, (version, hashes) in sorted(packages(lock).items())
    ]  # fmt: skip
    itself = {"type": "application", "bom-ref": "troth", "name": project["name"], "version": project["version"]}
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": itself}, "components": components,
        "dependencies": [{"ref": "troth", "dependsOn": [one["bom-ref"] for one in components]}],
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(bill(Path(sys.argv[1]).read_text()), indent=1) + "\n")
