"""What a decision costs without its prediction, for ten models and ten thousand, at both speeds. Prints its figures."""

from __future__ import annotations

import asyncio
import statistics
import time

import numpy as np
import pytest

from app.domain.models import Speed, TokenPrice
from app.domain.preferences import parse_body
from router_models.prediction import PredictionRow
from tests.fakes.routing import fleet_of, llm, world_of
from tests.fakes.world import request
from tests.fakes.yardstick import SHARED, Machine

pytestmark = pytest.mark.timing

ROUTING = {"weights": {"cost": 0.3, "latency": 0.1, "size": 0.2}, "max_cost_usd": 0.05}


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["static", "transformer"])
@pytest.mark.parametrize(("models", "budget_ms", "repeats"), [(10, 0.1, 3000), (10_000, 2.0, 200)])
def test_a_decision_keeps_its_budget(
    models: int, budget_ms: float, repeats: int, encoder: str, machine: Machine
) -> None:
    rng = np.random.default_rng(7)
    catalog = [
        llm(
            f"m{number}",
            parameters_b=float(rng.uniform(1, 400)),
            price=TokenPrice(*rng.uniform(0.01, 20, 2)),
            speed=Speed(rng.uniform(500, 9000), rng.uniform(0.002, 0.05)),
        )
        for number in range(models)
    ]
    quality = {model.name: float(rng.random()) for model in catalog}
    tokens = {model.name: float(rng.uniform(10, 800)) for model in catalog}
    world = world_of(*catalog, quality=quality, output_tokens=tokens)
    assert world.predictor is not None
    router, row, fleet = world.router, world.predictor.row(), fleet_of(*catalog)

    async def predict(_: object) -> object:
        return row

    def glance(conversation: object) -> PredictionRow | None:
        return row if encoder == "static" else None

    # What encoders cost is not measured here.
    world.predictor.predict = predict  # type: ignore[assignment,method-assign]
    world.predictor.glance = glance  # type: ignore[method-assign]
    world.predictor.static_error = 0.0
    asked = request(preferences=parse_body(ROUTING).preferences)

    async def measure() -> list[float]:
        took_ms = []
        for _ in range(repeats):
            began_at = time.perf_counter()
            await router.route(asked, fleet, tally=world.tally)
            took_ms.append((time.perf_counter() - began_at) * 1e3)
        return took_ms

    took_ms = asyncio.run(measure())
    p50_ms, p99_ms = statistics.median(took_ms), statistics.quantiles(took_ms, n=100)[98]
    assert set(world.tally.encoders) == {encoder}
    print(f"\n{models} models, {encoder}: p50 {p50_ms:.4f} ms, p99 {p99_ms:.4f} ms")
    assert p50_ms < SHARED * machine.slowness() * budget_ms
