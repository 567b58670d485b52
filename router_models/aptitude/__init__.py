"""Seeded task families with automatic graders: practice for experts, outcomes to learn from, exams for new models."""

from router_models.aptitude.families.arithmetic import ARITHMETIC
from router_models.aptitude.families.dates import DATES
from router_models.aptitude.families.extract_json import EXTRACT_JSON
from router_models.aptitude.families.facts import FACTS
from router_models.aptitude.families.family import Draft, Family, Item, Wording, draw_from, exam_from
from router_models.aptitude.families.german import GERMAN
from router_models.aptitude.families.list_state import LIST_STATE
from router_models.aptitude.families.python_line import PYTHON_LINE
from router_models.aptitude.families.sql import SQL
from router_models.aptitude.families.units import UNITS
from router_models.aptitude.families.word_problems import WORD_PROBLEMS
from router_models.aptitude.grading.graders import GRADERS, grade, grade_all, grade_each
from router_models.aptitude.grading.published import grade_anchor, why_ungradable
from router_models.aptitude.grading.reference import GraderError

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        ARITHMETIC,
        WORD_PROBLEMS,
        EXTRACT_JSON,
        SQL,
        PYTHON_LINE,
        DATES,
        UNITS,
        LIST_STATE,
        GERMAN,
        FACTS,
    )
}


def draw(
    family: str, *, seed: int, count: int, levels: tuple[int, ...] = (1, 2, 3), wording: Wording = "seen"
) -> list[Item]:
    """`count` items of the family named, levels taking turns; the same arguments give the same bytes.

    A longer draw begins with the shorter one. Raises ValueError for an unknown family or level.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; there are {', '.join(FAMILIES)}")
    return draw_from(FAMILIES[family], seed=seed, count=count, levels=levels, wording=wording)


def draw_exam(family: str, *, seed: int, count: int) -> list[Item]:
    """`count` items for an exam; exams of other seeds share none of them, unless the seeds agree modulo 32."""
    return exam_from(FAMILIES[family], seed=seed, count=count)


__all__ = [
    "FAMILIES",
    "GRADERS",
    "Draft",
    "Family",
    "GraderError",
    "Item",
    "Wording",
    "draw",
    "draw_exam",
    "grade",
    "grade_all",
    "grade_anchor",
    "grade_each",
    "why_ungradable",
]
