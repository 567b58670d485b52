"""Which scope each route needs. A route that does not say cannot be started; a path without a route is refused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from app.errors import UnknownRoute, WrongMethod
from app.store.keys.key import SCOPES

PUBLIC = "public"
"""For health: no key is needed."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def needs(scope: str) -> Callable[[Endpoint], Endpoint]:
    """Declare the scope that a key needs for an endpoint. Goes below the route's own decorator."""

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.needed_scope = scope  # type: ignore[attr-defined]
        return endpoint

    return declare


@dataclass(frozen=True, slots=True)
class Rule:
    """What one route needs, and the name of what it does, for metrics."""

    scope: str
    operation: str


class Policy:
    """Finds the rule of a call by its path as it was sent; never by a URL that a header could have a part in."""

    def __init__(
        self, routes: Iterable[BaseRoute], posts: Collection[str] = (), scopes: Collection[str] = SCOPES
    ) -> None:
        """`posts` are paths that take POST and are answered elsewhere; `scopes` count on this listener.

        Raises:
            TypeError: a route declares no scope, or one that does not count here.
        """
        self._routes: list[tuple[Route, Rule]] = [(_plain(route), _rule(_plain(route), scopes)) for route in routes]
        self._posts = frozenset(posts)
        self._exact = {
            (method, route.path): rule
            for route, rule in self._routes
            if "{" not in route.path
            for method in route.methods or ()
        }

    def rule(self, scope: Scope) -> Rule:
        """The rule for this call.

        Raises:
            UnknownRoute: there is no such path.
            WrongMethod: it takes other methods.
        """
        found = self._exact.get((scope["method"], scope["path"]))
        return found or self._search(scope)

    def _search(self, scope: Scope) -> Rule:
        allowed: set[str] = set()
        for route, rule in self._routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return rule
            if match is Match.PARTIAL:
                allowed |= route.methods or set()
        if scope["path"] in self._posts and scope["method"] != "POST":
            allowed.add("POST")
        if allowed:
            methods = ", ".join(sorted(allowed))
            raise WrongMethod(f"{scope['method']} is not for this path; it takes {methods}", methods)
        raise UnknownRoute("there is no such path; the API begins at /v1, such as /v1/chat/completions")


def _plain(route: BaseRoute) -> Route:
    if not isinstance(route, Route):
        raise TypeError(f"{route!r} is not a plain route, so no policy can be checked for it")
    return route


def _rule(route: Route, scopes: Collection[str]) -> Rule:
    scope: str | None = getattr(route.endpoint, "needed_scope", None)
    if scope is None or scope not in {PUBLIC, *scopes}:
        raise TypeError(f"the route {route.path} declares no scope that counts here; decorate it with needs(...)")
    return Rule(scope, route.name)
