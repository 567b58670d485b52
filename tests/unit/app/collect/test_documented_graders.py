"""What the runbook says of prompts of one's own: each grader has a line there that it grades as is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from app.collect.graders import COMMAND, JUDGE, Command, with_graders
from app.collect.importers import prompt_from
from router_models.aptitude import GRADERS, grade
from router_models.training.config import load_config

RUNBOOK = (Path(__file__).parents[4] / "deploy/README.md").read_text(encoding="utf-8")
SECTION = RUNBOOK.partition("## Prompts of your own\n")[2].partition("\n## ")[0]
# The grader's name, what it is about, a line of prompts, a right answer.
ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| `(\{.*\})` \| (?:`(.*)`)? ?\|$", re.MULTILINE)
ROWS = ROW.findall(SECTION)


def test_all_graders_have_a_line() -> None:
    assert [name for name, _, _ in ROWS] == [*GRADERS, COMMAND, JUDGE]


@pytest.mark.parametrize(("name", "line", "answer"), ROWS, ids=[row[0] for row in ROWS])
def test_a_grader_takes_its_line_and_tells_a_right_answer_from_a_wrong_one(name: str, line: str, answer: str) -> None:
    (prompt,) = with_graders([prompt_from(json.loads(line), "own")], None, Command(("true",)), judge=True)
    assert prompt.grader == name
    if name in (COMMAND, JUDGE):
        assert answer == ""
        return
    assert prompt.reference is not None
    assert (grade(name, prompt.reference, answer), grade(name, prompt.reference, "I cannot say.")) == (1.0, 0.0)


def test_the_least_training_file_is_one(tmp_path: Path) -> None:
    (content,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
    (tmp_path / "own.yaml").write_text(content)

    config = load_config(tmp_path / "own.yaml")

    assert (config.name, config.data) == ("own-v1", (tmp_path / "var/outcomes",))
