"""How long a wrong key takes to be refused says nothing about the right one."""

from __future__ import annotations

import gc
import json
import math
import random
import re
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from app.forms.grants import new_grant, read_key
from app.store.keys.credentials import Credential, PepperFile, issue, reissued
from app.store.keys.issuer import Issuer
from app.store.keys.key import Key, Keys, Secret, StaticKeys
from app.store.keys.key_ring import KeyRing
from tests.fakes.keys import MemoryKeys

pytestmark = [pytest.mark.slow, pytest.mark.timing]

ROOT = Path(__file__).resolve().parents[5]
WITHIN = 4.5


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    difference = statistics.fmean(one) - statistics.fmean(other)
    return difference / math.sqrt(statistics.variance(one) / len(one) + statistics.variance(other) / len(other))


def timed(keys: Keys, near: Callable[[], str], far: Callable[[], str], rejects: int) -> float:
    """Welch's t of the times that both kinds of wrong keys take, in random order, without the slowest tenth."""
    kinds = [number % 2 for number in range(rejects)]
    random.Random(7).shuffle(kinds)
    texts = [(near, far)[kind]() for kind in kinds]
    took: tuple[list[float], list[float]] = ([], [])
    gc.disable()
    try:
        for kind, text in zip(kinds, texts, strict=True):
            began = time.perf_counter_ns()
            found = keys.find(text)
            took[kind].append(time.perf_counter_ns() - began)
            assert found is None
    finally:
        gc.enable()
    most = statistics.quantiles([*took[0], *took[1]], n=10)[-1]
    return welch(*([each for each in one if each <= most] for one in took))


async def test_a_right_beginning_takes_as_long_as_a_wrong_one(tmp_path: Path, full_size: bool) -> None:
    rejects = 200_000 if full_size else 40_000
    store, peppers = MemoryKeys(), PepperFile(tmp_path / "pepper")
    issued = await Issuer(store, peppers).create("a", new_grant().plain(), "me")
    ring = KeyRing(store, peppers, read_key, clock=lambda: 0.0)
    await ring.refresh()
    public, secret = issued.record.id, issued.secret.reveal()[len("rk_live_") + 13 : -7]
    assert ring.find(reissued("live", Credential(public, secret))) is not None

    def near() -> str:
        return reissued("live", Credential(public, secret[:35] + secrets.token_urlsafe(6)))

    def far() -> str:
        return reissued("live", Credential(public, secrets.token_urlsafe(32)))

    def near_literal() -> str:
        return literal[:38] + secrets.token_urlsafe(6)

    def far_literal() -> str:
        return "sk-" + secrets.token_urlsafe(32)

    literal = far_literal()
    static = StaticKeys([(Secret(literal), Key("a"))])
    found = {
        "generated": timed(ring, near, far, rejects),
        "in the file": timed(static, near_literal, far_literal, rejects),
        "known or unknown id": timed(ring, far, lambda: issue("live")[0], rejects),
    }
    print(json.dumps({"S6": {"rejects": rejects, "welch_t": {name: round(t, 2) for name, t in found.items()}}}))
    assert abs(found["generated"]) <= WITHIN
    assert abs(found["in the file"]) <= WITHIN


def test_secrets_are_compared_by_digest_only() -> None:
    """No line of the gateway compares something called a secret, a token or a digest in the ordinary way."""
    ordinary = re.compile(r"\b\w*(?:secret|token|digest)\w*\b(?:\.\w+(?:\(\))?)* ?(?:==|!=) ?(?!None)", re.IGNORECASE)
    places = [
        *(ROOT / "app/api").glob("*.py"),
        *(ROOT / "app/store").glob("*key*.py"),
        ROOT / "app/store/keys/credentials.py",
    ]
    found = [line for path in places for line in path.read_text().splitlines() if ordinary.search(line)]
    assert not [line for line in found if "tokens" not in line]
    assert ordinary.search("if secret == other:")
