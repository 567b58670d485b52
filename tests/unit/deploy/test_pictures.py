"""Pictures of dashboards, where there is no Grafana: numbers as people read them, every kind of panel drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest

from deploy.grafana import FOLDER
from deploy.grafana.pictures import Source, draw, shown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.1234, "percentunit", "12.3 %"),
        (0.0004, "s", "0.4 ms"),
        (12.0, "s", "12 s"),
        (0.0, "currencyUSD", "$0.00"),
        (-0.00001234, "currencyUSD", "-$0.000012"),
        (12.5, "currencyUSD", "$12.50"),
        (2.5, "reqps", "2.5 /s"),
        (1234.5, "short", "1,234"),
    ],
)
def test_numbers_are_shown_as_people_read_them(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


class MadeUp(Source):
    """Has two series of three points for everything that is asked, and remembers that."""

    asked: ClassVar[list[str]] = []

    def _ask(self, what: str, asked: Any) -> list[Any]:
        self.asked.append(asked["query"])
        labels: list[dict[str, str]] = [
            dict.fromkeys(("model", "replica", "key", "limit", "reason", "predicted"), name) for name in ("a", "b")
        ]
        values = [[self.begins_at, "1"], [self.begins_at + 30, "NaN"], [self.ends_at, "2.5"]]
        return [{"metric": each, "values": values, "value": values[-1]} for each in labels]


def test_every_panel_is_drawn_from_its_own_expressions(tmp_path: Path) -> None:
    dashboard = json.loads((FOLDER / "thalamus-promise.json").read_text())
    assert {panel["type"] for panel in dashboard["panels"]} == {"row", "timeseries", "bargauge", "table", "stat"}
    source = MadeUp("http://nowhere", 1e9, 1e9 + 60)
    source.asked.clear()
    figure = draw(dashboard, source)
    figure.savefig(tmp_path / "picture.png", dpi=20)
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(source.asked) == len(targets)
    assert not [query for query in source.asked if "$" in query]
    texts = {text.get_text() for text in figure.texts}
    assert {panel["title"] for panel in dashboard["panels"]} <= texts
    assert math.isclose(figure.get_figwidth(), 24 * 0.72)
