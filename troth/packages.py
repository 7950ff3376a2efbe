"""Which of our packages Python finds, and which extra brings what is missing.

Troth installs the packages `troth`, `participant_sdk` and `coordinator`. The last name is one that others use for a folder of
their own (docs/decisions/0031-packages.md).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parents[1]
"""The directory that holds our packages, side by side."""

EXTRAS = {
    "apsw": "sqlite", "psycopg": "postgres", "psycopg_pool": "postgres", "asyncpg": "asyncpg", "sqlalchemy": "sqlalchemy",
    "aiomysql": "mariadb", "pymysql": "mariadb",
    "click": "coordinator", "rich": "coordinator", "structlog": "coordinator",
    "grpc_health": "coordinator", "grpc_reflection": "coordinator", "grpc_status": "coordinator", "google.rpc": "coordinator",
    "cryptography": "pki", "jwt": "oidc",
    "opentelemetry.sdk": "otlp", "opentelemetry.exporter": "otlp", "opentelemetry": "otel",
    "prometheus_client": "metrics", "starlette": "console", "jinja2": "console", "uvicorn": "console",
}  # fmt: skip
"""Which extra brings a module; a test compares this with pyproject.toml."""


def what_is_missing(error: ModuleNotFoundError) -> str:
    """What to install when an import has failed; an empty text when no extra of ours brings it."""
    extra = next((extra for module, extra in EXTRAS.items() if f"{error.name}.".startswith(f"{module}.")), "")
    if not extra:
        return ""
    return f"the module {error.name!r} is missing; it comes with the extra {extra!r}: pip install 'troth[{extra}]'"


def take(name: str) -> None:
    """Make `import name` mean our package in this process, whatever else is on the path. For processes of our own."""
    if name in sys.modules or _is_ours(importlib.util.find_spec(name)):
        return
    spec = importlib.util.spec_from_file_location(name, HERE / name / "__init__.py", submodule_search_locations=[str(HERE / name)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _is_ours(spec: ModuleSpec | None) -> bool:
    places = [] if spec is None else spec.submodule_search_locations or []
    return str(HERE / spec.name) in [str(Path(place).resolve()) for place in places] if spec is not None else False


class Collision(MetaPathFinder):
    """Asked last, when nobody has found a module below `package`: says so when that is because another package has its name."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Find nothing, and raise ImportError with the way out."""
        spec = importlib.util.find_spec(self.package) if name.startswith(f"{self.package}.") else None
        if spec is not None and not _is_ours(spec):
            places = ", ".join(spec.submodule_search_locations or [spec.origin or "?"])
            raise ImportError(
                f"{name} is needed of Troth, but the package {self.package!r} that Python finds is {places}. Rename yours, or take "
                f"its directory off PYTHONPATH where participant_sdk.testing is imported; Troth's is {HERE / self.package}.",
                name=name,
            )


def explain_collision(package: str) -> None:
    """Have the failed import of a module below `package` tell who has the name."""
    if not any(isinstance(finder, Collision) and finder.package == package for finder in sys.meta_path):
        sys.meta_path.append(Collision(package))
