"""What one tenant has asked helps nobody else, and nobody can tell it from the clock. Prints its figures as JSON.

There is no cache of answers. What is kept between requests is what encoders said of prompts (`app.routing.recall`).
"""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.assembly.router_model import load_router_model
from app.assembly.snapshot import create_router
from app.domain.decision import Fleet
from app.domain.request import Request
from app.routing.router import Router
from app.settings import load_settings
from tests.fakes.routing import fleet_of, llm, world_of
from tests.fakes.world import request

SETTINGS = Path(__file__).parents[2] / "configs" / "bench.yaml"
PROMPTS = 10_000
PAIRS, MOST_AUC = 1_000, 0.55
WORDS = "prove sort explain a the list matrix river poem why number history of in queue tree".split()  # noqa: SIM905


def prompts(count: int) -> list[str]:
    """All different: a third is near its neighbour by a letter, short and long ones among them."""
    rng, made = random.Random(7), dict[str, None]()
    while len(made) < count:
        text = " ".join(rng.choices(WORDS, k=rng.choice((5, 30, 400))))
        made |= dict.fromkeys((text, f"{text} ", text.replace("e", "E", 1)))
    return list(made)[:count]


def asked(text: str, key_id: str) -> Request:
    return request(conversation=(("user", text),), key_id=key_id)


def decide(router: Router, one: Request, fleet: Fleet) -> None:
    try:
        # It waits for nobody, so no event loop is needed.
        router.route(one, fleet).send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def test_no_tenant_is_answered_from_what_another_one_asked() -> None:
    quality = {"small": 0.9, "large": 0.5}
    world, texts = world_of(llm("small"), llm("large"), quality=quality, seen=quality), prompts(PROMPTS)
    predictor, fleet = world.predictor, fleet_of(*world.models)
    assert predictor is not None
    hits = {"own": 0, "other": 0}
    # The second tenant asks for each prompt right after the first, while it is remembered for certain.
    for text in texts:
        for key_id, kind in (("ann", None), ("ann", "own"), ("bob", "other")):
            read = len(predictor.glanced)
            decide(world.router, asked(text, key_id), fleet)
            if kind:
                hits[kind] += len(predictor.glanced) == read
    print(json.dumps({"property": "S7", "prompts": PROMPTS, "hits": hits["own"], "cross_tenant_hits": hits["other"]}))
    assert hits == {"own": PROMPTS, "other": 0}


@pytest.mark.slow
def test_the_clock_does_not_tell_what_another_tenant_asked() -> None:
    settings = replace(load_settings(SETTINGS), encoder="static")
    with load_router_model(settings) as model:
        assert model is not None
        others, own = (_timed(create_router(settings, model), first, "bob") for first in ("ann", "bob"))
    print(json.dumps({"property": "S7 timing", "pairs": PAIRS, "auc": others, "auc_of_what_is_one_s_own": own}))
    assert own > 0.9, "who may know it can tell, so the clock is good enough"
    assert max(others, 1 - others) <= MOST_AUC


def _timed(router: Router, first: str, second: str) -> float:
    """AUC of telling, by the time that the second one's requests take, which prompts the first one has asked."""
    texts, fleet = prompts(2 * PAIRS), Fleet.idle(2)
    random.Random(1).shuffle(texts)
    known, unknown = texts[:PAIRS], texts[PAIRS:]
    for text in known:
        decide(router, asked(text, first), fleet)
    took_s = {text: _time(router, asked(text, second), fleet) for text in random.Random(2).sample(texts, len(texts))}
    return round(auc([took_s[text] for text in unknown], [took_s[text] for text in known]), 4)


def _time(router: Router, one: Request, fleet: Fleet) -> float:
    began_at = time.perf_counter()
    decide(router, one, fleet)
    return time.perf_counter() - began_at


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """How often one of the first is above one of the second; 0.5 where they are alike."""
    above_PN = np.subtract.outer(np.asarray(positives), np.asarray(negatives))
    return float((above_PN > 0).mean() + (above_PN == 0).mean() / 2)


@pytest.fixture(autouse=True)
def _no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()
