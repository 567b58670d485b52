"""Names of decisions do not come twice, have one form, and follow time."""

from __future__ import annotations

import re

from app.routing.identifiers import Identifiers


def test_no_name_comes_twice_across_draws_and_sources() -> None:
    first, second = Identifiers(), Identifiers()

    names = [source.next() for source in (first, second) for _ in range(1_000)]

    assert len(set(names)) == 2_000
    assert all(re.fullmatch("[0-9a-f]{24}", name) for name in names)


def test_later_names_sort_behind_earlier_ones() -> None:
    now_s = [1_795_809_358.0]
    source = Identifiers(lambda: now_s[0])
    names = []
    for _ in range(200):
        names.append(source.next())
        now_s[0] += 0.0015
    assert names == sorted(names)
