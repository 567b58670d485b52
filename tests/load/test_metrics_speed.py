"""What metrics cost a request: all that is counted for one, and what is worked out for that. Prints its figures."""

from __future__ import annotations

import json
import time

import pytest

from app.admission.promises import Baseline, Promises
from app.domain.decision import Decision
from app.domain.request import Preferences
from app.domain.usage import Usage
from app.routing.estimates import Expected
from app.routing.evidence import Evidence
from app.routing.filters import CardFilter, excluded
from app.routing.record import predicted_quality
from app.store.journal.journal import Outcome
from app.telemetry.metrics import Metrics
from app.upstream.answers.answer import Answer, Form
from app.upstream.served import Served
from tests.fakes.routing import llm, world_of
from tests.fakes.world import request
from tests.fakes.yardstick import Machine

# What metrics may add to the CPU time of a request.
BUDGET_US = 50.0
NAMES = tuple(f"model-{number}" for number in range(10))
ASKED = request(stream=True, preferences=Preferences({"max_latency_s": 60.0, "max_cost_usd": 1.0}), deadline_s=60.0)
OUTCOME = Outcome("ok", NAMES[0], usage=Usage(812, 164), cost_usd=0.001, ttft_s=0.2, duration_s=2.0, attempts=1)


def _count(metrics: Metrics, promises: Promises, decision: Decision, served: Served) -> None:
    """All that is counted between the head of a request and the end of its answer."""
    chosen = decision.chosen.model.name
    metrics.in_flight.inc()
    metrics.let_in(0.0001)
    metrics.predicted("static", unfamiliar=False)
    metrics.excluded("max_latency_s", 2)
    metrics.decided(chosen, "default", "best")
    metrics.decision_took(0.0001)
    metrics.promises.chose(chosen, decision.chosen.quality)
    metrics.attempted(chosen, "ok")
    metrics.served(chosen, 0.2, 0.0004)
    promises.answered(ASKED, served, OUTCOME)
    metrics.used(chosen, "default", 812, 164, 0.001)
    metrics.kept.spent("team", 0.001)
    metrics.in_flight.dec()
    metrics.completed("chat", "ok", 2.0)
    metrics.kept.ended("team", "ok")


@pytest.mark.slow
def test_counting_a_request_costs_a_twentieth_of_a_millisecond_at_most(machine: Machine) -> None:
    models = tuple(llm(name) for name in NAMES)
    there = world_of(*models, quality={name: 0.5 + 0.04 * number for number, name in enumerate(NAMES)})
    decision = there.decide()
    metrics = Metrics(NAMES, ["default"], ["pool"])
    metrics.names.know_keys(["team"])
    promises = Promises(metrics.promises, Baseline(models[3], predicted_quality))
    answer = Answer(Form(NAMES[0], stream=True))
    answer.complete = True
    served = Served(decision, decision.chosen, 1, answer, "http://10.0.0.1:8000", 0.03)

    def cpu_us(requests: int = 4_000) -> float:
        began_s = time.process_time()
        for _ in range(requests):
            _count(metrics, promises, decision, served)
        return (time.process_time() - began_s) / requests * 1e6

    figure = min(cpu_us() for _ in range(5))
    print(f"\n{json.dumps({'metrics_cpu_us': round(figure, 2), 'budget_us': BUDGET_US})}")
    assert figure < machine.slowness() * BUDGET_US


@pytest.mark.slow
def test_finding_what_excluded_models_costs_little_of_that(machine: Machine) -> None:
    there = world_of(*(llm(name) for name in NAMES), quality=dict.fromkeys(NAMES, 0.5))
    decision = there.decide({"max_latency_s": 60, "max_cost_usd": 1.0, "exclude": [NAMES[0]]})
    assert isinstance(decision.evidence, Evidence)
    expected = Expected(decision.evidence.case)
    cards = CardFilter(expected.table)

    def cpu_us(requests: int = 4_000) -> float:
        began_s = time.process_time()
        for _ in range(requests):
            excluded(cards.passing(expected.case), expected, estimated=True)
        return (time.process_time() - began_s) / requests * 1e6

    figure = min(cpu_us() for _ in range(5))
    print(f"\n{json.dumps({'exclusions_cpu_us': round(figure, 2)})}")
    assert figure < machine.slowness() * BUDGET_US / 2
