"""`thalamus check --report` on the demo's own files: a page that stands alone and says what the JSON says."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.savings.expectation import as_ratio, in_points
from router_models.operating.comparison import Interval
from router_models.storage.artifact import write_artifact
from tests.fakes.artifacts import tiny_artifact
from tests.fakes.deployment import write_config
from tests.fakes.full_disk import files_of_at_most

DEMO = Path(__file__).parents[3] / "configs" / "demo.yaml"
VOID = {"meta", "link", "br", "hr", "img"}


class Page(HTMLParser):
    """Reads a page and holds its tables; a tag that is not closed in order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[str] = []
        self._open: list[str] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in VOID:
            return
        self._open.append(tag)
        if tag == "table":
            self._caption = ""
        elif tag == "tr":
            self.tables.setdefault(self._caption, []).append([])
        elif tag in ("th", "td"):
            self.tables[self._caption][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "caption" in self._open:
            self._caption += data
        elif {"th", "td"} & set(self._open):
            self.tables[self._caption][-1][-1] += data


async def check(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "app.cli", "check", "--no-probe", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def interval(found: Mapping[str, float]) -> Interval:
    return Interval(found["mean"], found["low"], found["high"])


def rows_of(expected: Mapping[str, Any]) -> list[list[str]]:
    """Model, quality and cost of each comparison, as the page writes them."""
    return [
        [each["model"], in_points(interval(each["gain"])), as_ratio(interval(each["cost_ratio"]))]
        for each in expected["against"]
    ]


async def test_the_demos_page_stands_alone_and_agrees_with_the_json(tmp_path: Path) -> None:
    file = tmp_path / "savings.html"
    status, out, err = await check("--config", str(DEMO), "--json", "--report", str(file))
    assert (status, err) == (0, "")
    found, text = json.loads(out), file.read_text()
    page = Page(text)
    assert not re.search(r"https?:|src=|href=|url\(|@import", text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert {"title", "svg", "desc", "main"} <= set(page.tags)
    # Two profiles of the demo ask for the same, and have one table.
    for caption, profile in (("default, best", "default"), ("default, best", "best"), ("cheap", "cheap")):
        expected = found["expected"][profile]
        head, *body = page.tables[caption]
        assert head == ["always", "chosen", "quality, points", "cost, of its", "prompts"]
        assert [[row[0], row[2], row[3]] for row in body] == rows_of(expected)
        assert {row[4] for row in body} == {"1,800"}
        assert expected["sentence"] in text
    assert page.tables["Prompts that count"][1:] == [["outcomes", "1,800", "9"]]


async def test_the_table_is_printed_and_says_what_the_json_says(tmp_path: Path) -> None:
    _, out, _ = await check("--config", str(DEMO), "--json")
    expected = json.loads(out)["expected"]
    status, shown, err = await check("--config", str(DEMO))
    assert (status, err) == (0, "")
    printed = [[cell.strip() for cell in line.split("│")] for line in shown.splitlines() if line.startswith("│")]
    assert [[row[1], row[3], row[4]] for row in printed] == rows_of(expected["default"]) + rows_of(expected["cheap"])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "tiny-v1", tiny_artifact(rows=200))
    urls = dict.fromkeys(("small", "large"), "http://127.0.0.1:1")
    return write_config(tmp_path, urls, predicted=True, artifact="tiny-v1", predictor_limit_s=5)


async def test_a_page_that_cannot_be_written_is_one_line(tiny: Path) -> None:
    status, _, err = await check("--config", str(tiny), "--report", str(tiny.parent / "nowhere" / "page.html"))
    assert (status, err) == (1, f"thalamus: --report {tiny.parent}/nowhere/page.html: No such file or directory\n")


async def test_a_page_that_the_disk_has_no_room_for_leaves_the_one_before(tiny: Path) -> None:
    page = tiny.parent / "page.html"
    page.write_text("before")
    with files_of_at_most(2_000):
        status, _, err = await check("--config", str(tiny), "--report", str(page))
    assert (status, err) == (1, f"thalamus: --report {page}: File too large\n")
    assert page.read_text() == "before"
    assert list(tiny.parent.glob("*.part")) == []


async def test_without_an_artifact_there_is_nothing_to_report(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"small": "http://127.0.0.1:1"})
    status, _, err = await check("--config", str(config), "--report", str(tmp_path / "page.html"))
    assert status == 1
    assert err == f"thalamus: --report tells what a router model would save, and {config} names no artifact\n"


async def test_wrong_files_are_told_instead_of_reported(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"small": "http://127.0.0.1:1"}, artifact="nowhere-v1")
    status, out, err = await check("--config", str(config), "--report", str(tmp_path / "page.html"))
    assert (status, err) == (1, "")
    assert "WRONG" in out
    assert not (tmp_path / "page.html").exists()
