"""Random names that nobody guesses, at a tenth of what asking the system for each would cost."""

from __future__ import annotations

import os

_BYTES = 12
# So many come from one draw, which takes about as long as drawing for one of them does.
_DRAWN = 64


class Identifiers:
    """Each is 24 hexadecimal digits. A process that is forked off must make its own."""

    def __init__(self) -> None:
        self._left: list[str] = []

    def next(self) -> str:
        """One that was not given out before."""
        if not self._left:
            digits = os.urandom(_BYTES * _DRAWN).hex()
            self._left = [digits[at : at + 2 * _BYTES] for at in range(0, len(digits), 2 * _BYTES)]
        return self._left.pop()
