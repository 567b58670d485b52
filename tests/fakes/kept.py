"""A journal of a gateway that has run, as a file in its `state_dir`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from app.store.journal.kept import Batch, Ended, Feedback
from app.store.journal.sqlite_journal import SqliteJournal


def keep(config: Path, ended: Sequence[Ended], feedback: Sequence[Feedback] = ()) -> None:
    """What a process named "spool" told, its rows numbered from 1 on; `config` is what `write_config` wrote."""

    async def apply() -> None:
        store = SqliteJournal(config.parent / "state")
        await store.apply(Batch("spool", len(ended) + len(feedback), ended=list(ended), feedback=list(feedback)))
        await store.aclose()

    asyncio.run(apply())
