"""The dashboard *Promise and outcome*: predicted against realised, limits that were kept, and what routing saves."""

from __future__ import annotations

from deploy.grafana.panels import (
    Dashboard,
    Panel,
    Query,
    Row,
    over,
    quantile,
    rate,
    total,
)

MODEL, PROFILE = 'model=~"$model"', 'profile=~"$profile"'
# Of models that callers ask for by name nothing is predicted, but they may be judged.
PREDICTED_OF = f'{MODEL}, predicted!="unpredicted"'
ATTAINED = "thalamus_limit_attainment_total"
NAMES = {
    "output_tokens": ("Length of answers", "tokens written", "short"),
    "cost_usd": ("Cost of a request", "dollars a request costs", "currencyUSD"),
    "latency_s": ("Time to the end", "seconds to the end of an answer", "s"),
    "ttft_s": ("Time to the first token", "seconds to the first token of a stream", "s"),
}
REMEDIES = {
    "output_tokens": "prompts differ from those that were learned from; train on outcomes of such prompts.",
    "cost_usd": "lengths are predicted wrongly, or a price in the catalogue is; compare with the length beside it.",
    "latency_s": "workers queue, or `speed` in the catalogue is wrong; a new `thalamus init` measures it.",
    "ttft_s": "prompts wait in a queue of the workers; add a replica, or correct `prefill_tokens_per_s`.",
}


def _ratio(quantity: str) -> str:
    where = f'quantity="{quantity}", {MODEL}'
    return over("thalamus_realised_sum_total", "thalamus_predicted_sum_total", "model", where)


def _kept(by: str = "") -> str:
    group = f" by ({by})" if by else ""
    kept = f'sum{group} (increase({ATTAINED}{{outcome="kept", {PROFILE}}}[$__range]))'
    asked = f"sum{group} (increase({ATTAINED}{{{PROFILE}}}[$__range]))"
    return f"({kept} or 0 * {asked}) / {asked}"


GLANCE = (
    Panel(
        "Limits kept",
        "Of the limits on time, money and length that callers asked for, which share did they get?",
        "see which limit is missed below, and whether its prediction is too low or the workers are slow.",
        (Query(_kept()),),
        unit="percentunit",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Saved against one model for all",
        "How many dollars less did routing cost than the same tokens from the baseline?",
        "below zero: routing sends prompts to dearer models than the baseline; look at the weights.",
        (
            Query(
                total("thalamus_baseline_cost_usd_total", where=PROFILE)
                + " - "
                + total("thalamus_routed_cost_usd_total", where=PROFILE)
            ),
        ),
        unit="currencyUSD",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Share saved",
        "Which part of the baseline's cost is that?",
        "compare with what the savings curve of the router model promised at these weights.",
        (Query("1 - " + over("thalamus_routed_cost_usd_total", "thalamus_baseline_cost_usd_total", where=PROFILE)),),
        unit="percentunit",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Predicted quality, routed",
        "How good are the routed answers expected to be?",
        "if it is below the baseline's by more than you want to give up, lower the weights on cost.",
        (Query(over("thalamus_routed_quality_total", "thalamus_quality_compared_total", where=PROFILE)),),
        unit="percentunit",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Predicted quality, baseline",
        "How good would the baseline have been expected to be for the same prompts?",
        "above the routed one: that is what the savings cost in quality.",
        (Query(over("thalamus_baseline_quality_total", "thalamus_quality_compared_total", where=PROFILE)),),
        unit="percentunit",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Judged quality",
        "How good do callers say that answers are?",
        "no data: no application sends feedback; far from what was predicted: see the calibration below.",
        (Query(over("thalamus_feedback_quality_total", "thalamus_feedback_total", where=MODEL)),),
        unit="percentunit",
        kind="number",
        width=4,
        height=4,
    ),
)

ASKED = (
    Panel(
        "Asked, and got it?",
        "Which share of each kind of limit is kept?",
        "max_latency_s or max_ttft_s: workers are slower than predicted; max_cost_usd: lengths are underestimated.",
        (Query(_kept("limit"), "{{limit}}"),),
        unit="percentunit",
        kind="bars",
        maximum=1,
    ),
    Panel(
        "Kept and missed over time",
        "When were limits missed?",
        "compare the time with queues and ejections in Fleet and gateway.",
        (Query(rate(ATTAINED, "outcome", PROFILE), "{{outcome}}"),),
        unit="reqps",
        kind="stacked",
        colors=(("kept", "green"), ("missed", "red")),
    ),
    Panel(
        "Deadlines missed",
        "How often was a request's time over before its answer was whole?",
        "before_answer: workers queue or hang; in_answer: answers are longer than callers wait.",
        (Query(rate("thalamus_deadline_misses_total", "when"), "{{when}}"),),
        unit="reqps",
    ),
)


