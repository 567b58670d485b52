"""A mock judge of known error rate, which knows what is right, and answers for it to compare."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.collect.judge import Judge, Judging
from app.collect.plan import Plan, Prompt, Target
from app.collect.progress import Progress, Reply
from tests.fakes.chat_server import Scripted

_SHOWN = re.compile(r"--- question (\w+)\n(.*)\n--- answer A \1\n(.*)\n--- answer B \1\n(.*)\n--- end \1\n", re.DOTALL)


@dataclass
class MockJudge:
    """Errs at a known rate where one answer is better by `worth` (question, answer), and says TIE where none is.

    With `second_error_rate` it errs that often where the better answer is shown second: a preference for a position.
    The same text gets the same verdict, as at temperature 0.
    """

    worth: Callable[[str, str], float]
    error_rate: float = 0.0
    second_error_rate: float | None = None
    seed: int = 0
    errors: dict[str, bool] = field(default_factory=dict)
    """Of each text on which it decided, whether it erred."""

    def __call__(self, text: str, before: int = 0, body: dict[str, Any] | None = None) -> Scripted:
        return Scripted(text=self.verdict(text))

    def verdict(self, text: str) -> str:
        """A, B or TIE."""
        question, first, second = shown(text)
        lead = self.worth(question, first) - self.worth(question, second)
        if lead == 0:
            return "TIE"
        rate = self.error_rate if lead > 0 or self.second_error_rate is None else self.second_error_rate
        self.errors[text] = random.Random(f"{self.seed} {text}").random() < rate
        return "A" if (lead > 0) != self.errors[text] else "B"


def shown(text: str) -> tuple[str, str, str]:
    """Question, answer A and answer B in what a judge is asked."""
    match = _SHOWN.search(text)
    assert match is not None, text
    return match[2], match[3], match[4]


def right_or_wrong(question: str, answer: str) -> float:
    """What an answer is worth where "right" is the right one to everything."""
    return float(answer == "right")


def graded_prompts(count: int, grader: str = "exact") -> tuple[Prompt, ...]:
    """Questions to which "right" is the right answer."""
    return tuple(Prompt(f"p{n}", f"question {n}", grader, "right", max_tokens=20) for n in range(count))


def target(model: str) -> Target:
    """A model that nobody serves."""
    return Target(model, model, "nowhere", ("http://127.0.0.1:1/v1/chat/completions",))


@contextmanager
def judged(
    folder: Path,
    answers: Mapping[str, Sequence[str]],
    say: Callable[[str], str] | None,
    prompts: Sequence[Prompt] | None = None,
    judge: str = "j",
    hears: int | None = None,
) -> Iterator[Judging]:
    """A judge that has said what `say` says on the answers by model, of which the first is the reference.

    Without `say` it has not been asked, with `hears` only so many questions. An empty answer stands for one that is
    missing.
    """
    prompts = prompts or graded_prompts(len(next(iter(answers.values()))))
    plan = Plan(tuple(prompts), tuple(target(model) for model in answers))
    the_judge = Judge(target(judge), next(iter(answers)))
    with (
        Progress(folder, plan.header()) as progress,
        Progress(folder / the_judge.folder, the_judge.header()) as verdicts,
    ):
        judging = Judging(the_judge, plan, progress, verdicts)
        for model, texts in answers.items():
            for prompt, text in zip(prompts, texts, strict=True):
                if text:
                    progress.add_reply(_reply(prompt.prompt_id, model, text))
        asked = [question for ruling in judging.rulings() for question in ruling.pair.questions] if say else []
        for question in asked[:hears]:
            verdicts.add_reply(_reply(question.prompt_id, judge, say(question.prompt) if say else ""))
        yield judging


def _reply(prompt_id: str, model: str, text: str) -> Reply:
    return Reply(prompt_id, model, text, "stop", 10, 4, 0.1, None)
