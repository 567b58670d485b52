"""The questions of an exam: which, in which order, and what of them counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.errors import UsageError
from app.exam.paper import FRESH, LEAST_ROOM_TOKENS, ROOM_TOKENS, paper_of
from router_models.aptitude import FAMILIES, draw_exam
from router_models.storage.artifact import Artifact, load_artifact

ARTIFACTS = Path(__file__).parents[4] / "router_models/artifacts"


@pytest.fixture(scope="module")
def public() -> Artifact:
    return load_artifact(ARTIFACTS / "public-v1")


@pytest.fixture(scope="module")
def demo() -> Artifact:
    return load_artifact(ARTIFACTS / "demo-v2")


def test_anchors_count_and_families_that_were_not_learned_do_not(public: Artifact) -> None:
    paper = paper_of(public, seed=1, per_family=5, room_tokens=500)

    assert len(paper.prompts) == len(public.anchors) + 5 * len(FAMILIES)
    assert len(paper.counted()) == len(public.anchors)
    assert all((prompt.dataset != FRESH) == counts for prompt, counts in zip(paper.prompts, paper.counts, strict=True))
    assert len({prompt.prompt_id for prompt in paper.prompts}) == len(paper.prompts)


def test_families_that_an_artifact_learned_count(demo: Artifact) -> None:
    assert len(paper_of(demo, seed=1, per_family=3, room_tokens=500).counted()) == 3 * len(FAMILIES)


def test_items_of_learned_families_have_the_room_that_the_known_models_had(demo: Artifact) -> None:
    paper = paper_of(demo, seed=1, per_family=3)
    own = {item.item_id: item.max_tokens for family in FAMILIES for item in draw_exam(family, seed=1, count=3)}

    assert {prompt.prompt_id: prompt.max_tokens for prompt in paper.prompts} == own
    assert paper.own_room == own.keys()
    assert {prompt.prompt_id: prompt.max_tokens for prompt in paper.fitting(2048)} == own


def test_what_no_known_model_answered_in_a_room_of_its_own_has_ample_room(public: Artifact) -> None:
    paper = paper_of(public, seed=1, per_family=3)

    assert {prompt.max_tokens for prompt in paper.prompts} == {ROOM_TOKENS}
    assert not paper.own_room


def test_a_family_that_was_not_learned_has_ample_room_beside_those_that_were(demo: Artifact) -> None:
    partly = replace(demo, tasks=tuple(task for task in demo.tasks if not task.endswith("/sql")))
    paper = paper_of(partly, seed=1, per_family=3)

    assert len(paper.own_room) == 3 * (len(FAMILIES) - 1)
    assert {prompt.max_tokens for prompt in paper.prompts if prompt.task == "sql"} == {ROOM_TOKENS}
    assert max(prompt.max_tokens for prompt in paper.prompts if prompt.task != "sql") < LEAST_ROOM_TOKENS


def test_a_room_that_is_given_is_the_room_of_everything(demo: Artifact) -> None:
    paper = paper_of(demo, seed=1, per_family=3, room_tokens=77)

    assert {prompt.max_tokens for prompt in paper.prompts} == {77}
    assert not paper.own_room


def test_every_beginning_has_the_shares_of_the_whole(public: Artifact) -> None:
    paper = paper_of(public, seed=1, per_family=10, room_tokens=500)
    whole = Counter(f"{prompt.dataset}/{prompt.task}" for prompt in paper.prompts)
    half = Counter(f"{prompt.dataset}/{prompt.task}" for prompt in paper.prompts[: len(paper.prompts) // 2])

    assert all(abs(half[task] - count / 2) <= 1.5 for task, count in whole.items())


def test_the_same_seed_gives_the_same_paper_and_another_other_items(demo: Artifact) -> None:
    one, again, other = (paper_of(demo, seed=seed, per_family=5, room_tokens=100) for seed in (3, 3, 4))

    assert one.prompts == again.prompts
    assert not {prompt.prompt for prompt in one.prompts} & {prompt.prompt for prompt in other.prompts}


def test_a_short_context_gets_less_room_and_is_not_asked_what_it_cannot_read(public: Artifact) -> None:
    paper = paper_of(public, seed=1, per_family=2, room_tokens=1024)
    fitted = paper.fitting(2048)

    assert 0 < len(fitted) < len(paper.prompts)
    assert all(LEAST_ROOM_TOKENS <= prompt.max_tokens <= 1024 for prompt in fitted)
    assert paper.fitting(None) == paper.prompts == paper.fitting(100_000)


@pytest.mark.full
@pytest.mark.full
def test_old_models_scores_stand_beside_the_anchors(public: Artifact) -> None:
    paper = paper_of(public, seed=1, per_family=2, room_tokens=100)
    questions = paper.questions(public)
    newcomer = questions.described(np.ones(len(paper.counted())))

    assert (
        questions.expected_quality(newcomer)[0]
        > questions.expected_quality(questions.described(np.zeros(len(paper.counted()))))[0]
    )


def test_an_artifact_without_anchors_or_families_is_refused(public: Artifact) -> None:
    with pytest.raises(UsageError, match="nothing would compare a new model"):
        paper_of(replace(public, anchors=()), seed=1, per_family=3, room_tokens=100)


@pytest.mark.parametrize(
    ("grader", "reference", "words"),
    [("judge", None, "unknown grader 'judge'"), ("command", None, "unknown grader 'command'"), ("regex", "(", "not a")],
)
def test_an_anchor_that_cannot_be_graded_is_told_before_anything_is_asked(
    public: Artifact, grader: str, reference: str | None, words: str
) -> None:
    odd = {**public.anchors[7], "pool": "own", "prompt_id": "odd", "grader": grader, "reference": reference}
    artifact = replace(public, anchors=(*public.anchors[:7], odd))

    with pytest.raises(UsageError, match=f"answers to anchor odd cannot be graded: {words}.*train it again"):
        paper_of(artifact, seed=1, per_family=0)
