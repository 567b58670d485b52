"""How long one prediction takes: on the prompts that were measured, and on prompts of given lengths."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from router_models.evaluation.sets import Predictor
from router_models.reading.conversation import Conversation

PROMPTS = 200
WORDS = (16, 64, 256, 1_000)
PROMPTS_PER_LENGTH = 30
# Untimed at the beginning: caches and lazy initialisation are paid once per process.
WARM_UP = 5
_WORDS = "how many of the old apple trees behind a red barn must be cut and why"


def latency_ms(predictor: Predictor, conversations: Sequence[Conversation]) -> dict[str, Any]:
    """Milliseconds of one prediction, prompt by prompt: on the clock, and of processor time.

    Processor time is that of all threads of the process: what one idle core would need. On a machine that does other
    work the clock says more about that work.
    """
    found = _timed(predictor, conversations[:PROMPTS])
    by_words = {str(words): _timed(predictor, _of_length(words)) for words in WORDS}
    return {**found, "by_words": by_words}


def _of_length(words: int) -> list[Conversation]:
    """Different prompts, so that nothing can be remembered."""
    rng = np.random.default_rng(words)
    return [(("user", " ".join(rng.choice(_WORDS.split(), size=words))),) for _ in range(PROMPTS_PER_LENGTH)]


def _timed(predictor: Predictor, conversations: Sequence[Conversation]) -> dict[str, float]:
    for conversation in conversations[:WARM_UP]:
        predictor.predict([conversation])
    taken_B2 = np.empty((len(conversations), 2))
    for row, conversation in enumerate(conversations):
        start = time.perf_counter(), time.process_time()
        predictor.predict([conversation])
        taken_B2[row] = time.perf_counter() - start[0], time.process_time() - start[1]
    (p50, cpu_p50), (p99, cpu_p99) = 1_000 * np.quantile(taken_B2, (0.5, 0.99), axis=0)
    return {
        "prompts": len(conversations),
        "p50": float(p50),
        "p99": float(p99),
        "cpu_p50": float(cpu_p50),
        "cpu_p99": float(cpu_p99),
    }
