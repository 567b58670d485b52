"""The dashboard *Decisions*: who gets what, why, at what price, and what was excluded."""

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

HERE = 'model=~"$model", profile=~"$profile"'
MODEL, PROFILE = 'model=~"$model"', 'profile=~"$profile"'
DECISIONS, UNFAMILIAR = "thalamus_decisions_total", "thalamus_unfamiliar_prompts_total"
BY_MODEL = total(DECISIONS, "model", HERE)
# Answers are counted by who gave them; decisions also count what failed.
ANSWERS = "thalamus_ttft_seconds_count"
# Over all of the time: a model that a new process has not met yet has a price too.
ANSWERED, PRICED = (f"increase({name}{{{MODEL}}}[$__range])" for name in (ANSWERS, "thalamus_cost_usd_total"))
COST = total("thalamus_cost_usd_total", where=MODEL)

GLANCE = (
    Panel(
        "Decisions",
        "How many requests were decided in the time that is shown?",
        "none at all means that nobody asks or that the gateway is down; see Fleet and gateway.",
        (Query(total(DECISIONS, where=HERE)),),
        decimals=0,
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Cost per 1,000 answers",
        "What do a thousand answers cost on average, over all models with a price, whatever the profile?",
        "compare the models' shares below with those of last week; a dearer mix has a reason in 'Why'.",
        (Query(f"1000 * {COST} / sum ({ANSWERED} and on (model) {PRICED})"),),
        unit="currencyUSD",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Saved against one model for all",
        "Which share of the money is saved, had the baseline model answered with the same tokens?",
        "near zero or below: the baseline is cheap, or weights on cost are too low; see Promise and outcome.",
        (Query("1 - " + over("thalamus_routed_cost_usd_total", "thalamus_baseline_cost_usd_total", where=PROFILE)),),
        unit="percentunit",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Mean predicted quality",
        "How good does the router model expect the chosen answers to be?",
        "if it fell, prompts became harder or cheaper models are chosen; see the table.",
        (Query(over("thalamus_predicted_quality_sum", "thalamus_predicted_quality_count", where=MODEL)),),
        unit="percentunit",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Unfamiliar prompts",
        "Which share of the prompts that were read is unlike all that the router model learned from?",
        "when it grows, collect outcomes of such prompts and train a router model on them.",
        (
            Query(
                f"({total('thalamus_unfamiliar_prompts_total')} or vector(0)) / {total('thalamus_predictions_total')}"
            ),
        ),
        unit="percentunit",
        kind="number",
        width=4,
        height=4,
    ),
    Panel(
        "Nobody was eligible",
        "How many requests found no model that keeps their limits?",
        "see what excludes models below, and the limits of the key or profile that asks.",
        (Query(total("thalamus_requests_total", where='outcome="no_eligible_model"') + " or vector(0)"),),
        decimals=0,
        kind="number",
        width=4,
        height=4,
    ),
)

WHO = (
    Panel(
        "Share of decisions by model",
        "Which model gets how much of the traffic?",
        "after a jump look at the replicas of the model that lost, then at the mix of prompts.",
        (Query(rate(DECISIONS, "model", HERE) + " > 0", "{{model}}"),),
        unit="reqps",
        kind="shares",
        width=12,
        height=9,
    ),
    Panel(
        "Who got what, at what price",
        "What did each model get, at what price, and how good were its answers expected to be?",
        "a model with a high price and no lead in quality should not lead the table; check its price and the weights.",
        (
            Query(BY_MODEL, "decisions", "short"),
            Query(
                f"{total(DECISIONS, 'model', HERE)} / scalar({total(DECISIONS, where=HERE)})", "share", "percentunit"
            ),
            Query(
                over("thalamus_predicted_quality_sum", "thalamus_predicted_quality_count", "model", MODEL),
                "predicted quality",
                "percentunit",
            ),
            Query(total("thalamus_tokens_total", "model", f'{MODEL}, direction="output"'), "tokens written", "short"),
            Query(total("thalamus_cost_usd_total", "model", HERE), "cost", "currencyUSD"),
            Query(
                "1000 * " + over("thalamus_cost_usd_total", ANSWERS, "model", MODEL),
                "per 1,000 answers",
                "currencyUSD",
            ),
        ),
        kind="table",
        width=12,
        height=9,
        by="model",
    ),
)

