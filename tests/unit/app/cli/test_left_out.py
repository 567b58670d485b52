"""What `evaluate` says of baselines that could not learn."""

from __future__ import annotations

import pytest

from app.cli.evaluate import _tell_left_out


def test_baselines_that_are_left_out_are_named_once_for_each_reason(capsys: pytest.CaptureFixture[str]) -> None:
    _tell_left_out(
        "own", {"kNN": "nothing to learn from", "TF-IDF": "sklearn is not installed", "table": "nothing to learn from"}
    )

    assert capsys.readouterr().err.splitlines() == [
        "own: left out kNN, table: nothing to learn from",
        "own: left out TF-IDF: sklearn is not installed",
    ]
