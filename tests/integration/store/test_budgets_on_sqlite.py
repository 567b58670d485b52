"""The bookkeeping of budgets on a real file: whatever fails there, no budget is overdrawn and no money stays behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

from tests.fakes.sqlite_bank import SqliteVault
from tests.unit.app.store.money.test_budgets import Bookkeeping


class BookkeepingOnSqlite(Bookkeeping):
    """The same on SQLite."""

    def new_vault(self) -> SqliteVault:
        self._folder = tempfile.TemporaryDirectory()
        return SqliteVault(Path(self._folder.name))

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if hasattr(self, "_folder"):
                self._folder.cleanup()


BookkeepingOnSqlite.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    # To find a shorter one among real files takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
TestBookkeepingOnSqlite = BookkeepingOnSqlite.TestCase
