"""What reading a prompt with the static encoder costs: short, medium, endless and hostile ones. Prints its figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from router_models.reading.conversation import parts
from router_models.reading.static_encoder import StaticEncoder
from router_models.reading.surface import surface_features
from router_models.reading.wordpiece import FastWordPiece
from tests.fakes.yardstick import SHARED, Machine

pytestmark = pytest.mark.timing

TOKENIZER = max(Path("router_models/artifacts").glob("*/tokenizer.json"))
PROSE = (
    "A farmer in Kentucky sells 12 crates of apples at $3 each, and keeps a quarter of them for her family's cider. "
    "Explain, with the formula \\frac{a}{b}, how she should divide the rest between two markets if transport costs "
    "grow with distance; what would change in winter, when fewer visitors come and storage must be heated? "
)


def p50_us(call: Callable[[], object], repeats: int) -> float:
    took_us = []
    for _ in range(repeats):
        began_at = time.perf_counter()
        call()
        took_us.append((time.perf_counter() - began_at) * 1e6)
    return statistics.median(took_us)


def words(count: int) -> str:
    return " ".join((PROSE * (count // 40 + 1)).split()[:count])


def of_tokens(wordpiece: FastWordPiece, count: int) -> str:
    """Prose of as many word pieces."""
    return next(text for number in range(1, count + 1) if len(wordpiece.ids(text := words(number))) >= count)


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "budget_us"), [(32, 20), (128, 40), (1_000, 60)])
def test_a_prompt_is_encoded_within_its_budget(tokens: int, budget_us: float, machine: Machine) -> None:
    wordpiece = FastWordPiece(TOKENIZER.read_bytes())
    rng = np.random.default_rng(7)
    table_VD = rng.integers(-127, 128, (wordpiece.vocabulary_size, 384)).astype(np.int8)
    encoder = StaticEncoder(table_VD, rng.random(wordpiece.vocabulary_size), wordpiece)
    conversations = [(("user", of_tokens(wordpiece, tokens)),)]

    took_us = p50_us(lambda: encoder.encode(conversations), 3_000)

    print(f"\nstatic encoder, {tokens} tokens: p50 {took_us:.1f} us")
    assert took_us < SHARED * machine.slowness() * budget_us


@pytest.mark.slow
@pytest.mark.parametrize(("count", "budget_us"), [(24, 4), (128, 15), (1_000, 100)])
def test_known_words_are_tokenized_within_their_budget(count: int, budget_us: float, machine: Machine) -> None:
    wordpiece = FastWordPiece(TOKENIZER.read_bytes())
    text = words(count)

    took_us = p50_us(lambda: wordpiece.ids_array(text), 3_000)

    print(f"\nword pieces, {count} words: p50 {took_us:.1f} us")
    assert took_us < SHARED * machine.slowness() * budget_us


@pytest.mark.slow
@pytest.mark.parametrize(("chars", "budget_us"), [(200, 15), (800, 30)])
def test_the_surface_is_read_within_its_budget(chars: int, budget_us: float, machine: Machine) -> None:
    text = (PROSE * 3)[:chars]

    took_us = p50_us(lambda: surface_features(text), 3_000)

    print(f"\nsurface, {chars} characters: p50 {took_us:.1f} us")
    assert took_us < SHARED * machine.slowness() * budget_us


# The worst of these cost a millisecond, and must not cost more the longer they are.
@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [
        "\n",
        "\n" + " " * 16,
        "\n######",
        "\nQ:",
        "\nA:\n",
        "\nQ: x\nA: y\n\n",
        "\nfinal answer",
        "put your answer. ",
        "put your answer",
        "in the following json format```",
        "\\boxed{}",
        "you are an expert",
        PROSE,
    ],
)
def test_hostile_text_costs_little_however_long_it_is(piece: str, machine: Machine) -> None:
    short, long = (((("user", piece * (chars // len(piece))),)) for chars in (10_000, 1_000_000))

    short_us, long_us = p50_us(lambda: parts(short), 30), p50_us(lambda: parts(long), 30)

    print(f"\nparts of {piece[:20]!r}: p50 {short_us:.0f} us, a hundred times as long {long_us:.0f} us")
    assert long_us < SHARED * machine.slowness() * 1_000
    assert long_us < 3 * short_us + 200
