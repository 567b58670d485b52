"""A journal whose process is killed again and again: every admitted request has one record, and none has two."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.store.journal.kept import INTERRUPTED, periods_of
from app.store.sqlite import open_database
from tests.fakes.journal_process import AT_A_TIME, COST_USD, Work, opened, recording
from tests.fakes.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.slow
# Between the end of a request and the time when it is on the disk, whatever happens.
BUFFERED_S = 1.0


@dataclass
class Told:
    """What the processes said they had done, as far as it was read."""

    path: Path
    admitted: set[str] = field(default_factory=set)
    settled: dict[str, float] = field(default_factory=dict)
    last: int = -1
    """The highest number."""
    _offset: int = 0

    def read(self) -> int:
        """Read on; how many were admitted."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                whole, _, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + 1 if whole else 0
            for line in whole.decode().splitlines():
                self._note(line.split())
        return len(self.admitted)

    def _note(self, words: list[str]) -> None:
        if words[0] == "a":
            self.admitted.add(words[1])
            self.last = max(self.last, int(words[1].removeprefix("req-")))
        else:
            self.settled[words[1]] = float(words[2])


@pytest.fixture(params=["sqlite", "redis"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer | None]:
    if request.param == "sqlite":
        yield None
        return
    with running_redis(tmp_path) as server:
        yield server


def killed_at_random(told: Told, redis: str | None, requests: int, kills: int) -> list[float]:
    """Have so many requests journalled, about; when the processes were killed."""
    folder, killed_at = str(told.path.parent), []
    share = requests // (kills + 1)
    for _ in range(kills):
        before, first = told.read(), _next(told)
        process = subprocess.Popen(Work(folder, redis, first, requests).command)
        while told.read() - before < share:
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.02)
        # At any point of what the recorder does.
        time.sleep(random.uniform(0.0, 0.5))
        process.kill()
        killed_at.append(time.monotonic())
        process.wait()
    rest = max(share, requests - told.read())
    subprocess.run(Work(folder, redis, _next(told), rest).command, check=True)
    told.read()
    return killed_at


def _next(told: Told) -> int:
    """After the last number, and those that may have been admitted without a word."""
    return told.last + 1 + AT_A_TIME


async def kept(folder: Path, redis: str | None) -> list[dict[str, Any]]:
    """All records, after another process has started and ended in good order."""
    async with recording(folder, redis) as (_, recorder):
        await recorder.recover()
    records: list[dict[str, Any]] = []
    async with opened(folder, redis) as store:
        place: str | None = None
        while found := await store.after(place, 1_000):
            records += [orjson.loads(record) for _, record in found]
            place = found[-1][0]
    return records


def spent_usd(folder: Path, redis: RedisServer | None) -> dict[str, float]:
    """By period."""
    if redis is None:
        rows = open_database(folder).execute("SELECT period, usd FROM spent WHERE key_id = 'tester'").fetchall()
        return dict(rows)
    names = [name.decode() for name in redis.do("KEYS", "thalamus:spent:tester:*")]
    return {name.rpartition(":")[2]: float(redis.do("HGET", name, "spent")) for name in names}


@pytest.mark.timeout(3_600)
def test_every_admitted_request_ends_once_however_often_the_journal_is_killed(
    tmp_path: Path, redis: RedisServer | None, full_size: bool
) -> None:
    requests, kills = (100_000, 20) if full_size else (3_000, 4)
    url = redis.url if redis else None
    told = Told(tmp_path / "told")
    killed_at = killed_at_random(told, url, requests, kills)
    records = asyncio.run(kept(tmp_path, url))

    seen = Counter(record["request_id"] for record in records)
    interrupted = {record["request_id"] for record in records if record["end"]["outcome"] == INTERRUPTED}
    late = [
        min(at - told.settled[one] for at in killed_at if at >= told.settled[one])
        for one in interrupted & told.settled.keys()
    ]
    figures = {
        "store": "redis" if redis else "sqlite",
        "admitted": len(told.admitted),
        "kills": len(killed_at),
        "records": len(records),
        "interrupted": len(interrupted),
        "settled_but_reconstructed": len(late),
        "oldest_of_those_s": round(max(late, default=0.0), 3),
    }
    print(f"\n{json.dumps(figures)}")

    assert told.admitted <= seen.keys(), "each that may have been sent has a record"
    assert set(seen.values()) == {1}, "and only one"
    assert len(seen.keys() - told.admitted) <= kills * AT_A_TIME, "the others were killed before they could say so"
    assert len(told.admitted) >= requests
    assert max(late, default=0.0) <= BUFFERED_S
    assert not list((tmp_path / "spool").iterdir()), "nothing is left behind"
    expected_usd = sum(record["end"]["cost_usd"] or 0.0 for record in records)
    day, month = periods_of(records[0]["time"])
    spent = spent_usd(tmp_path, redis)
    assert spent[month] == pytest.approx(expected_usd, abs=1e-6)
    assert sum(usd for period, usd in spent.items() if period.startswith(day[:7]) and period != month) == pytest.approx(
        expected_usd, abs=1e-6
    )
    assert (len(records) - len(interrupted)) * COST_USD <= expected_usd + 1e-6
