"""What an operator hears of a configuration that is not taken over."""

from __future__ import annotations

import pytest

from app.assembly.reload import rejection


@pytest.mark.parametrize(("lines", "ways"), [(["a"], "one way"), (["a", "b"], "2 ways")])
def test_a_rejection_counts_what_is_wrong(lines: list[str], ways: str) -> None:
    told = rejection(lines)
    assert told.message == f"the configuration is wrong in {ways}, and the one before stays; see details"
    assert told.details == {"problems": lines}
