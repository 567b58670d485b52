"""Task families: items come from seeds alone, in two wordings, and their ideal answers pass their graders."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from string import Formatter

import pytest

from router_models.aptitude import FAMILIES, GRADERS, Item, Wording, draw, draw_exam, grade_all

SKILLS = {
    "arithmetic": "math",
    "word_problems": "math",
    "extract_json": "extract",
    "sql": "sql",
    "python_line": "python",
    "dates": "convert",
    "units": "convert",
    "list_state": "lists",
    "german": "german",
    "facts": "base",
}
WORDINGS: tuple[Wording, ...] = ("seen", "unseen")

every_family = pytest.mark.parametrize("family", list(FAMILIES))
every_wording = pytest.mark.parametrize("wording", WORDINGS)


def scores(items: list[Item], answers: list[str]) -> list[float]:
    return grade_all([(item.grader, item.reference, answer) for item, answer in zip(items, answers, strict=True)])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_the_families_have_the_names_and_skills_that_experts_are_trained_by() -> None:
    assert {name: family.skill for name, family in FAMILIES.items()} == SKILLS


@every_family
@every_wording
def test_the_ideal_answer_scores_one_on_every_level(family: str, wording: Wording) -> None:
    items = draw(family, seed=11, count=150, wording=wording)

    wrong = [
        item for item, score in zip(items, scores(items, [item.answer for item in items]), strict=True) if score < 1
    ]

    assert wrong == []
    assert Counter(item.level for item in items) == {1: 50, 2: 50, 3: 50}


@every_family
def test_the_best_constant_answer_scores_little(family: str) -> None:
    items = draw(family, seed=12, count=150)
    common = [answer for answer, _ in Counter(item.answer for item in items).most_common(5)]

    best = max(mean(scores(items, [constant] * len(items))) for constant in [*common, "", "yes", "0", "{}"])

    assert best <= 0.2


def test_a_guess_between_two_options_is_right_half_of_the_time() -> None:
    items = draw("facts", seed=13, count=400, levels=(1, 2))

    naming_both = [f"{item.answer} or not" for item in items]
    first_option = [min(_options(item), key=item.prompt.rindex) for item in items]

    assert mean(scores(items, naming_both)) == 1
    assert 0.4 < mean(scores(items, first_option)) < 0.6


def _options(item: Item) -> list[str]:
    return list(json.loads(item.reference)["options"])


@every_family
def test_naming_every_option_of_a_choice_scores_nothing(family: str) -> None:
    items = [
        item for item in draw(family, seed=14, count=90) if item.grader == "choice" and '"last"' not in item.reference
    ]

    assert sum(scores(items, [", ".join(_options(item)) for item in items])) == 0


@every_family
@every_wording
def test_the_same_seed_gives_the_same_items_in_another_process(family: str, wording: Wording) -> None:
    here = [asdict(item) for item in draw(family, seed=7, count=12, wording=wording)]
    program = (
        "from dataclasses import asdict; from router_models.aptitude import draw;"
        f"print([asdict(item) for item in draw({family!r}, seed=7, count=12, wording={wording!r})])"
    )

    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert there.strip() == str(here)


@every_family
def test_a_longer_draw_begins_with_the_shorter_one(family: str) -> None:
    assert draw(family, seed=3, count=40)[:10] == draw(family, seed=3, count=10)


@every_family
@every_wording
def test_another_seed_shares_almost_no_prompt(family: str, wording: Wording) -> None:
    ours = {item.prompt for item in draw(family, seed=1, count=600, wording=wording)}
    theirs = {item.prompt for item in draw(family, seed=2, count=600, wording=wording)}

    assert len(ours) == len(theirs) == 600
    assert len(ours & theirs) <= 24


@every_family
def test_seen_and_unseen_wordings_are_many_and_different(family: str) -> None:
    frames = FAMILIES[family].frames

    assert len(set(frames["seen"])) >= 8
    assert len(set(frames["unseen"])) >= 5
    assert not set(frames["seen"]) & set(frames["unseen"])


# Words that the task itself needs, whichever way it is put.
NEEDED = {"json", "python", "german", "calendar", "list", "days", "months", "date", "table"}


@every_family
def test_unseen_frames_use_other_words_than_seen_ones(family: str) -> None:
    seen, unseen = (_content_words(FAMILIES[family].frames[wording]) for wording in WORDINGS)

    repeated = (unseen & seen) - NEEDED

    assert len(repeated) <= 0.25 * len(unseen), repeated


def _content_words(frames: tuple[str, ...]) -> set[str]:
    text = " ".join(literal for frame in frames for literal, *_ in Formatter().parse(frame))
    return {word for word in "".join(c if c.isalpha() else " " for c in text.lower()).split() if len(word) > 3}


@every_family
@every_wording
def test_prompts_and_answers_are_short_and_their_room_fits(family: str, wording: Wording) -> None:
    for item in draw(family, seed=5, count=120, wording=wording):
        assert len(item.prompt) <= 260
        assert len(item.answer) <= 90
        assert len(item.answer) // 3 <= item.max_tokens <= 96
        assert "{" not in item.prompt
        assert item.grader in GRADERS


@every_family
def test_item_ids_are_distinct(family: str) -> None:
    items = draw(family, seed=6, count=300)

    assert len({item.item_id for item in items}) == 300


def test_levels_may_be_chosen() -> None:
    assert {item.level for item in draw("sql", seed=1, count=20, levels=(2,))} == {2}


@every_family
def test_exams_of_other_seeds_share_no_prompt_and_the_same_seed_gives_the_same_bytes(family: str) -> None:
    exams = [draw_exam(family, seed=seed, count=60) for seed in (1, 2, 7, 12_345)]
    prompts = [{item.prompt for item in exam} for exam in exams]

    assert len(set.union(*prompts)) == 4 * 60
    assert draw_exam(family, seed=7, count=60) == exams[2]
    assert grade_all([(item.grader, item.reference, item.answer) for item in exams[0]]) == [1.0] * 60


@pytest.mark.parametrize(
    ("family", "levels", "words"),
    [("cooking", (1,), "unknown family 'cooking'"), ("sql", (4,), "levels of sql"), ("sql", (), "levels of sql")],
)
def test_an_unknown_family_or_level_is_refused(family: str, levels: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw(family, seed=1, count=1, levels=levels)
