"""The operating curve: what a weight on cost does, and which weight keeps a promise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_models.operating.comparison import compare
from router_models.operating.curve import LEAST_ROWS, largest_weight, least_loss, operating_curve, outlook
from router_models.operating.reference import Answers, best_single, reference
from router_models.operating.rows import CostScale, PricedRows, priced_rows
from router_models.storage.calibration import Calibration

SCALE = CostScale(worst_usd=1e-2, best_usd=1e-6)
CHEAP, DEAR = 1e-5, 1e-3


def pool(rows: int = 400, easy_share: float = 0.5, seed: int = 0) -> PricedRows:
    """A cheap model that knows the easy half and a dear one that knows all; predictions know which half it is."""
    rng = np.random.default_rng(seed)
    easy = rng.random(rows) < easy_share
    quality = np.stack([np.where(easy, 0.9, 0.1), np.full(rows, 0.92)], axis=1)
    score = (rng.random((rows, 2)) < quality).astype(float)
    cost = np.tile([CHEAP, DEAR], (rows, 1))
    return PricedRows(quality, score, cost, cost)


def graded_pool(rows: int, models: int, easy_share: float, seed: int) -> PricedRows:
    """Models from cheap to dear that know more and more of what is hard; predictions are off by a tenth."""
    rng = np.random.default_rng(seed)
    hardness = np.where(rng.random(rows) < easy_share, 0.1, rng.random(rows))[:, None]
    right = np.where(hardness < np.linspace(0.3, 1.0, models), 0.93, 0.2)
    quality = np.clip(right + rng.normal(0, 0.1, right.shape), 0, 1)
    cost = np.tile(np.geomspace(CHEAP, DEAR, models), (rows, 1))
    return PricedRows(quality, (rng.random(right.shape) < right).astype(float), cost, cost)


def test_a_scale_is_logarithmic_between_its_ends_and_flat_outside() -> None:
    share = SCALE.share(np.array([1e-9, 1e-6, 1e-4, 1e-2, 1.0, np.nan, 0.0]))

    np.testing.assert_allclose(share, [0, 0, 0.5, 1, 1, 1, 0])


def test_more_weight_on_cost_never_costs_more_on_average() -> None:
    costs = [point.cost_usd for point in operating_curve(pool(), SCALE)]

    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(costs))
    assert costs[-1] == pytest.approx(CHEAP)


def test_a_promise_is_kept_and_saves_money_where_the_cheap_model_is_as_good() -> None:
    points = operating_curve(pool(), SCALE)

    weight = largest_weight(points, 0.1)

    assert weight is not None
    kept = next(point for point in points if point.weight == weight)
    assert kept.loss_bound <= 0.1
    assert kept.cost_usd < 0.6 * DEAR


def test_a_stricter_promise_never_gets_a_larger_weight() -> None:
    points = operating_curve(pool(), SCALE)
    weights = [largest_weight(points, loss) or -1.0 for loss in (0.0, 0.02, 0.05, 0.1, 0.5, 1.0)]

    assert weights == sorted(weights)
    assert weights[-1] == points[-1].weight


def test_predictions_that_lose_from_the_start_keep_no_promise() -> None:
    rows = pool()
    misled = PricedRows(1 - rows.quality, rows.score, rows.expected_usd, rows.real_usd)

    assert largest_weight(operating_curve(misled, SCALE), 0.01) is None


def test_too_few_rows_promise_nothing() -> None:
    points = operating_curve(pool(rows=LEAST_ROWS - 1), SCALE)

    assert points[0].loss_bound == np.inf
    assert largest_weight(points, 1.0) is None


@pytest.mark.parametrize("rows", [100, 200, 400, 1000])
def test_a_failure_too_rare_for_the_rows_is_not_taken_for_safety(rows: int) -> None:
    """A cheap model that fails on 1.2 % of the prompts, nobody knows on which: a promise of 1 % would be broken."""
    promised = 0
    for seed in range(200):
        score = np.ones((rows, 2))
        score[np.random.default_rng(seed).random(rows) < 0.012, 0] = 0.0
        cost = np.tile([CHEAP, DEAR], (rows, 1))
        points = operating_curve(PricedRows(np.ones((rows, 2)), score, cost, cost), SCALE, (0.1,))
        promised += largest_weight(points, 0.01) is not None
    assert promised <= 10


@pytest.mark.parametrize(("models", "easy_share", "rows"), [(2, 0.5, 800), (2, 0.9, 1500), (6, 0.5, 1500)])
def test_a_promise_made_on_one_half_holds_on_the_other(models: int, easy_share: float, rows: int) -> None:
    """Both halves are samples; with a bound of 95 % that is met exactly, 88 of 100 would hold."""
    kept, saved = 0, 0.0
    for seed in range(100):
        both = graded_pool(rows, models, easy_share, seed)
        chosen, judged = both.take(np.arange(rows) % 2 == 0), both.take(np.arange(rows) % 2 == 1)
        weight = largest_weight(operating_curve(chosen, SCALE), 0.01)
        found = outlook(judged, SCALE, weight)
        assert found is not None
        kept += -found.compared.gain.mean <= 0.01
        saved += 1 - found.compared.cost_ratio.mean
    assert kept >= 85
    assert saved > 3, "never to promise anything would be easy"


def with_a_stranger(quality: float, rows: int = 2000) -> PricedRows:
    """The pool, and the cheapest model of all, of which there is no outcome: so good it is predicted to be."""
    known = pool(rows)

    def beside(columns: np.ndarray, value: float) -> np.ndarray:
        return np.concatenate([columns, np.full((rows, 1), value)], axis=1)

    usd = beside(known.real_usd, CHEAP / 10)
    return PricedRows(beside(known.quality, quality), beside(known.score, NOT), usd, usd)


def test_a_model_that_was_not_measured_is_chosen_as_requests_choose_it() -> None:
    points = operating_curve(with_a_stranger(0.3), SCALE)

    # A large weight leaves nobody else; what is predicted of it, .3 instead of .92, is what is lost.
    assert points[-1].cost_usd == pytest.approx(CHEAP / 10)
    assert points[-1].loss == pytest.approx(0.92 - 0.3)
    weight = largest_weight(points, 0.02)
    found = outlook(with_a_stranger(0.3), SCALE, weight)
    assert found is not None
    assert found.share_M[2] == 0.0
    assert found.compared.predicted_share == 0.0


def test_more_rows_do_not_make_a_prediction_surer() -> None:
    few, many = (operating_curve(with_a_stranger(0.95, rows), SCALE, (20.0,))[0] for rows in (400, 40_000))

    # It is taken for the best in every row: .03 better, give or take .05.
    assert many.loss == pytest.approx(-0.03)
    assert many.loss_bound == pytest.approx(-0.03 + 1.645 * 0.05, abs=0.001)
    assert few.loss_bound > many.loss_bound
    assert largest_weight((many,), 0.04) is None
    found = outlook(with_a_stranger(0.95), SCALE, 20.0)
    assert found is not None
    assert found.compared.predicted_share == 1.0
    assert found.compared.gain.high - found.compared.gain.mean == pytest.approx(1.96 * 0.05, rel=0.01)


def test_a_weight_that_is_safe_in_one_dataset_is_not_taken_where_another_one_forbids_it() -> None:
    measured, unmeasured = pool(easy_share=1.0), pool(easy_share=0.0)
    both = [np.concatenate(pair) for pair in zip(columns(measured), columns(unmeasured), strict=True)]
    both[1][len(measured.score) :] = NOT

    alone, together = (largest_weight(operating_curve(rows, SCALE), 0.1) for rows in (measured, PricedRows(*both)))

    assert alone is not None
    assert together is not None
    assert together < alone
    (point,) = operating_curve(PricedRows(*both), SCALE, (alone,))
    assert point.loss_bound == pytest.approx(0.82)


def test_what_is_expected_where_nothing_was_measured_is_told_beside_the_rest() -> None:
    measured, unmeasured = pool(easy_share=1.0), pool(rows=100, easy_share=0.0)
    both = [np.concatenate(pair) for pair in zip(columns(measured), columns(unmeasured), strict=True)]
    both[1][len(measured.score) :] = NOT

    found = outlook(PricedRows(*both), SCALE, 2.0)

    assert found is not None
    assert len(found.model_K) == len(measured.score)
    # There the cheap model is worth .1 and the other one .92.
    assert found.elsewhere.rows == 100
    assert found.elsewhere.cost_ratio == pytest.approx(CHEAP / DEAR)
    assert found.elsewhere.gain == pytest.approx(0.1 - 0.92)
    single = outlook(PricedRows(*both), SCALE, None)
    assert single is not None
    assert single.elsewhere.rows == 0


def test_a_few_rows_of_which_nothing_was_measured_forbid_nothing() -> None:
    measured, unmeasured = pool(easy_share=1.0), pool(rows=LEAST_ROWS - 1, easy_share=0.0)
    both = [np.concatenate(pair) for pair in zip(columns(measured), columns(unmeasured), strict=True)]
    both[1][len(measured.score) :] = NOT

    assert operating_curve(PricedRows(*both), SCALE) == operating_curve(measured, SCALE)


def columns(rows: PricedRows) -> tuple[np.ndarray, ...]:
    return rows.quality, rows.score, rows.expected_usd, rows.real_usd


def test_rows_without_any_outcome_make_no_curve() -> None:
    rows = pool(rows=3)

    assert operating_curve(PricedRows(rows.quality, rows.score * np.nan, rows.expected_usd, rows.real_usd), SCALE) == ()


def recorded() -> Calibration:
    """Three models on twelve prompts of 40 tokens; 20 tokens of an answer are predicted, and 25 come."""
    flat = np.ones((12, 3))
    return Calibration(
        flat * 0.5, flat, flat * 20, flat * 25, flat * 40, np.zeros(12, np.int32), ("made up",), np.ones((12, 1))
    )


def test_prices_turn_calibration_rows_into_dollars() -> None:
    rows = priced_rows(recorded(), [2, 0], [1.0, 10.0], [2.0, 20.0])

    assert rows.score.shape == (12, 2)
    np.testing.assert_allclose(rows.real_usd, np.tile([(40 + 2 * 25) / 1e6, (400 + 20 * 25) / 1e6], (12, 1)))
    np.testing.assert_allclose(rows.expected_usd[0, 0], (40 + 2 * 20) / 1e6, rtol=1e-5)


def test_what_is_free_and_what_was_not_asked_has_a_cost_as_well() -> None:
    rows = recorded()
    rows.output_tokens[:, 0] = NOT
    rows.real_output_tokens[:, 0] = NOT
    rows.input_tokens[:, 1] = NOT
    rows.input_tokens[:, 2] = 60

    priced = priced_rows(rows, [0, 1], [1.0, 1.0], [0.0, 2.0])

    np.testing.assert_allclose(priced.expected_usd[0], [40 / 1e6, (50 + 2 * 20) / 1e6])
    np.testing.assert_allclose(priced.real_usd[0], [40 / 1e6, (50 + 2 * 25) / 1e6])


def test_without_any_expected_cost_no_weight_but_none_at_all_is_promised() -> None:
    rows = pool()
    unknown = PricedRows(rows.quality, rows.score, rows.expected_usd * np.nan, rows.real_usd)

    assert largest_weight(operating_curve(unknown, SCALE), 1.0) == 0.0
    misled = replace(unknown, quality=1 - rows.quality)
    assert largest_weight(operating_curve(misled, SCALE), 0.01) is None


def test_no_weight_is_promised_that_costs_more_than_the_best_single_model() -> None:
    rows = pool(easy_share=0.9)
    # The best one is the cheap one, and the other is predicted to be better.
    swapped = PricedRows(rows.quality, rows.score[:, ::-1], rows.expected_usd, rows.real_usd)

    points = operating_curve(swapped, SCALE)

    assert points[0].cost_ratio > 1
    assert largest_weight(points, 0.99) == 20.0
    dear = [point for point in points if point.cost_ratio > 1]
    assert largest_weight(dear, 0.99) is None
    assert least_loss(dear) is None
    assert least_loss(points) == max(point.loss_bound for point in points[: len(dear) + 1])


def test_a_model_without_a_price_counts_as_the_dearest() -> None:
    rows = pool()
    unpriced = rows.expected_usd.copy()
    unpriced[:, 0] = np.nan

    points = operating_curve(PricedRows(rows.quality, rows.score, unpriced, rows.real_usd), SCALE)

    assert points[-1].cost_usd == pytest.approx(DEAR)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1_000), st.floats(0, 1), st.floats(0, 0.3))
def test_whatever_the_pool_a_promise_holds_on_the_rows_it_came_from(seed: int, share: float, promise: float) -> None:
    points = operating_curve(pool(rows=150, easy_share=share, seed=seed), SCALE)
    weight = largest_weight(points, promise)

    if weight is not None:
        assert all(point.loss <= promise for point in points if point.weight <= weight)


NOT = np.nan


def of_datasets(*datasets: list[float], rows: int = 4) -> PricedRows:
    """In each dataset every model has the same score in each row; NaN is not measured."""
    score = np.repeat(np.array(datasets), rows, axis=0)
    flat = np.full_like(score, 0.5)
    return PricedRows(flat, score, flat * DEAR, flat * DEAR, np.repeat(np.arange(len(datasets)), rows))


@pytest.mark.parametrize(
    ("datasets", "best", "counting"),
    [
        # All measured everywhere: the highest mean.
        (([0.2, 0.9], [0.5, 0.4]), 1, {0, 1}),
        # A dataset of hard prompts makes nobody worse: 0 beats 1 where both were measured, though its mean is lower.
        (([0.3, 0.2, NOT], [NOT, 0.9, 0.8]), 0, {0}),
        # Through a third one: 2 beats 1 by more than 0 does.
        (([0.5, 0.4, NOT], [NOT, 0.4, 0.8]), 2, {1}),
        # Nothing connects them: 3 leads its peers by more than 0 does.
        (([0.9, 0.8, NOT, NOT], [NOT, NOT, 0.1, 0.5]), 3, {1}),
    ],
)
def test_the_best_single_model_is_found_where_models_were_measured_side_by_side(
    datasets: tuple[list[float], ...], best: int, counting: set[int]
) -> None:
    rows = of_datasets(*datasets)
    found = reference(rows)

    assert found is not None
    assert (found.best, best_single(rows)) == (best, best)
    assert set(found.dataset_K.tolist()) == counting


def test_rows_in_which_nothing_is_compared_do_not_count() -> None:
    rows = of_datasets([0.9, 0.8], [0.7, NOT], [NOT, 0.6])
    found = reference(rows)

    assert found is not None
    assert set(found.dataset_K.tolist()) == {0}
    assert reference(of_datasets([0.9, NOT], [NOT, 0.8])) is None


def test_a_row_without_the_reference_does_not_count_but_one_lucky_row_makes_no_reference() -> None:
    rows = of_datasets([0.9, 0.8, 0.1], rows=10)
    rows.score[:4, 0] = np.nan
    found = reference(rows)
    assert found is not None
    assert (found.best, len(found.dataset_K)) == (0, 6)

    rows.score[:, 0] = [1.0, *[np.nan] * 9]
    found = reference(rows)
    assert found is not None
    assert (found.best, len(found.dataset_K)) == (1, 10)


def test_the_only_model_that_was_measured_is_the_best_one() -> None:
    assert best_single(of_datasets([NOT, 0.3])) == 1
    assert best_single(of_datasets([0.9, NOT], [NOT, 0.8])) is None
    assert best_single(of_datasets([NOT, NOT])) is None


def test_a_loss_is_against_one_model_on_all_that_it_was_asked() -> None:
    rows = of_datasets([0.9, 0.8, NOT], [NOT, 0.2, 0.1], rows=100)

    (point,) = operating_curve(replace(rows, quality=np.tile([0.5, 0.6, 0.1], (200, 1))), SCALE, (0.0,))

    assert point.loss == pytest.approx(0.1)


def test_an_outlook_says_what_is_saved_and_lost() -> None:
    rows = pool(rows=2000)
    found = outlook(rows, SCALE, 0.3)

    assert found is not None
    assert found.reference.best == 1
    assert found.compared.gain.mean == pytest.approx(found.quality - found.best_quality)
    assert found.compared.cost_ratio.mean == pytest.approx(found.cost_usd / found.best_cost_usd)
    assert found.share_M.sum() == pytest.approx(1.0)
    # The cheap model answers the easy half.
    assert found.compared.cost_ratio.mean == pytest.approx(found.share_M[1] + found.share_M[0] * CHEAP / DEAR)
    assert 0.4 < found.compared.cost_ratio.mean < 0.6
    point = operating_curve(rows, SCALE, (0.3,))[0]
    assert (found.quality, found.cost_usd) == (point.quality, point.cost_usd)


def test_two_ways_to_choose_are_compared_where_both_are_known() -> None:
    measured = np.zeros(4, dtype=bool)
    these = Answers(np.array([1.0, 0.0, 1.0, NOT]), np.array([2.0, NOT, 4.0, 1.0]), measured)
    those = Answers(np.array([0.0, 0.0, NOT, 1.0]), np.array([8.0, 1.0, 1.0, 1.0]), measured)
    found = compare(these, those)

    assert (found.known_N.tolist(), found.priced_N.tolist()) == ([True, True, False, False], [True, *[False] * 3])
    assert (found.gain.mean, found.cost_ratio.mean) == (0.5, 0.25)
    # Of one row nothing is known but what it is.
    assert found.cost_ratio.high == np.inf
    nothing = compare(these, replace(those, score=those.score * NOT))
    assert np.isnan([nothing.gain.mean, nothing.gain.high, nothing.cost_ratio.mean]).all()


def test_answers_are_in_the_order_of_the_rows_that_were_given() -> None:
    rows = of_datasets([0.9, NOT], [0.9, 0.8], rows=2)
    found = reference(rows)

    assert found is not None
    assert found.counts_N.tolist() == [False, False, True, True]
    np.testing.assert_array_equal(found.always(1).score, [NOT, NOT, 0.8, 0.8])
    np.testing.assert_array_equal(found.standing.usd, [NOT, NOT, 0.5 * DEAR, 0.5 * DEAR])


def test_without_a_weight_the_reference_answers() -> None:
    found = outlook(pool(), SCALE, None)

    assert found is not None
    assert (found.compared.gain.mean, found.compared.gain.low, found.compared.gain.high) == (0.0, 0.0, 0.0)
    assert found.share_M.tolist() == [0.0, 1.0]
    assert found.compared.cost_ratio.mean == 1.0


def test_what_else_is_held_against_a_model_counts() -> None:
    found = outlook(pool(), SCALE, 0.0, np.array([0.0, 5.0]))

    assert found is not None
    assert found.share_M.tolist() == [1.0, 0.0]


def test_intervals_cover_what_is_true_about_nineteen_times_in_twenty() -> None:
    everything = outlook(lengthy(200_000, seed=999), SCALE, 0.3)
    assert everything is not None
    covered, means, widths = np.zeros(2), [], []
    for seed in range(200):
        found = outlook(lengthy(300, seed), SCALE, 0.3)
        assert found is not None
        pairs = (
            (found.compared.gain, everything.compared.gain),
            (found.compared.cost_ratio, everything.compared.cost_ratio),
        )
        covered += [interval.low <= true.mean <= interval.high for interval, true in pairs]
        means.append([interval.mean for interval, _ in pairs])
        widths.append([interval.high - interval.low for interval, _ in pairs])
    assert (covered >= 0.9 * 200).all()
    np.testing.assert_allclose(np.mean(widths, axis=0), 2 * 1.96 * np.std(means, axis=0), rtol=0.15)


def lengthy(count: int, seed: int) -> PricedRows:
    """Answers of different length: what a row costs, all its models share."""
    rows = pool(count, easy_share=0.2, seed=seed)
    return replace(rows, real_usd=rows.real_usd * np.random.default_rng(seed + 5000).lognormal(0, 0.7, (count, 1)))


def test_unknown_prices_leave_the_ratio_unknown() -> None:
    rows = pool()
    found = outlook(replace(rows, real_usd=rows.real_usd * np.nan), SCALE, 0.3)

    assert found is not None
    assert np.isnan(
        [found.cost_usd, found.best_cost_usd, found.compared.cost_ratio.mean, found.compared.cost_ratio.high]
    ).all()
    assert found.compared.gain.mean < 0.1
    assert outlook(of_datasets([0.9, NOT]), SCALE, 0.3) is None


def test_an_answer_whose_length_was_not_recorded_costs_what_was_predicted() -> None:
    unrecorded = replace(recorded(), real_output_tokens=np.full((12, 3), np.nan))
    rows = priced_rows(unrecorded, [0, 1], [1.0, 10.0], [2.0, 20.0])

    np.testing.assert_allclose(rows.real_usd, rows.expected_usd)
    assert rows.dataset is not None
    assert len(rows.dataset) == 12
