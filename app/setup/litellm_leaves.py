"""What a file says, leaf by leaf, so that nothing of it is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.forms.yaml_files import dotted
from app.setup.litellm_tables import explained

Place = tuple[str | int, ...]
"""Keys and indices from the file's root on."""


def _flat(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """The leaves of a tree with their places; what is empty has none."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(inner, (*place, key))
    else:
        yield place, value


class Leaves:
    """What a file says, leaf by leaf; those that are neither taken nor left in the end are left as well."""

    def __init__(self, content: Any) -> None:
        self._values = dict(_flat(content))
        self._position = {place: number for number, place in enumerate(self._values)}
        self._left: dict[tuple[Place, str], list[Place]] = {}

    def __contains__(self, place: Place) -> bool:
        return place in self._values

    def __getitem__(self, place: Place) -> Any:
        return self._values[place]

    def take(self, *places: Place) -> None:
        """These stand in the draft.

        Raises:
            KeyError: one was taken or left before.
        """
        for place in places:
            del self._values[place]

    def leave(self, place: Place, reason: str) -> None:
        """List what is at this place, or under it, as one line."""
        under = [leaf for leaf in self._values if leaf[: len(place)] == place]
        self.take(*under)
        if under:
            self._left.setdefault((place, reason), []).extend(under)

    def lines(self) -> list[str]:
        """All that is left, in the file's order: `place: reason`, or `place (parts of it): reason`."""
        for place, value in list(self._values.items()):
            self.leave(*(explained(place) if value is not None else (place, "is empty")))
        ordered = sorted(self._left.items(), key=lambda one: self._position[one[1][0]])
        return [_line(place, reason, leaves) for (place, reason), leaves in ordered]


def _line(place: Place, reason: str, leaves: list[Place]) -> str:
    parts = [dotted(leaf[len(place) :]) for leaf in leaves if leaf != place]
    return f"{dotted(place)} ({', '.join(parts)}): {reason}" if parts else f"{dotted(place)}: {reason}"
