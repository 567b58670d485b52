"""What the demo shows: fresh graded items and ordinary questions, routed, beside a fixed and a random choice."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

from app.cli.screen import WholeTable, console, progress
from app.errors import UsageError
from app.settings import Settings
from router_models.aptitude import FAMILIES, Item, draw, grade
from router_models.storage.artifact import load_artifact

CONCURRENCY = 8
"""In flight at once: what two small workers on two cores handle without a long queue."""
ORDINARY_QUESTIONS = (
    "What is the capital of Italy?",
    "Give me one tip for staying healthy.",
    "Why is the sky blue? Answer in one sentence.",
)
ORDINARY_MAX_TOKENS = 48


@dataclass(frozen=True)
class Question:
    """A prompt and, where it is an item of a family, what grades its answer."""

    prompt: str
    max_tokens: int
    item: Item | None = None


@dataclass(frozen=True)
class Answered:
    """What came back for one question under one policy."""

    question: Question
    model: str
    why: str
    predicted: float | None
    score: float | None
    cost_usd: float
    latency_ms: float


@dataclass(frozen=True)
class Rivals:
    """What routing has to beat: choices that need no router."""

    models: tuple[str, ...]
    """To draw from at random."""
    fixed: Mapping[str, str]
    """What a fixed choice is called, and its model."""

    @classmethod
    def of(cls, settings: Settings) -> Rivals:
        """Always the biggest model, and always the one that did best on the artifact's calibration rows.

        Several models of the largest size count as the best of them.

        Raises:
            UsageError: the configuration names no artifact; ArtifactError: it is unusable.
        """
        if settings.artifact is None:
            raise UsageError(f"{settings.path} names no artifact")
        artifact = load_artifact(settings.artifact)
        means_M = np.nanmean(artifact.calibration.score, axis=0)
        mean = dict(zip(artifact.models, means_M.tolist(), strict=True))
        sizes = {model.name: model.card.values["parameters_b"] for model in settings.catalog.models}
        biggest = max(sizes, key=lambda name: (sizes[name], mean[name]))
        best = max(mean, key=lambda name: mean[name])
        return cls(tuple(sizes), {"always the biggest": biggest, "always the best on average": best})


class Showcase:
    """Asks the gateway and compares `auto` with choices that need no router."""

    def __init__(self, url: str, key: str, rivals: Rivals, seed: int) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._rivals = rivals
        self._seed = seed
        self._console = console()

    async def run(self, items_per_family: int, *, as_json: bool) -> None:
        """Ask everything, then print the table and the summary, or one JSON object."""
        graded = [
            Question(item.prompt, item.max_tokens, item)
            for family in FAMILIES
            for item in draw(family, seed=self._seed, count=items_per_family)
        ]
        ordinary = [Question(text, ORDINARY_MAX_TOKENS) for text in ORDINARY_QUESTIONS]
        rng = random.Random(self._seed)
        policies: dict[str, list[tuple[str, Question]]] = {
            "auto": [("auto", q) for q in [*graded, *ordinary]],
            **{f"{name} ({model})": [(model, q) for q in graded] for name, model in self._rivals.fixed.items()},
            "a random model": [(rng.choice(self._rivals.models), q) for q in graded],
        }
        answers = await self._ask_all(policies)
        figures = {name: _figures(answered) for name, answered in answers.items()}
        if as_json:
            print(json.dumps({"seed": self._seed, "policies": figures}))
            return
        self._console.print(_table(answers["auto"]))
        self._console.print(_summary(figures, self._seed))

    async def _ask_all(self, policies: Mapping[str, list[tuple[str, Question]]]) -> dict[str, list[Answered]]:
        slots = asyncio.Semaphore(CONCURRENCY)
        total = sum(len(questions) for questions in policies.values())
        with progress(console(stderr=True), transient=True) as shown:
            bar = shown.add_task("Asking", total=total)
            async with aiohttp.ClientSession(self._url, headers=self._headers) as session:

                async def ask(model: str, question: Question) -> Answered:
                    async with slots:
                        answered = await _ask(session, model, question)
                    shown.advance(bar)
                    return answered

                return {
                    name: list(await asyncio.gather(*(ask(model, question) for model, question in questions)))
                    for name, questions in policies.items()
                }


async def _ask(session: aiohttp.ClientSession, model: str, question: Question) -> Answered:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question.prompt}],
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "routing": {"explain": True},
    }
    begin = time.perf_counter()
    async with session.post("/v1/chat/completions", json=body) as response:
        answer = await response.json()
    latency_ms = (time.perf_counter() - begin) * 1e3
    if response.status != 200:
        raise UsageError(f"the gateway answered {response.status}: {answer['error']['message']}")
    text = answer["choices"][0]["message"]["content"]
    item = question.item
    return Answered(
        question,
        model=answer["model"],
        why=answer["thalamus"]["why"],
        predicted=_predicted_quality(answer["thalamus"], answer["model"]),
        score=grade(item.grader, item.reference, text) if item else None,
        cost_usd=float(response.headers["x-thalamus-cost-usd"]),
        latency_ms=latency_ms,
    )


def _predicted_quality(record: Mapping[str, Any], model: str) -> float | None:
    for candidate in record["candidates"]:
        if candidate["model"] == model:
            quality: float | None = candidate["quality"]
            return quality
    return None


def _figures(answers: Iterable[Answered]) -> dict[str, float]:
    graded = [answer for answer in answers if answer.score is not None]
    return {
        "items": len(graded),
        "quality": sum(answer.score or 0.0 for answer in graded) / len(graded),
        "cost_usd": sum(answer.cost_usd for answer in graded),
    }


def _table(answers: list[Answered]) -> WholeTable:
    table = WholeTable(title="Who answered, and why")
    table.add_column("prompt", ratio=4)
    table.add_column("model", style="bold", no_wrap=True)
    table.add_column("why", style="dim", ratio=3)
    for column in ("predicted", "graded", "micro-USD", "ms"):
        table.add_column(column, justify="right")
    for answer in answers:
        table.add_row(
            answer.question.prompt if len(answer.question.prompt) < 80 else answer.question.prompt[:77] + "...",
            answer.model,
            answer.why,
            "-" if answer.predicted is None else f"{answer.predicted:.2f}",
            "-" if answer.score is None else f"{answer.score:.2f}",
            f"{answer.cost_usd * 1e6:.2f}",
            f"{answer.latency_ms:.0f}",
        )
    return table


def _summary(figures: Mapping[str, Mapping[str, float]], seed: int) -> str:
    parts = [
        f"{name}: quality {figure['quality']:.2f} for {figure['cost_usd'] * 1e6:.1f} micro-USD"
        for name, figure in figures.items()
    ]
    return f"On {figures['auto']['items']:.0f} fresh items (seed {seed}): " + "; ".join(parts) + "."
