"""From a finished collection to the dataset's files: prompts, outcomes, and a line for each outcome that is missing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.collect.graders import Graded
from app.collect.plan import Key, Plan, Prompt
from app.collect.progress import Progress, Reply
from app.collect.readability import readability_grade
from app.collect.thoughts import spoken
from app.collect.whole import write_whole
from router_models.outcomes.dataset import PREDICTED_AS, OutcomesDataset

FAILURES_NAME = "failures.jsonl"

_PROMPT_TEXTS = ("prompt_id", "dataset", "task", "prompt", "reference", "grader", "split")


def build_dataset(plan: Plan, replies: Mapping[Key, Reply], graded: Graded) -> OutcomesDataset:
    """All prompts of the plan, and the outcomes that were answered and graded, in the plan's order."""
    return OutcomesDataset(prompts_table(plan.prompts), outcomes_table(plan, replies, graded))


def prompts_table(prompts: Sequence[Prompt]) -> pa.Table:
    """The prompts, a row each; what else a prompt says is a column of its own."""
    columns: dict[str, Any] = {
        name: pa.array([_storable(getattr(prompt, name)) for prompt in prompts], pa.string()) for name in _PROMPT_TEXTS
    }
    messages = [json.dumps(prompt.messages) if prompt.messages else None for prompt in prompts]
    columns["messages"] = pa.array(messages, pa.string())
    columns["max_tokens"] = pa.array([prompt.max_tokens for prompt in prompts], pa.int64())
    for name in dict.fromkeys(name for prompt in prompts for name in prompt.extra):
        columns[str(_storable(name))] = _any_array([prompt.extra.get(name) for prompt in prompts])
    return pa.table(columns)


def _any_array(values: Sequence[Any]) -> Any:
    """An Arrow array; lists, objects and values that no type has in common become JSON texts."""
    plain = [_storable(value) if isinstance(value, str) else value for value in values]
    if not any(isinstance(value, list | dict) for value in plain):
        with contextlib.suppress(pa.ArrowException, OverflowError):
            return pa.array(plain)
    texts = [None if value is None else json.dumps(value, default=str) for value in values]
    return pa.array(texts, pa.string())


def outcomes_table(plan: Plan, replied: Mapping[Key, Reply], graded: Graded) -> pa.Table:
    """What was answered and graded, in the plan's order."""
    keys = [key for key in _keys(plan) if key in graded.scores]
    replies = [replied[key] for key in keys]
    targets = {target.model: target for target in plan.targets}
    costs = [targets[reply.model].cost_usd(reply.input_tokens, reply.output_tokens) for reply in replies]
    table = pa.table(
        {
            "prompt_id": pa.array([key[0] for key in keys], pa.string()),
            "model": pa.array([key[1] for key in keys], pa.string()),
            PREDICTED_AS: pa.array([targets[key[1]].predicted_as for key in keys], pa.string()),
            "score": pa.array([graded.scores[key] for key in keys], pa.float64()),
            "cost_usd": pa.array(costs, pa.float64()),
            "input_tokens": pa.array([reply.input_tokens for reply in replies], pa.int64()),
            "output_tokens": pa.array([reply.output_tokens for reply in replies], pa.int64()),
            "latency_s": pa.array([reply.latency_s for reply in replies], pa.float64()),
            "mean_logprob": pa.array([reply.mean_logprob for reply in replies], pa.float64()),
            "answer": pa.array([_storable(reply.answer) for reply in replies], pa.string()),
            "finish_reason": pa.array([_storable(reply.finish_reason) for reply in replies], pa.string()),
        }
    )
    return _with_judged(table, keys, graded) if graded.judged_scores else table


def _with_judged(table: pa.Table, keys: Sequence[Key], graded: Graded) -> pa.Table:
    """What a judge said, beside the scores; null where it was not asked or could not be read."""
    scores = pa.array([graded.judged_scores.get(key) for key in keys], pa.float64())
    agrees = pa.array([graded.judged_agrees.get(key) for key in keys], pa.bool_())
    return table.append_column("judged_score", scores).append_column("judged_agrees", agrees)


def _storable(text: str | None) -> str | None:
    """The text without lone surrogates, which JSON can carry and Parquet cannot."""
    return None if text is None else text.encode(errors="replace").decode()


def _keys(plan: Plan) -> list[Key]:
    return [(prompt.prompt_id, target.model) for prompt in plan.prompts for target in plan.targets]


def missing_outcomes(plan: Plan, progress: Progress, graded: Graded, stopped: str | None = None) -> dict[Key, str]:
    """Requests of the plan that have no outcome, with the reason; `stopped` is why not all of them were asked."""
    reasons = {**progress.failures, **graded.failures}
    not_asked = f"not asked: {stopped}" if stopped else "not asked"
    return {key: reasons.get(key, not_asked) for key in _keys(plan) if key not in graded.scores}


def write_failures(folder: Path, missing: dict[Key, str]) -> None:
    """`failures.jsonl`, one line for each; removed where there is none."""
    path = folder / FAILURES_NAME
    if not missing:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps({"prompt_id": key[0], "model": key[1], "reason": why}) for key, why in missing.items()]
    write_whole(path, "\n".join(lines) + "\n")


def figures_of(plan: Plan, progress: Progress, graded: Graded) -> list[dict[str, Any]]:
    """Per model: outcomes, their mean score and latency, what they cost, and how hard the answers are to read."""
    figures = []
    for target in plan.targets:
        replies = [reply for reply in progress.replies.values() if reply.model == target.model]
        scores = [score for (_, model), score in graded.scores.items() if model == target.model]
        costs = [target.cost_usd(reply.input_tokens, reply.output_tokens) for reply in replies]
        figures.append(
            {
                "model": target.model,
                "outcomes": len(scores),
                "missing": len(plan.prompts) - len(scores),
                "mean_score": _mean(scores),
                "cost_usd": None if target.price is None else sum(cost or 0.0 for cost in costs),
                "mean_latency_s": _mean([reply.latency_s for reply in replies]),
                "mean_output_tokens": _mean([float(reply.output_tokens or 0) for reply in replies]),
                "readability_grade": readability_grade(spoken(reply.answer) for reply in replies)[0],
            }
        )
    return figures


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
