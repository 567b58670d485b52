"""Pair routers on made-up prompts whose gain is known: what is learned, when length is used, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from router_models.studies.pair_router import (
    LEAST_LABELS,
    LengthRouter,
    PairFeatures,
    asked,
    fit_pair,
    pair_features,
    threshold,
)
from router_models.studies.wording import wording_features

SIZE_D, SIZE_I = 16, 5


def features(count: int, seed: int = 0) -> PairFeatures:
    rng = np.random.default_rng(seed)
    embedding_BD = rng.normal(size=(count, SIZE_D))
    embedding_BD /= np.linalg.norm(embedding_BD, axis=1, keepdims=True)
    return PairFeatures(embedding_BD, rng.normal(size=(count, 3)), rng.normal(size=(count, SIZE_I)))


def scores(chance_B: np.ndarray, seed: int = 1) -> np.ndarray:
    drawn_B: np.ndarray = (np.random.default_rng(seed).random(len(chance_B)) < chance_B).astype(float)
    return drawn_B


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


@pytest.mark.parametrize("labels", [400, 1500])
@pytest.mark.parametrize("source", ["embedding", "figures", "items"])
def test_the_gain_is_learned_wherever_it_shows(source: str, labels: int) -> None:
    known, new = features(labels), features(500, seed=2)
    direction = np.random.default_rng(4).normal(size=getattr(known, source).shape[1])

    def weak_chance(prompts: PairFeatures) -> np.ndarray:
        hardness_B = getattr(prompts, source) @ direction
        return np.asarray(0.5 - 0.4 * np.tanh(2 * hardness_B / hardness_B.std()))

    router = fit_pair(known, np.ones(labels), scores(weak_chance(known)))

    assert agreement(router.gain(new), -weak_chance(new)) > 0.6


def test_the_gain_is_in_units_of_score() -> None:
    known = features(1200)

    router = fit_pair(known, scores(np.full(1200, 0.9)), scores(np.full(1200, 0.6), seed=2))

    assert router.gain(features(300, seed=3)).mean() == pytest.approx(0.3, abs=0.05)


def test_prompts_that_are_hard_for_both_models_gain_little() -> None:
    """Where the difference decides and the weak model's errors alone would mislead."""
    known, new = features(800), features(400, seed=2)
    both_fail_K, both_fail_B = known.figures[:, 1] > 0, new.figures[:, 1] > 0

    router = fit_pair(known, scores(np.where(both_fail_K, 0.1, 0.9)), scores(np.where(both_fail_K, 0.1, 0.5), seed=2))

    gain_B = router.gain(new)
    assert gain_B[both_fail_B].mean() < gain_B[~both_fail_B].mean() - 0.1


def test_a_few_labels_leave_it_to_the_length() -> None:
    known = features(LEAST_LABELS - 1)

    router = fit_pair(known, np.ones(len(known.figures)), np.zeros(len(known.figures)))

    assert router == LengthRouter()


def test_without_labels_the_longer_prompt_gains_more() -> None:
    prompts = pair_features([(("user", "word " * count),) for count in (3, 300, 30)])

    assert list(np.argsort(LengthRouter().gain(prompts))) == [0, 2, 1]


def test_without_embeddings_and_items_the_figures_are_used() -> None:
    texts = [f"How many are {'1, 2 and ' * (row % 7)}{row}?" for row in range(300)]
    prompts = pair_features([(("user", text),) for text in texts])
    hard_B = np.array([row % 7 > 3 for row in range(300)], dtype=float)

    router = fit_pair(prompts.take(np.arange(200)), np.ones(200), 1 - hard_B[:200])

    assert agreement(router.gain(prompts.take(np.arange(200, 300))), hard_B[200:]) > 0.8


def test_alone_or_in_company_a_prompt_has_the_same_gain() -> None:
    known, new = features(1100), features(50, seed=2)
    router = fit_pair(known, scores(np.full(1100, 0.8)), scores(np.full(1100, 0.5), seed=2))

    np.testing.assert_allclose(router.gain(new)[7:8], router.gain(new.take(np.array([7]))), atol=1e-9)


def test_models_that_never_fail_are_no_reason_to_fail() -> None:
    known = features(100)

    gain_B = fit_pair(known, np.ones(100), np.ones(100)).gain(known)

    np.testing.assert_allclose(gain_B, 0, atol=0.02)


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1])
def test_a_score_outside_0_to_1_is_refused(wrong: float) -> None:
    weak = np.zeros(50)
    weak[3] = wrong

    with pytest.raises(ValueError, match="leave the prompt out"):
        fit_pair(features(50), np.ones(50), weak)


def test_scores_of_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="50 prompts, but 49"):
        fit_pair(features(50), np.ones(49), np.ones(49))


def test_models_an_artifact_knows_nothing_of_are_no_items() -> None:
    quality_BM = np.array([[0.5, np.nan, 0.9], [0.5, np.nan, 0.1]])

    prompts = pair_features([(("user", "a"),), (("user", "b"),)], quality_BM=quality_BM)

    np.testing.assert_allclose(prompts.items, [[0, np.log(9)], [0, -np.log(9)]])


def test_the_last_user_message_is_what_was_asked() -> None:
    assert asked((("user", "one"), ("assistant", "two"), ("user", "three"), ("tools", "search"))) == "three"
    assert asked((("system", "only this"),)) == "only this"
    assert asked(()) == ""


@pytest.mark.parametrize(("share", "sent"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_the_threshold_sends_the_share(share: float, sent: int) -> None:
    gain_B = np.array([0.3, -0.1, 0.2, 0.0])

    assert (gain_B >= threshold(share, gain_B)).sum() == sent


@pytest.mark.parametrize(("share", "gains"), [(1.1, 3), (-0.1, 3), (float("nan"), 3), (0.5, 0)])
def test_an_impossible_share_is_refused(share: float, gains: int) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        threshold(share, np.zeros(gains))


@pytest.mark.parametrize("text", ["", "\n", "A.", "9" * 400, "1,,,2", "\n(A)", "٣ and ½", "😀\ud800", "x" * 20_000])
def test_any_text_has_finite_figures(text: str) -> None:
    found = np.array(wording_features(text), dtype=float)

    assert found.shape == (26,)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 40