WHY = (
    Panel(
        "Why: reasons of decisions",
        "Was the choice made on predicted quality, or named, the only one, a session's, a default, a fallback?",
        "default: the predictor fails; abstained: prompts are unfamiliar; only: limits; fallback: chosen models fail.",
        (Query(rate(DECISIONS, "reason", HERE) + " > 0", "{{reason}}"),),
        unit="reqps",
        kind="stacked",
    ),
    Panel(
        "Which model for which reason",
        "Which reasons lead to which model?",
        "a model that gets its requests only as default is not chosen for its quality.",
        (Query(f"topk(14, {total(DECISIONS, 'model, reason', HERE)} > 0)", "{{model}} · {{reason}}"),),
        decimals=0,
        kind="bars",
    ),
    Panel(
        "By profile",
        "Which profiles do callers ask for, and how many name a model (named)?",
        "an unexpected profile is a client's setting; see the key's requests in Fleet and gateway.",
        (Query(rate(DECISIONS, "profile", HERE) + " > 0", "{{profile}}"),),
        unit="reqps",
        kind="stacked",
    ),
    Panel(
        "Who read the prompt",
        "Is a glance (static) enough, or is the transformer asked?",
        "many transformer: models are close in utility or prompts unfamiliar; each costs milliseconds of CPU.",
        (Query(rate("thalamus_predictions_total", "encoder"), "{{encoder}}"),),
        unit="reqps",
        kind="stacked",
    ),
    Panel(
        "Where the numbers do not decide",
        "How often is a prompt unfamiliar, does the router abstain, or does the predictor fail?",
        "unfamiliar: train on such prompts; failures: predictor.failed in the log says why.",
        (
            Query(rate(UNFAMILIAR, "encoder"), "unfamiliar to {{encoder}}"),
            Query(rate(DECISIONS, where=f'reason="abstained", {HERE}') + " or vector(0)", "abstained"),
            Query(rate("thalamus_predictor_failures_total"), "predictor failed"),
        ),
        unit="reqps",
    ),
    Panel(
        "Predicted quality of the chosen",
        "How sure is the router of what it chooses: the low tenth, the middle and the high tenth?",
        "a falling low tenth means hard prompts that no model is good at; add a better model.",
        (
            Query(quantile(0.1, "thalamus_predicted_quality", "", MODEL), "low tenth"),
            Query(quantile(0.5, "thalamus_predicted_quality", "", MODEL), "middle"),
            Query(quantile(0.9, "thalamus_predicted_quality", "", MODEL), "high tenth"),
        ),
        unit="percentunit",
        maximum=1,
    ),
)

PRICE = (
    Panel(
        "Money by model",
        "Where does the money go, in dollars per hour?",
        "a jump: see which key spends in Fleet and gateway, and whether decisions moved to a dearer model.",
        (Query(f"3600 * {rate('thalamus_cost_usd_total', 'model', HERE)}", "{{model}}"),),
        unit="currencyUSD",
        kind="stacked",
    ),
    Panel(
        "Money by profile",
        "What does each profile cost per hour, and what do models that callers name (named)?",
        "a cheap profile that costs much is asked for much, or its weight on cost is too low.",
        (Query(f"3600 * {rate('thalamus_cost_usd_total', 'profile', HERE)}", "{{profile}}"),),
        unit="currencyUSD",
        kind="stacked",
    ),
    Panel(
        "Tokens",
        "How much is read and written per second?",
        "a jump in tokens read is long prompts: see who sends them, and whether caching works.",
        (Query(rate("thalamus_tokens_total", "direction", MODEL), "{{direction}}"),),
    ),
)

EXCLUDED = (
    Panel(
        "What excluded models",
        "What keeps models from being chosen?",
        "availability: replicas are out; capabilities or context: callers ask for much; limits: see who sets them.",
        (Query(rate("thalamus_exclusions_total", "constraint") + " > 0", "{{constraint}}"),),
        kind="stacked",
        width=12,
    ),
    Panel(
        "Exclusions in all",
        "Which constraint excludes most?",
        "relax it where nobody means it: a default of a key or profile is often stricter than needed.",
        (Query(total("thalamus_exclusions_total", "constraint") + " > 0", "{{constraint}}"),),
        decimals=0,
        kind="bars",
        width=12,
    ),
)

DASHBOARD = Dashboard(
    "thalamus-decisions",
    "Thalamus / Decisions",
    "Who gets what, why, at what price, and what was excluded.",
    ("profile", "model"),
    (
        Row("At a glance", GLANCE),
        Row("Who gets what", WHO),
        Row("Why", WHY),
        Row("At what price", PRICE),
        Row("What was excluded", EXCLUDED),
    ),
)
