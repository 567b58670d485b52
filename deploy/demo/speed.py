"""Measures the workers' speed: tokens per second of each model, one request at a time and eight at once.

    .venv-vllm/bin/python deploy/demo/speed.py http://127.0.0.1:8101 http://127.0.0.1:8102

Answers of a fixed length to short prompts of a fresh draw, the median of several runs; the time includes reading the
prompt. Other work on the same cores shows at once, so stop it first.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator

import aiohttp
from layout import MEASURE_SEED, use_project
from rich.progress import track
from workers import MODELS, ask, find_models, open_session

use_project()

from router_models.aptitude import draw  # noqa: E402  # importable only after use_project

OUTPUT_TOKENS = 96
AT_ONCE = (1, 8)


async def tokens_per_s(
    session: aiohttp.ClientSession, url: str, model: str, prompts: Iterator[str], at_once: int
) -> float:
    """Output tokens of `at_once` simultaneous answers per second of wall time."""
    begin = time.monotonic()
    answers = await asyncio.gather(
        *(ask(session, url, model, next(prompts), OUTPUT_TOKENS, ignore_eos=True) for _ in range(at_once))
    )
    return sum(answer.output_tokens for answer in answers) / (time.monotonic() - begin)


async def measure(urls: list[str], models: list[str], runs: int) -> dict[str, list[float]]:
    """Model → median tokens per second at each of AT_ONCE."""
    prompts = itertools.cycle(item.prompt for item in draw("word_problems", seed=MEASURE_SEED, count=200))
    speeds: dict[str, list[float]] = {}
    async with open_session() as session:
        serving = await find_models(session, urls)
        for model in track([name for name in models if name in serving], description="Measuring"):
            url = serving[model][0]
            await ask(session, url, model, next(prompts), 4)
            speeds[model] = [
                statistics.median([await tokens_per_s(session, url, model, prompts, at_once) for _ in range(runs)])
                for at_once in AT_ONCE
            ]
    return speeds


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("urls", nargs="+", metavar="URL", help="running workers")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated (all of the demo)")
    parser.add_argument("--runs", type=int, default=3)
    wanted = parser.parse_args()
    speeds = asyncio.run(measure(wanted.urls, wanted.models.split(","), wanted.runs))
    print("\n| tokens/s | " + " | ".join(f"{n} at once" for n in AT_ONCE) + " |\n" + "|---" * (len(AT_ONCE) + 1) + "|")
    for model, row in speeds.items():
        print(f"| {model} | " + " | ".join(f"{speed:.0f}" for speed in row) + " |")


if __name__ == "__main__":
    main()
