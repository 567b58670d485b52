"""Measures who is good at what: every model on fresh items of every family, graded, as a Markdown table.

    .venv-vllm/bin/python deploy/demo/matrix.py http://127.0.0.1:8101 http://127.0.0.1:8102
    .venv/bin/python deploy/demo/matrix.py --outcomes DIR [DIR ...]     from what `thalamus collect` wrote instead

The addresses are running workers (deploy/vllm/serve.sh); several that serve the same model share its items. Answers are
greedy and capped at the item's own max_tokens. The same arguments ask the same items.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layout import MEASURE_SEED, use_project
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from workers import MODELS, ask, find_models, open_session

use_project()

from router_models.aptitude import FAMILIES, Item, draw, grade_all  # noqa: E402  # importable only after use_project

Accuracy = dict[str, dict[str, float]]
"""Model → family → mean score in per cent."""


async def measure(
    urls: list[str], models: Sequence[str], items: Sequence[Item], concurrency: int
) -> dict[str, list[str]]:
    """Answers of each model, in item order."""
    turnstile = asyncio.Semaphore(concurrency)
    with Progress(*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        async with open_session() as session:
            serving = await find_models(session, urls)
            if missing := [model for model in models if model not in serving]:
                raise SystemExit(f"no worker serves {', '.join(missing)}; start deploy/vllm/serve.sh base|small PORT")
            turns = {model: itertools.cycle(serving[model]) for model in models}

            async def answer(model: str, item: Item) -> str:
                async with turnstile:
                    text = (await ask(session, next(turns[model]), model, item.prompt, item.max_tokens)).text
                    progress.advance(bars[model])
                    return text

            bars = {model: progress.add_task(model, total=len(items)) for model in models}
            answers: dict[str, list[str]] = {}
            for model in models:
                answers[model] = list(await asyncio.gather(*(answer(model, item) for item in items)))
    return answers


def accuracy(items: Sequence[Item], answers: dict[str, list[str]], wording: str) -> Accuracy:
    """Mean score by model and family over the items of one wording."""
    table: Accuracy = {}
    for model, texts in answers.items():
        scores = grade_all([(item.grader, item.reference, text) for item, text in zip(items, texts, strict=True)])
        table[model] = {}
        for family in FAMILIES:
            own = [s for s, item in zip(scores, items, strict=True) if (item.family, item.wording) == (family, wording)]
            if own:
                table[model][family] = 100 * sum(own) / len(own)
    return table


def accuracy_of_outcomes(folders: Sequence[Path], wording: str) -> tuple[Accuracy, int]:
    """The same table from outcomes datasets whose tasks are families, training rows left out, and its items a cell."""
    import pyarrow.parquet  # not in the workers' environment

    scores: dict[str, dict[str, list[float]]] = {}
    for folder in folders:
        prompts = {row["prompt_id"]: row for row in pyarrow.parquet.read_table(folder / "prompts.parquet").to_pylist()}
        for row in pyarrow.parquet.read_table(folder / "outcomes.parquet").to_pylist():
            prompt = prompts[row["prompt_id"]]
            if prompt["split"] == {"seen": "test", "unseen": "unseen"}[wording]:
                scores.setdefault(row["model"], {}).setdefault(prompt["task"], []).append(row["score"])
    table = {
        model: {family: 100 * statistics.mean(scores[model][family]) for family in FAMILIES}
        for model in MODELS
        if model in scores
    }
    return table, min(len(cell) for row in scores.values() for cell in row.values())


def markdown(table: Accuracy) -> str:
    """One row a model; the best of each column is bold."""
    families = list(next(iter(table.values())))
    best = {family: max(row[family] for row in table.values()) for family in families}
    lines = ["| model | " + " | ".join(families) + " | mean |", "|---" * (len(families) + 2) + "|"]
    for model, row in table.items():
        cells = [f"**{row[f]:.0f}**" if row[f] == best[f] else f"{row[f]:.0f}" for f in families]
        lines.append(f"| {model} | " + " | ".join(cells) + f" | {sum(row.values()) / len(row):.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Ask, grade, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("urls", nargs="*", metavar="URL", help="running workers, such as http://127.0.0.1:8101")
    parser.add_argument(
        "--outcomes", nargs="+", type=Path, metavar="DIR", help="outcomes datasets to read instead of asking"
    )
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated (all of the demo)")
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated (all)")
    parser.add_argument(
        "--seen", type=int, default=120, help="items a family in wordings that were trained on (%(default)s)"
    )
    parser.add_argument("--unseen", type=int, default=60, help="items a family in wordings that were not (%(default)s)")
    parser.add_argument("--seed", type=int, default=MEASURE_SEED)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument(
        "--room", type=int, default=0, help="tokens that every answer may at least take (as the items say)"
    )
    parser.add_argument("--answers", type=Path, help="also write every answer, one JSON object a line")
    wanted = parser.parse_args()
    if wanted.outcomes:
        for wording in ("seen", "unseen"):
            table, count = accuracy_of_outcomes(wanted.outcomes, wording)
            print(f"\n{wording} wordings, {count} items a cell, per cent:\n\n{markdown(table)}")
        return
    if not wanted.urls:
        parser.error("name the running workers, or outcomes with --outcomes")

    items = [
        item
        for family in wanted.families.split(",")
        for wording, count in (("seen", wanted.seen), ("unseen", wanted.unseen))
        for item in draw(family, seed=wanted.seed, count=count, wording=wording)
    ]
    items = [replace(item, max_tokens=max(item.max_tokens, wanted.room)) for item in items]
    begin = time.monotonic()
    answers = asyncio.run(measure(wanted.urls, wanted.models.split(","), items, wanted.concurrency))
    took_s = time.monotonic() - begin
    for wording, count in (("seen", wanted.seen), ("unseen", wanted.unseen)):
        if count:
            print(f"\nSeed {wanted.seed}, {wording} wordings, {count} items a cell, per cent:\n")
            print(markdown(accuracy(items, answers, wording)))
    requests = len(items) * len(answers)
    print(f"\n{requests} requests in {took_s:.0f} s: {requests / took_s:.1f} a second.")
    if wanted.answers:
        write_answers(wanted.answers, items, answers)


def write_answers(file: Path, items: Sequence[Item], answers: dict[str, list[str]]) -> None:
    """What each model said to each item, for looking at."""
    with file.open("w") as lines:
        for number, item in enumerate(items):
            said = {model: texts[number] for model, texts in answers.items()}
            row = {
                "family": item.family,
                "level": item.level,
                "wording": item.wording,
                "prompt": item.prompt,
                "ideal": item.answer,
            }
            lines.write(json.dumps({**row, "said": said}) + "\n")


if __name__ == "__main__":
    main()
