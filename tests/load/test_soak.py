"""The soak, for as long as a test may take: nothing fails without a reason, and nothing is held afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.load.soak import Plan, Soak, explained, slope_per_hour

pytestmark = [pytest.mark.slow, pytest.mark.timing]


@pytest.mark.timeout(2400)
async def test_a_soak_leaves_nothing_behind(tmp_path: Path, full_size: bool) -> None:
    plan = Plan() if full_size else Plan(seconds=12, rate=50, rest_s=6)
    report = await Soak(plan).run(tmp_path)
    print(json.dumps(report))
    assert report["unexplained"] == 0, report["examples"]
    assert report["requests"] == plan.seconds * plan.rate
    assert report["outcomes"]["left"] >= 0.05 * report["requests"]
    assert report["outcomes"]["error event"] >= 0.005 * report["requests"]
    # Who leaves at once may not have arrived.
    assert report["requests"] - report["outcomes"]["left"] <= report["records"] <= report["requests"]
    assert all(abs(after - before) <= 5 for before, after in zip(report["before"], report["after"], strict=True))
    if full_size:
        assert report["rss_mib_per_hour"] <= 2


@pytest.mark.parametrize(
    ("outcome", "faults", "is_explained"),
    [
        ("ok", [], True),
        ("ok", ["early: resets"], True),
        ("error event", ["late: closes"], True),
        ("error event", ["early: resets", "late: closes"], True),
        ("error event", ["early: resets"], False),
        ("error event", [], False),
        ("502", ["early: resets", "early: says 500"], True),
        ("502", ["early: resets", "late: resets"], True),
        ("502", ["early: resets"], False),
        ("502", ["late: resets"], False),
        ("503", [], False),
        ("500", ["early: resets", "early: says 500"], False),
        ("garbled", ["late: closes"], False),
    ],
)
def test_a_failure_is_explained_by_faults_that_had_to_be_noticed(
    outcome: str, faults: list[str], is_explained: bool
) -> None:
    assert explained(outcome, faults) == is_explained


def test_a_slope_is_of_what_comes_after_the_warm_up() -> None:
    rising_at_first = [(float(second), min(second, 30) * 1000 + second) for second in range(100)]
    assert slope_per_hour(rising_at_first) == pytest.approx(3600)
