"""Records that every request makes several of: checked to be frozen where code is checked, and quick where it runs.

A frozen dataclass sets each field by a call of its own, which for a request with twenty fields takes four microseconds
instead of two. So it is mypy that sees to it that nobody sets a field anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

__all__ = ["record"]

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:

    def record(*, frozen: bool, slots: bool):
        """What `dataclass` is, but for freezing; what is frozen has a hash."""
        return dataclass(slots=slots, unsafe_hash=frozen)
