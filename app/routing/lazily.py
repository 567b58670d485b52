"""A property that is worked out when somebody first looks, and kept.

`functools.cached_property` does the same, but up to Python 3.11 under a lock, which costs more than most of what is
kept here. One thread uses each object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class lazily(Generic[T]):  # noqa: N801 - reads as the decorator that it is
    """Decorates a method without arguments."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self._name = compute, compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> lazily[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> lazily[T] | T:
        if instance is None:
            return self
        # Python looks into an object's own dictionary before it asks a descriptor such as this again.
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
