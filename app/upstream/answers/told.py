"""What a backend says of its own failure in a body whose status is 200.

Some check a request only while they answer it, when the status has been sent already: what would have been the status
is the `code` of the error then. What such a code means is for `refusals.py` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.errors import UpstreamBroken

_STATUSES = range(400, 600)


class ToldFailure(UpstreamBroken):
    """A 200 brought an error. Callers get our words for it."""

    def __init__(self, told: object) -> None:
        super().__init__("the backend failed while it answered")
        self.told: Mapping[str, Any] = told if isinstance(told, dict) else {}
        """The error as the backend wrote it."""
        self.means = _status_in(self.told.get("code"))
        """The status that it would have had; None where it names none."""

    @property
    def is_about_the_request(self) -> bool:
        return self.means is not None and self.means < 500


def check_told(parsed: Mapping[str, Any]) -> None:
    """Nothing, where a body or an event reports no failure of the whole answer.

    Raises:
        ToldFailure: it does.
    """
    if told := parsed.get("error"):
        raise ToldFailure(told)
    # Of FastChat and older versions of vLLM the error is the whole of it.
    if parsed.get("object") == "error":
        raise ToldFailure(parsed)


def _status_in(code: object) -> int | None:
    if type(code) is str and len(code) == 3 and code.isascii() and code.isdecimal():
        code = int(code)
    return code if type(code) is int and code in _STATUSES else None
