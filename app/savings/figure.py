"""Quality over cost as a picture for a page: SVG with no script and nothing from elsewhere, coloured by the page.

How it works: the frame turns dollars and quality into units of the picture; the cost is on a logarithmic axis if all of
it is above 0. A name stands where it covers the least of what is drawn already, near its point, else at the end of a
thin line. Each is put in its best place as the others stand, a few times over. Many models have numbers instead: those
of `key`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from app.savings.curve import Place, SavingsCurve
from router_models.operating.comparison import Interval

PER_REQUESTS = 1_000
"""Costs are shown for this many requests: of one they are too small to read."""
FONT_SIZE = 12.0
# Of the size of the font: how wide a letter is at most on average, and how high a line.
LETTER, LINE = 0.58, 1.15
LEFT, RIGHT, TOP, BOTTOM = 36.0, 18.0, 26.0, 42.0
# With more, names of models would cover each other, whatever their places.
MOST_NAMED = 14
# Between marks of the horizontal axis, so that their figures do not touch.
MARK_GAP = 38.0
# How far a name may be from its point, and the directions that are tried, to the right first.
DISTANCES = (9.0, 15.0, 22.0, 30.0, 44.0, 60.0, 80.0, 105.0)
DIRECTIONS = 16
# A name that is nearer than this needs no line to its point.
WITHOUT_LEADER = 15.0
# How often names are put; after that little changes.
ROUNDS = 3
# Below this ratio of the dearest to the cheapest, steps of 1, 2 and 5 would leave one or two marks on an axis.
FEW_STEPS = 12.0


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        if self.right <= other.left or other.right <= self.left:
            return 0.0
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0

    @classmethod
    def around(cls, x: float, y: float, half: float) -> Box:
        return cls(x - half, y - half, x + half, y + half)


class Frame:
    """Where dollars and quality are in a picture."""

    def __init__(self, places: Sequence[Place], width: float, height: float) -> None:
        costs = [end for place in places for end in _ends(place.cost_usd)]
        qualities = [end for place in places for end in _ends(place.quality)]
        self.width, self.height = width, height
        self.inner = Box(LEFT, TOP, width - RIGHT, height - BOTTOM)
        self._logarithmic = min(costs) > 0
        self.cost_usd = _widened(min(costs), max(costs), self._logarithmic)
        low, high = _widened(min(qualities), max(qualities), logarithmic=False)
        # A place by a difference may be outside of 0 to 1; only the room around it need not be.
        self.quality = min(min(qualities), max(0.0, low)), max(max(qualities), min(1.0, high))

    def x(self, cost_usd: float) -> float:
        low, high = self.cost_usd
        share = _share(*map(math.log, (cost_usd, low, high))) if self._logarithmic else _share(cost_usd, low, high)
        return self.inner.left + share * (self.inner.right - self.inner.left)

    def y(self, quality: float) -> float:
        return self.inner.bottom - _share(quality, *self.quality) * (self.inner.bottom - self.inner.top)

    def at(self, place: Place) -> tuple[float, float]:
        return self.x(place.cost_usd.mean), self.y(place.quality.mean)

    def x_marks(self) -> list[float]:
        """Round costs, in dollars of a request."""
        low, high = (end * PER_REQUESTS for end in self.cost_usd)
        if not self._logarithmic or high / low < FEW_STEPS:
            return [mark / PER_REQUESTS for mark in _round_steps(low, high)]
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        return [mark / PER_REQUESTS for mark in marks if low <= mark <= high]

    def y_marks(self) -> list[float]:
        return _round_steps(*self.quality)


@dataclass(frozen=True)
class Name:
    """Where the name of a point may stand."""

    box: Box
    distance: float
    """From its point."""
    leader: tuple[float, float, float, float] | None
    """Ends of the line from the point to it; None where it is near enough."""

    def covered(self) -> Iterator[Box]:
        """The box of the name, and small ones along its line."""
        yield self.box
        if self.leader:
            x, y, end_x, end_y = self.leader
            steps = max(1, round(math.hypot(end_x - x, end_y - y) / 4))
            for step in range(2, steps + 1):
                yield Box.around(x + (end_x - x) * step / steps, y + (end_y - y) * step / steps, 2)


class Names:
    """Puts names beside points."""

    def __init__(self, inside: Box) -> None:
        self._inside = inside
        self._drawn: list[tuple[Box, float]] = []

    def keep_free(self, x: float, y: float, half: float, weight: float) -> None:
        """`weight` says how bad it is to write over what is there."""
        self._drawn.append((Box.around(x, y, half), weight))

    def put(self, points: Sequence[tuple[float, float, str]]) -> list[Name]:
        """A name for each point (x, y, name): the first ones first, then each again as the others now stand."""
        tried = [list(_around(*point)) for point in points]
        covered: dict[int, list[Box]] = {}
        chosen: dict[int, Name] = {}
        for _ in range(ROUNDS):
            for number, names in enumerate(tried):
                others = [(box, 10.0) for other, boxes in covered.items() if other != number for box in boxes]
                reach = _hull([name.box for name in names])
                taken = [each for each in (*self._drawn, *others) if each[0].overlap(reach)]
                chosen[number] = self._best(names, taken)
                covered[number] = list(chosen[number].covered())
        return [chosen[number] for number in range(len(points))]

    def _best(self, names: Sequence[Name], taken: Sequence[tuple[Box, float]]) -> Name:
        """The one that covers the least, and is near; `names` are the nearest first."""
        best, least = names[0], math.inf
        for name in names:
            if name.distance >= least:
                break
            badness = self._badness(name, taken)
            if badness < least:
                best, least = name, badness
        return best

    def _badness(self, name: Name, taken: Sequence[tuple[Box, float]]) -> float:
        box = name.box
        outside = (box.right - box.left) * (box.bottom - box.top) - box.overlap(self._inside)
        covered = sum(weight * part.overlap(other) for part in name.covered() for other, weight in taken)
        return name.distance + 10 * outside + covered


def key(curve: SavingsCurve) -> list[str]:
    """The models, the first one being number 1, if the picture has numbers for them."""
    return [place.name for place in curve.models] if len(curve.models) > MOST_NAMED else []


def figure(curve: SavingsCurve, width: float, height: float) -> str:
    """The picture, of so many CSS pixels; empty where no cost is known.

    Its classes are curve, weight, model, profile, interval, axis, mark and leader.
    """
    places = [*curve.weights, *curve.models, *curve.profiles]
    if not places:
        return ""
    frame = Frame(places, width, height)
    title, description = f"title-{width:.0f}", f"description-{width:.0f}"
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return "\n".join(
        [
            f'<svg {size} role="img" aria-labelledby="{title} {description}">',
            f'<title id="{title}">Quality over cost</title>',
            f'<desc id="{description}">{escape(_described(curve))}</desc>',
            *_axes(frame),
            *_line(frame, curve.weights),
            *_points(frame, curve),
            "</svg>",
        ]
    )


def shown_usd(cost_usd: float) -> str:
    """What `PER_REQUESTS` cost, to three digits."""
    value = cost_usd * PER_REQUESTS
    return f"{value:.3g}" if 1e-4 <= value < 1000 or not value else f"{value:,.0f}" if value >= 1000 else f"{value:.2e}"


def _described(curve: SavingsCurve) -> str:
    def said(place: Place) -> str:
        return f"{place.name} {place.quality.mean:.3f} for {shown_usd(place.cost_usd.mean)}"

    parts = [f"Mean quality, 0 to 1, over USD per {PER_REQUESTS:,} requests."]
    if curve.weights:
        parts.append(f"The curve goes from {said(curve.weights[0])} to {said(curve.weights[-1])}.")
    for kind, places in (("Profiles", curve.profiles), ("Always one model", curve.models)):
        if places:
            parts.append(f"{kind}: {'; '.join(map(said, places))}.")
    return " ".join(parts)


def _axes(frame: Frame) -> Iterator[str]:
    inner = frame.inner
    free_from = inner.left
    for x, cost_usd in ((frame.x(cost_usd), cost_usd) for cost_usd in frame.x_marks()):
        if x < free_from:
            continue
        free_from = x + MARK_GAP
        yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{inner.top:.1f}" y2="{inner.bottom:.1f}"/>'
        yield _text(x, inner.bottom + 16, shown_usd(cost_usd), "middle")
    for quality in frame.y_marks():
        y = frame.y(quality)
        yield f'<line class="mark" x1="{inner.left:.1f}" x2="{inner.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(inner.left - 6, y + 4, f"{round(quality, 6):g}", "end")
    yield f'<path class="axis" d="M{inner.left:.1f} {inner.top:.1f}V{inner.bottom:.1f}H{inner.right:.1f}"/>'
    yield _text((inner.left + inner.right) / 2, frame.height - 8, f"USD per {PER_REQUESTS:,} requests", "middle")
    yield _text(0, inner.top - 12, "quality", "start")


def _line(frame: Frame, places: Sequence[Place]) -> Iterator[str]:
    """The curve, and a dot for every weight; the weight is told where one points at it."""
    at = [frame.at(place) for place in places]
    yield f'<polyline class="curve" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}"/>'
    for (x, y), place in zip(at, places, strict=True):
        yield f'<circle class="weight" cx="{x:.1f}" cy="{y:.1f}" r="2.2">{_title(place)}</circle>'


def _points(frame: Frame, curve: SavingsCurve) -> Iterator[str]:
    named = [*(("profile", place, place.name) for place in curve.profiles), *_labelled(curve)]
    names = Names(frame.inner)
    for place in curve.weights:
        names.keep_free(*frame.at(place), 3, weight=1.0)
    for _, place, _ in named:
        names.keep_free(*frame.at(place), 9, weight=1.0)
        names.keep_free(*frame.at(place), 5, weight=10.0)
    for place in curve.profiles:
        yield from _bars(frame, place)
    put = names.put([(*frame.at(place), label) for _, place, label in named])
    for (kind, place, label), name in zip(named, put, strict=True):
        yield from _named_point(frame, place, kind, name)
        yield _name(frame, place, name, label, kind)


def _labelled(curve: SavingsCurve) -> Iterator[tuple[str, Place, str]]:
    numbered = bool(key(curve))
    for number, place in enumerate(curve.models, start=1):
        yield "model", place, str(number) if numbered else place.name


def _named_point(frame: Frame, place: Place, kind: str, name: Name) -> Iterator[str]:
    x, y = frame.at(place)
    if name.leader:
        yield '<line class="leader" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*name.leader)
    if kind == "profile":
        yield f'<path class="profile" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z">{_title(place)}</path>'
    else:
        yield f'<circle class="model" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{_title(place)}</circle>'


def _name(frame: Frame, place: Place, name: Name, label: str, kind: str) -> str:
    """Set flush with the side that is next to the point, as letters may be narrower than was reckoned."""
    x, box = frame.at(place)[0], name.box
    anchor = "end" if box.right <= x else "start" if box.left >= x else "middle"
    at = {"end": box.right, "start": box.left, "middle": (box.left + box.right) / 2}[anchor]
    return _text(at, box.bottom - 3.5, label, anchor, kind)


def _bars(frame: Frame, place: Place) -> Iterator[str]:
    """The intervals of both, as far as they are known."""
    x, y = frame.at(place)
    low, high = (frame.y(end) for end in _ends(place.quality))
    left, right = (frame.x(end) for end in _ends(place.cost_usd))
    yield f'<path class="interval" d="M{x:.1f} {low:.1f}V{high:.1f}M{left:.1f} {y:.1f}H{right:.1f}"/>'


def _title(place: Place) -> str:
    cost = f"{shown_usd(place.cost_usd.mean)} USD per {PER_REQUESTS:,} requests"
    return f"<title>{escape(place.name)}: quality {place.quality.mean:.3f}, {cost}</title>"


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    kind = f' class="name {kind}"' if kind else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _around(x: float, y: float, name: str) -> Iterator[Name]:
    """Where a name may stand around a point, the nearest first."""
    width, height = LETTER * FONT_SIZE * len(name), LINE * FONT_SIZE
    for distance in DISTANCES:
        for number in range(DIRECTIONS):
            angle = 2 * math.pi * number / DIRECTIONS
            across, up = math.cos(angle), math.sin(angle)
            left = x + distance * across + width * (across - 1) / 2
            top = y - distance * up - height * (up + 1) / 2
            box = Box(left, top, left + width, top + height)
            end_x, end_y = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
            yield Name(box, distance, (x, y, end_x, end_y) if distance > WITHOUT_LEADER else None)


def _hull(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*((box.left, box.top, box.right, box.bottom) for box in boxes), strict=True)
    return Box(min(lefts), min(tops), max(rights), max(bottoms))


def _ends(interval: Interval) -> tuple[float, float]:
    """Of the interval; where it is not known, its mean twice."""
    low, high = interval.low, interval.high
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (interval.mean, interval.mean)


def _widened(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    """A little room at both ends, also where there is nothing between them."""
    if logarithmic:
        factor = max(1.1, (high / low) ** 0.06)
        return low / factor, high * factor
    room = max(0.06 * (high - low), 0.01 * abs(high), 1e-9)
    return low - room, high + room


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low)


def _round_steps(low: float, high: float) -> list[float]:
    """About five round numbers between these."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