def _beside(quantity: str) -> Panel:
    title, words, unit = NAMES[quantity]
    where = f'quantity="{quantity}", {MODEL}'
    count = "thalamus_realised_to_predicted_ratio_count"
    return Panel(
        title,
        f"How do the {words} compare with what was predicted, on average?",
        REMEDIES[quantity],
        (
            Query(over("thalamus_predicted_sum_total", count, where=where, of=rate), "predicted"),
            Query(over("thalamus_realised_sum_total", count, where=where, of=rate), "realised"),
        ),
        unit=unit,
        kind="lines",
        width=6,
        height=7,
    )


PREDICTED = (
    *(_beside(quantity) for quantity in NAMES),
    Panel(
        "Realised over predicted, by model",
        "For which model, and which quantity, are predictions off? 1 is right, 2 is twice as much as predicted.",
        "a column that is off for all models is the gateway's or the workers' matter, a row the model's card.",
        tuple(Query(_ratio(quantity), quantity, "short") for quantity in NAMES),
        kind="table",
        width=12,
        height=9,
        by="model",
    ),
    Panel(
        "Spread of single answers",
        "How far is a single answer from its prediction: the middle one, and one in ten above?",
        "a wide spread is normal for lengths; a middle far from 1 is not, see the table.",
        tuple(
            Query(
                quantile(share, "thalamus_realised_to_predicted_ratio", "quantity", MODEL), f"{{{{quantity}}}} {name}"
            )
            for share, name in ((0.5, "middle"), (0.9, "high tenth"))
        ),
        width=12,
        height=9,
    ),
)

QUALITY = (
    Panel(
        "Does predicted quality come true?",
        "Of answers with a predicted quality in each band, how good do callers say that they were?",
        "the bars should climb like their names; flat ones mean that the router model knows nothing of these prompts.",
        (
            Query(
                over("thalamus_feedback_quality_total", "thalamus_feedback_total", "predicted", PREDICTED_OF),
                "predicted {{predicted}}",
            ),
        ),
        unit="percentunit",
        kind="bars",
        maximum=1,
    ),
    Panel(
        "Predicted and judged, by model",
        "Which model is better or worse than predicted, according to callers? Of answers with a prediction.",
        "judged far below predicted: calibrate or retrain, and until then lower what the model gets.",
        (
            Query(total("thalamus_feedback_total", "model", PREDICTED_OF), "judged answers", "short"),
            Query(
                over("thalamus_feedback_predicted_quality_total", "thalamus_feedback_total", "model", PREDICTED_OF),
                "predicted",
                "percentunit",
            ),
            Query(
                over("thalamus_feedback_quality_total", "thalamus_feedback_total", "model", PREDICTED_OF),
                "judged",
                "percentunit",
            ),
        ),
        kind="table",
        by="model",
    ),
    Panel(
        "Quality against one model for all",
        "Is quality given up against the baseline, as predicted, and how much?",
        "a growing gap: cheaper models get harder prompts; lower the weights on cost or set max_quality_loss.",
        (
            Query(
                over("thalamus_routed_quality_total", "thalamus_quality_compared_total", where=PROFILE, of=rate),
                "routed",
            ),
            Query(
                over("thalamus_baseline_quality_total", "thalamus_quality_compared_total", "baseline", PROFILE, rate),
                "always {{baseline}}",
            ),
        ),
        unit="percentunit",
    ),
)

SAVINGS = (
    Panel(
        "Money against one model for all",
        "What does routing cost per hour, and what would the same tokens cost from the baseline?",
        "lines that meet: nothing is saved. The baseline might have written more or fewer tokens; as many are assumed.",
        (
            Query("3600 * " + rate("thalamus_routed_cost_usd_total", where=PROFILE), "routed"),
            Query("3600 * " + rate("thalamus_baseline_cost_usd_total", "baseline", PROFILE), "always {{baseline}}"),
        ),
        unit="currencyUSD",
        width=12,
    ),
    Panel(
        "Share saved by profile",
        "Which profile saves how much?",
        "a profile that saves nothing has no weight on cost, or limits that leave only dear models.",
        (
            Query(
                "1 - " + over("thalamus_routed_cost_usd_total", "thalamus_baseline_cost_usd_total", "profile", PROFILE),
                "{{profile}}",
            ),
        ),
        unit="percentunit",
        kind="bars",
        minimum=None,
        width=12,
    ),
)

DASHBOARD = Dashboard(
    "thalamus-promise",
    "Thalamus / Promise and outcome",
    "Was the promise kept? Predicted against realised, limits that callers asked for, savings against one model.",
    ("profile", "model"),
    (
        Row("At a glance", GLANCE),
        Row("Asked, and got it?", ASKED),
        Row("Predicted against realised", PREDICTED),
        Row("Quality", QUALITY),
        Row("Against one model for everything", SAVINGS),
    ),
)
