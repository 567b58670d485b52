"""What is looked at is worked out once for each object, and not before."""

from __future__ import annotations

from app.routing.lazily import lazily


class Sum:
    """Counts how often it is worked out."""

    def __init__(self, *terms: int) -> None:
        self.terms, self.times = terms, 0

    @lazily
    def total(self) -> int:
        """Of all terms."""
        self.times += 1
        return sum(self.terms)


def test_it_is_worked_out_when_somebody_first_looks_and_kept() -> None:
    one, other = Sum(1, 2), Sum(3)
    assert one.times == 0

    assert (one.total, one.total, other.total) == (3, 3, 3)
    assert (one.times, other.times) == (1, 1)


def test_the_class_shows_what_it_says_about_itself() -> None:
    assert Sum.total.__doc__ == "Of all terms."
