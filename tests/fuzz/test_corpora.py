"""Inputs that fuzzing has found or that were written for it, replayed: none breaks its target or takes long."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
MOST_S = 1.0
MOST_BYTES = 64 << 20


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_of_a_target_passes(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    took_s = [_timed(name, data) for data in inputs]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    figures = {
        "inputs": len(inputs),
        "slowest_s": round(max(took_s), 4),
        "all_s": round(sum(took_s), 3),
        "grown": grown,
    }
    print(json.dumps({"R22": {"target": name, **figures}}))
    assert len(inputs) >= 24
    assert max(took_s) <= MOST_S
    assert grown <= MOST_BYTES


def _timed(name: str, data: bytes) -> float:
    began = time.process_time()
    TARGETS[name](data)
    return time.process_time() - began
