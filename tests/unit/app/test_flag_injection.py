"""Whatever a caller says, and wherever, he gets a subset of what his key allows. Prints its figures as JSON."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from app.api.access import Access
from app.api.bodies.parsing import parse_chat
from app.domain.models import Catalog
from app.domain.preferences import Profile, merged, parse_flag_line
from app.domain.quantities import PRIORITIES
from app.domain.request import Preferences, Request
from app.domain.sessions import Session
from app.errors import CallerError, GatewayError
from app.store.keys.key import Key
from tests.fakes.call import FakeCall
from tests.fakes.hostile import INTERNAL, MODELS, NAMES, PROFILES, QUALITY, Attempt, attempt
from tests.fakes.routing import fleet_of, world_of

COMBINATIONS = 10_000
CATALOG = Catalog(MODELS, ())
ACCESS = Access(CATALOG, PROFILES)
# It has one profile only; what another one asks for is in the request by then.
WORLD = world_of(*MODELS, quality=QUALITY, output_tokens={"large": 900.0})
FLEET = fleet_of(*MODELS)


def parsed(one: Attempt) -> Request:
    return parse_chat(copy.deepcopy(one.body), FakeCall(one.key, one.headers, ACCESS))


def chosen(request: Request, session: Session | None = None) -> list[str]:
    """Names of the candidates, under the one profile that the router has; none where the request is refused."""
    deciding = WORLD.router.route(replace(request, profile="default"), FLEET, session)
    try:
        # It waits for nobody, so no event loop is needed.
        deciding.send(None)
    except GatewayError:
        return []
    except StopIteration as done:
        return [candidate.model.name for candidate in done.value.candidates]
    raise AssertionError("it waits")


def held(one: Attempt, request: Request) -> Preferences:
    """What holds for the key whatever is said."""
    profile: Profile = PROFILES[request.profile]
    return merged(Preferences() if request.model else profile.preferences, one.key.routing)


def granted(key: Key) -> set[str]:
    """By the key's patterns alone."""
    return {name for name in NAMES if any(fnmatchcase(name, pattern) for pattern in key.models)}


def harmless(one: Attempt) -> list[dict[str, Any]]:
    """The same messages without any of their texts, but for a flag line where the key lets one count."""
    kept = copy.deepcopy(one.body["messages"])
    last = max((place for place, each in enumerate(kept) if each["role"] == "user"), default=None)
    for place, each in enumerate(kept):
        said = each["content"] if isinstance(each["content"], str) else each["content"][0]["text"]
        is_flagged = one.key.reads_flags and place == last and parse_flag_line(said)
        each["content"] = said.partition("\n")[0] if is_flagged else "hi"
    return list(kept)


def test_what_flags_leave_is_a_subset_of_what_the_key_allows() -> None:
    rng, seen = random.Random(11), Counter[str]()
    for _ in range(COMBINATIONS):
        one = attempt(rng)
        seen["combinations"] += 1
        try:
            request = parsed(one)
        except CallerError:
            seen["refused"] += 1
            seen["subsets"] += 1
            continue
        forged = Session.after(replace(request, session_id="s-1"), rng.choice(NAMES))
        candidates = set(chosen(request, forged if request.session_id else None))
        allowed = set(chosen(replace(request, preferences=held(one, request))))
        seen["answered"] += bool(candidates)
        seen["narrowed"] += candidates < allowed
        seen["subsets"] += candidates <= allowed <= granted(one.key) and _keeps_bounds(one, request)
    print(json.dumps({"property": "S11", **seen}))
    assert seen["subsets"] == COMBINATIONS
    assert min(seen["answered"], seen["narrowed"], seen["refused"]) > COMBINATIONS // 20, "each of them is tried"


def _keeps_bounds(one: Attempt, request: Request) -> bool:
    """The rest of what a caller may only lower, and nothing of ours in what is forwarded."""
    limits = held(one, request).limits
    return (
        PRIORITIES.index(request.priority) <= PRIORITIES.index(one.key.max_priority)
        and (request.max_tokens or 0) <= limits.get("max_output_tokens", float("inf"))
        and request.key_id == one.key.id
        and request.body.keys().isdisjoint({"model", "routing", "user", "metadata", "prompt_cache_key"})
    )


def test_no_text_in_any_role_and_no_internal_header_says_anything() -> None:
    rng, same, compared = random.Random(12), 0, 0
    for _ in range(COMBINATIONS // 4):
        one = attempt(rng)
        try:
            request = parsed(one)
        except CallerError:
            continue
        compared += 1
        without = {name: value for name, value in one.headers.items() if name not in INTERNAL}
        plain = parsed(Attempt(one.key, {**one.body, "messages": harmless(one)}, without))
        asked = ("preferences", "model", "profile", "allowed_models", "priority", "needs", "deadline_s", "explain")
        same += all(getattr(request, name) == getattr(plain, name) for name in asked)
    print(json.dumps({"property": "S11 text", "compared": compared, "same": same}))
    assert same == compared > COMBINATIONS // 20
