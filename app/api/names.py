"""Names of models, licences and regions that callers list in limits: of long lists, what the catalogue has.

A name that no model has decides nothing, whichever list it stands in. But what was asked is remembered with the
decision, and a list may hold ten thousand names. So a long one is cut to the catalogue's own strings, which take no
more memory; where none is left it still excludes all that it did. A short one stays as it was sent, misspelt names
and all, for whoever reads the record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

from app.domain.constraints import CONSTRAINTS, folded
from app.domain.models import Model
from app.domain.request import Preferences

# A handful of lists within both takes some 30 KiB at most, of characters that take four bytes each.
MOST_NAMES, MOST_CHARS = 32, 1_000


class Names:
    """All that the models of a catalogue are called, and have for licences and regions."""

    def __init__(self, models: Iterable[Model]) -> None:
        models = tuple(models)
        self._known = {
            each.name: frozenset(chain.from_iterable(map(each.listed, models)))
            for each in CONSTRAINTS
            if each.listed is not None
        }
        """By the constraint that lists them."""
        self._ignores_case = frozenset(each.name for each in CONSTRAINTS if each.ignores_case)

    def without_strangers(self, asked: Preferences) -> Preferences:
        """The same, its long lists without names that no model has."""
        long = {name: limit for name, limit in asked.limits.items() if name in self._known and _is_long(limit)}
        if not long:
            return asked
        return replace(asked, limits={**asked.limits, **{name: self._cut(name, long[name]) for name in long}})

    def _cut(self, name: str, limit: frozenset[str]) -> frozenset[str]:
        """Of a list what the catalogue has, in its own words."""
        if name in self._ignores_case:
            same = folded(limit)
            return frozenset([known for known in self._known[name] if known.casefold() in same])
        return frozenset([known for known in self._known[name] if known in limit])


def _is_long(names: frozenset[str]) -> bool:
    return len(names) > MOST_NAMES or sum(map(len, names)) > MOST_CHARS
