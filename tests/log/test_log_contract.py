"""The logs of Troth keep the log's contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from log_contract import LogContract
from log_samples import FileStore, MemoryStore, PostgresStore, Store


class TestSqliteLog(LogContract):
    """The log in an SQLite file."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return FileStore(tmp_path)


class TestMemoryLog(LogContract):
    """The log in memory."""

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestPostgresLog(LogContract):
    """The log in a PostgreSQL database."""

    @pytest.fixture
    def store(self, postgres_store: PostgresStore) -> Store:
        return postgres_store
