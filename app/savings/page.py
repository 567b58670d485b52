"""What a catalogue would save, as one HTML page that needs nothing but itself: no script, no request."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from app.savings.curve import SavingsCurve, savings_curve
from app.savings.expectation import Against, Expectation, Prospect, alike, as_ratio, in_points, sentence
from app.savings.figure import figure, key
from app.settings import Settings
from router_models.operating.curve import LEAST_ROWS

# In CSS pixels: what fits beside the text on a desk, and on a telephone.
SIZES: Mapping[str, tuple[float, float]] = {"wide": (720, 440), "narrow": (328, 460)}
# Digits of a hash that tell two versions of a file apart.
HASH_DIGITS = 12
DIFFERENCES = ("always", "chosen", "quality, points", "cost, of its", "prompts")
"""Columns of the table against always one model."""
CAPTION = (
    "Curve: every weight on cost, among all models that were tested. Circles: always one model. Diamonds: profiles, "
    "with 95 % intervals of their differences from the best single model. Models that were measured on a part of the "
    "prompts are placed by their difference from the best one there."
)
SWITCHED_OFF = (
    "They could be switched off, unless callers name them, a profile's order needs them, or they can do what others "
    "cannot (tools, pictures, a longer context)."
)


@dataclass(frozen=True)
class Savings:
    """What the page is about."""

    settings: Settings
    artifact: str
    """Name and fingerprint."""
    prospect: Prospect
    expected: Mapping[str, Expectation | None]
    """By profile."""
    unused: tuple[str, ...]
    untested: tuple[str, ...]


def page(savings: Savings, day: dt.date) -> str:
    """The page, as of a day."""
    curve = savings_curve(savings.prospect)
    template = Template(files("app.savings").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        catalog=escape(savings.settings.catalog_path.name),
        about="\n".join(f"<span>{escape(each)}</span>" for each in (*_versions(savings), day.isoformat())),
        profiles=_list(f"{', '.join(names)}: {sentence(found)}." for names, found in alike(savings.expected)),
        figure=_figure(curve),
        tables="\n".join(_tables(savings.expected)) or "<p>No two models were measured on the same prompts.</p>",
        needed=_list(_needed(savings)),
        data=_data(curve, savings),
        left_out=_list(_left_out(savings, curve)) or "<p>Nothing that these profiles ask for.</p>",
    )


def differences(expected: Expectation) -> Iterator[tuple[str, ...]]:
    """A row of `DIFFERENCES` for always each model."""
    for each in expected.against:
        cost = as_ratio(each.cost_ratio)
        if 0 < each.priced_prompts < each.prompt_count:
            cost += f" on {each.priced_prompts:,}"
        chosen = "-" if math.isnan(each.chosen) else _percent(each.chosen)
        yield each.model, chosen, in_points(each.gain), cost, _counted(each, several=len(expected.datasets) > 1)


def _percent(share: float) -> str:
    if 0 < share < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def _counted(against: Against, several: bool) -> str:
    """How many prompts; of which datasets, if there are `several`."""
    few = " (few)" if 0 < against.prompt_count < LEAST_ROWS else ""
    of = f" of {', '.join(against.prompts)}" if several and against.prompts else ""
    return f"{against.prompt_count:,}{few}{of}"


def _versions(savings: Savings) -> Iterator[str]:
    for path in (savings.settings.catalog_path, savings.settings.path):
        yield f"{path.name}@{_hash(path)}"
    yield f"router model {savings.artifact}"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:HASH_DIGITS]


def _figure(curve: SavingsCurve | None) -> str:
    pictures = [(name, figure(curve, *size)) for name, size in SIZES.items()] if curve else []
    if not all(picture for _, picture in pictures) or not pictures:
        return "<p>There is no curve: of no choice are both quality and cost known.</p>"
    drawn = "".join(f'<div class="{name}">{picture}</div>' for name, picture in pictures)
    names = "".join(f"<li>{escape(name)}</li>" for name in key(curve)) if curve else ""
    numbered = f'<ol class="key">{names}</ol>' if names else ""
    return f"<figure>{drawn}<figcaption>{escape(CAPTION)}{numbered}</figcaption></figure>"


def _tables(expected: Mapping[str, Expectation | None]) -> Iterator[str]:
    for names, found in alike(expected):
        if found:
            yield _table(", ".join(names), DIFFERENCES, differences(found))


def _needed(savings: Savings) -> Iterator[str]:
    if savings.unused:
        yield f"Chosen by no profile on any of these prompts: {', '.join(savings.unused)}. {SWITCHED_OFF}"
    else:
        yield "Each model that was measured is chosen by some profile for some prompt."
    if savings.untested:
        yield f"Untested, so never chosen on quality, and in none of these figures: {', '.join(savings.untested)}."


def _data(curve: SavingsCurve | None, savings: Savings) -> str:
    words = f"<p>Calibration prompts of {escape(savings.artifact)}; its card tells where the answers are from.</p>"
    if curve is None:
        return words
    rows = [(name, f"{prompts:,}", str(models)) for name, (prompts, models) in curve.measured.items()]
    return words + _table("Prompts that count", ("dataset", "prompts", "models measured"), rows)


def _left_out(savings: Savings, curve: SavingsCurve | None) -> Iterator[str]:
    for names, found in alike(savings.expected):
        if found is None:
            yield f"Profile {', '.join(names)}: {sentence(found)}."
        elif found.left_out:
            yield f"Of profile {', '.join(names)}: {', '.join(found.left_out)}, which depend on the request."
    models = savings.settings.catalog.models
    unpriced = [model.name for model in models if model.price is None and model.name not in savings.untested]
    if unpriced:
        yield f"The cost of {', '.join(unpriced)}: the catalogue states no price. What they cost is not known, never 0."
    drawn = {place.name for place in curve.models} if curve else set()
    lacking = [model.name for model in models if model.name not in {*drawn, *unpriced, *savings.untested}]
    if curve and lacking:
        yield f"In the curve: {', '.join(lacking)}, which were not measured beside the others at a cost that is known."


def _list(items: Iterable[str]) -> str:
    found = "\n".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>\n{found}\n</ul>" if found else ""


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join(_row(first, rest) for first, *rest in rows)
    head = f"<caption>{escape(caption)}</caption>\n<thead><tr>{heads}</tr></thead>"
    table = f"<table>\n{head}\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">{table}</div>'


def _row(first: str, rest: Iterable[str]) -> str:
    cells = "".join(f"<td>{_cell(cell)}</td>" for cell in rest)
    return f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'


def _cell(words: str) -> str:
    """Intervals stay whole."""
    return re.sub(r"\[[^]]*\]", lambda found: f'<span class="interval-text">{found[0]}</span>', escape(words))
