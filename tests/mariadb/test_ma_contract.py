"""MariaDB is a resource: the suite that the SDK ships, on the real server, with each driver."""

from __future__ import annotations

import pytest
from ma_bench import ASYNC, BLOCKING, Database, MariadbWorkbench, from_dsn

from participant_sdk.testing.contract import ResourceContract, Workbench

pytestmark = pytest.mark.both


class TestAiomysql(ResourceContract):
    @pytest.fixture
    def workbench(self, database: Database) -> Workbench:
        return MariadbWorkbench(database, ASYNC, from_dsn("aiomysql"))


class TestAsyncmy(ResourceContract):
    @pytest.fixture
    def workbench(self, database: Database) -> Workbench:
        return MariadbWorkbench(database, ASYNC, from_dsn("asyncmy"))


class TestPymysql(ResourceContract):
    @pytest.fixture
    def workbench(self, database: Database) -> Workbench:
        return MariadbWorkbench(database, BLOCKING, from_dsn("pymysql"))
