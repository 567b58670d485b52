"""The picture of a catalogue: well-formed, with every point inside of it, and names that can be read."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree as ET

import pytest

from app.savings.curve import Place, SavingsCurve
from app.savings.figure import FONT_SIZE, LETTER, LINE, MOST_NAMED, Box, Frame, Names, figure, key, shown_usd
from router_models.operating.comparison import UNKNOWN, Interval

SVG = "{http://www.w3.org/2000/svg}"
WIDE, NARROW = (720.0, 440.0), (328.0, 460.0)


def place(name: str, quality: float, cost_usd: float, half: float = 0.0) -> Place:
    costs = Interval(cost_usd, cost_usd * (1 - half), cost_usd * (1 + half))
    return Place(name, Interval(quality, quality - half, quality + half), costs)


def curve(models: tuple[Place, ...], profiles: tuple[Place, ...] = ()) -> SavingsCurve:
    weights = tuple(place(f"weight {number}", 0.8 - number / 40, 4e-6 * 0.9**number) for number in range(12))
    return SavingsCurve(weights, models, profiles, {"made up": (100, len(models))})


FEW = curve(
    (place("small <&> cheap", 0.5, 1.2e-6), place("large", 0.7, 9e-6)), (place("default, best", 0.78, 3.9e-6, 0.03),)
)


def parsed(picture: str) -> ET.Element:
    return ET.fromstring(picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_all_points_are_inside_and_named(size: tuple[float, float]) -> None:
    root = parsed(figure(FEW, *size))
    for circle in root.iter(f"{SVG}circle"):
        assert 0 < float(circle.attrib["cx"]) < size[0]
        assert 0 < float(circle.attrib["cy"]) < size[1]
    names = [text.text for text in root.iter(f"{SVG}text") if "name" in text.get("class", "")]
    assert names == ["default, best", "small <&> cheap", "large"]


def test_a_picture_says_in_words_what_it_shows() -> None:
    root = parsed(figure(FEW, *WIDE))
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
    assert description.text == (
        "Mean quality, 0 to 1, over USD per 1,000 requests. The curve goes from weight 0 0.800 for 0.004 to weight 11 "
        "0.525 for 0.00126. Profiles: default, best 0.780 for 0.0039. Always one model: small <&> cheap 0.500 for "
        "0.0012; large 0.700 for 0.009."
    )


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_names_in_a_crowd_stand_beside_each_other(size: tuple[float, float]) -> None:
    frame = Frame([place("", 0.1, 1e-6), place("", 0.9, 9e-6)], *size)
    crowd = [place(f"model-{number}", 0.1 + number % 3 / 30, 3e-6 + number * 5e-7) for number in range(9)]
    points = [(*frame.at(each), each.name) for each in crowd]
    boxes = [name.box for name in Names(frame.inner).put(points)]
    assert all(one.overlap(other) < 0.1 for one, other in combinations(boxes, 2))
    assert all(0 <= box.left < box.right <= size[0] and 0 <= box.top < box.bottom <= size[1] for box in boxes)
    assert boxes[0].right - boxes[0].left == pytest.approx(LETTER * FONT_SIZE * len("model-0"))
    assert boxes[0].bottom - boxes[0].top == pytest.approx(LINE * FONT_SIZE)


def test_many_models_have_numbers() -> None:
    many = curve(tuple(place(f"model {number}", number / 50, 1e-6 * (1 + number)) for number in range(MOST_NAMED + 1)))
    assert key(FEW) == []
    assert key(many)[0] == "model 0"
    names = [text.text for text in parsed(figure(many, *WIDE)).iter(f"{SVG}text") if "name" in text.get("class", "")]
    assert names == [str(number + 1) for number in range(MOST_NAMED + 1)]


def test_free_models_and_unknown_ends_have_a_place() -> None:
    free = Place("free", Interval(0.4, float("-inf"), float("inf")), Interval(0.0, 0.0, 0.0))
    frame = Frame([free, place("dear", 0.9, 1e-3)], *WIDE)
    assert frame.inner.left <= frame.x(0.0) < frame.x(1e-3) <= frame.inner.right
    assert [shown_usd(mark) for mark in frame.x_marks()] == ["0", "0.5", "1"]
    parsed(figure(SavingsCurve((), (free,), (free,), {}), *WIDE))
    assert figure(SavingsCurve((), (), (), {}), *WIDE) == ""
    assert UNKNOWN not in (free.quality, free.cost_usd)


def test_a_wide_axis_has_steps_of_one_two_and_five() -> None:
    frame = Frame([place("cheap", 0.1, 1e-7), place("dear", 0.9, 1e-5)], *WIDE)
    marks = [shown_usd(mark) for mark in frame.x_marks()]
    assert marks == ["0.0001", "0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01"]
    assert frame.y_marks() == pytest.approx([0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("cost_usd", "shown"),
    [(0.0, "0"), (1.2345e-6, "0.00123"), (0.12345, "123"), (12.3456, "12,346"), (1e-9, "1.00e-06")],
)
def test_what_a_thousand_requests_cost_is_short(cost_usd: float, shown: str) -> None:
    assert shown_usd(cost_usd) == shown


def test_boxes_that_touch_do_not_overlap() -> None:
    assert Box(0, 0, 2, 2).overlap(Box(1, 1, 3, 3)) == 1
    assert Box(0, 0, 2, 2).overlap(Box(2, 0, 3, 2)) == 0
    assert Box(0, 0, 2, 2).overlap(Box(0, 3, 2, 4)) == 0
