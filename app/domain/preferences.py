"""What is asked of a decision: read from a body, headers or a prompt, and narrowed source by source.

How it works: a request begins with what its profile and its key say. Each source, from the least explicit to the most
(prompt, header, body), then narrows it: hard limits all hold, so that of two the stricter one counts; soft weights
replace inherited ones key by key. A weight on cost and a `max_quality_loss` say the same in two ways, so a more
explicit one replaces the other. Nothing that a source says admits a model that was not admitted before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from app.domain.dimensions import MOST_WEIGHT, Source
from app.domain.quantities import Kind, Priority, number, number_from_text
from app.domain.request import Preferences
from app.domain.vocabulary import FLAG_WEIGHT, HEADER_PREFIX, VOCABULARY, Vocabulary
from app.errors import InvalidFlag, InvalidRequest, NotAllowed, UnsupportedParameter, shown

MOST_FLAG_BYTES = 256
_FLAG_LINE = re.compile(r"\[flag: ([a-z_]+(?:=\d+(?:\.\d+)?)?(?:, ?[a-z_]+(?:=\d+(?:\.\d+)?)?)*)\]", re.ASCII)
_WEIGHT_EXPECTED = f"a number from 0 to {MOST_WEIGHT:g}"

DEFAULT_PROFILE = "default"
"""Of who asks for none."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A named set of preferences, with its default order: `auto:cheap`."""

    preferences: Preferences = field(default_factory=Preferences)
    order: tuple[str, ...] = ()
    """Models to try when nothing is predicted, first choice first; the others follow in the catalogue's order."""
    steady: bool = False
    """Whether a dear model answers only where the last user message, alone and without its first words, asks for it as
    well."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a caller says about the request itself. None is not said."""

    session_id: str | None = None
    deadline_s: float | None = None
    priority: Priority | None = None
    explain: bool | None = None

    def over(self, other: Context) -> Context:
        """Both, where this one is the more explicit; of two deadlines the earlier holds."""
        if other is NO_CONTEXT:
            return self
        deadlines_s = [each for each in (self.deadline_s, other.deadline_s) if each is not None]
        return Context(
            session_id=other.session_id if self.session_id is None else self.session_id,
            deadline_s=min(deadlines_s, default=None),
            priority=other.priority if self.priority is None else self.priority,
            explain=other.explain if self.explain is None else self.explain,
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What one source said."""

    preferences: Preferences = field(default_factory=Preferences)
    context: Context = field(default_factory=Context)


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds already, and what the callers of a key may add to it."""

    preferences: Preferences = field(default_factory=Preferences)
    """Those of the profile, of the key, and of the sources so far."""
    scopes: frozenset[str] = frozenset()
    may_set: frozenset[str] | None = None
    """Fields of `routing` that callers may set; None is all."""
    flags_in_prompt: bool = False


@dataclass(frozen=True, slots=True)
class FlagLine:
    """Flags of a prompt, and the prompt without them."""

    preferences: Preferences
    rest: str


NO_CONTEXT = Context()
NOTHING_ASKED = Asked(Preferences(), NO_CONTEXT)
"""What those say who say nothing: always this object."""


def narrow(policy: Policy, source: Source, asked: Preferences, vocabulary: Vocabulary = VOCABULARY) -> Policy:
    """The policy after a source has had its say. Ask sources from the least explicit to the most.

    Raises:
        NotAllowed: the source may not set one of the fields.
    """
    if not asked or (source is Source.PROMPT and not policy.flags_in_prompt):
        return policy
    _check_permission(policy, source, asked, vocabulary)
    return replace(policy, preferences=merged(policy.preferences, asked, vocabulary))


def permit(may_set: frozenset[str] | None, context: Context) -> None:
    """Nothing, when the callers of a key may say all this about a request.

    Raises:
        NotAllowed: they may not.
    """
    if may_set is None or context == NO_CONTEXT:
        return
    for each in fields(context):
        if getattr(context, each.name) is not None:
            _check_may_set(may_set, each.name)


def merged(held: Preferences, asked: Preferences, vocabulary: Vocabulary = VOCABULARY) -> Preferences:
    """Both: all limits hold, and soft preferences are the asked ones where they say anything."""
    if not asked:
        return held
    limits = dict(held.limits)
    for name, limit in asked.limits.items():
        limits[name] = vocabulary.constraint[name].combine(limits[name], limit) if name in limits else limit
    weights = {**held.weights, **asked.weights}
    max_quality_loss = held.max_quality_loss
    if asked.max_quality_loss is not None:
        max_quality_loss = asked.max_quality_loss
        weights.pop("cost", None)
    elif "cost" in asked.weights:
        max_quality_loss = None
    return Preferences(limits, weights, max_quality_loss)


def _check_permission(policy: Policy, source: Source, asked: Preferences, vocabulary: Vocabulary) -> None:
    if source is Source.OPERATOR:
        return
    for name in asked.limits:
        constraint = vocabulary.constraint[name]
        if source not in constraint.sources:
            raise NotAllowed(f"routing.{name} cannot be set in a {source.value}", param=f"routing.{name}")
        if constraint.scope is not None and constraint.scope not in policy.scopes:
            raise NotAllowed(f"routing.{name} needs a key with the scope {constraint.scope}", param=f"routing.{name}")
    for name in asked.weights:
        if source not in vocabulary.dimension[name].sources:
            raise NotAllowed(f"routing.weights.{name} cannot be set in a {source.value}", param="routing.weights")
    if policy.may_set is None:
        return
    for name in _fields(asked):
        _check_may_set(policy.may_set, name)


def _check_may_set(may_set: frozenset[str], name: str) -> None:
    if name not in may_set:
        raise NotAllowed(f"this key's callers may not set routing.{name}; leave it out", param=f"routing.{name}")


def _fields(asked: Preferences) -> list[str]:
    soft = (("weights", bool(asked.weights)), ("max_quality_loss", asked.max_quality_loss is not None))
    return [*asked.limits, *(name for name, is_set in soft if is_set)]


def parse_body(routing: object, vocabulary: Vocabulary = VOCABULARY, where: str = "routing") -> Asked:
    """Read the `routing` object of a body; `where` names it in errors. None and null fields say nothing.

    Raises:
        UnsupportedParameter: a field that does not exist.
        InvalidRequest: a value that is not what is expected.
    """
    if routing is None:
        return NOTHING_ASKED
    if not isinstance(routing, Mapping):
        raise InvalidRequest(f"{where} must be an object", param=where)
    values: dict[str, Any] = {}
    for name, value in routing.items():
        if value is None and (name == "weights" or name in vocabulary.kinds):
            continue
        if name == "weights":
            values[name] = _body_weights(value, vocabulary, f"{where}.weights")
        elif (kind := vocabulary.kinds.get(name)) is not None:
            values[name] = _parsed(kind, value, f"{where}.{name}")
        else:
            param = shown(f"{where}.{name}")
            raise UnsupportedParameter(f"{param} does not exist; {_known(vocabulary)}", param=param)
    return _asked(values, vocabulary, where)


def parse_headers(headers: Mapping[str, str], vocabulary: Vocabulary = VOCABULARY) -> Asked:
    """Read the headers that mirror `routing`; names are in lower case, other headers are ignored.

    Raises:
        InvalidFlag: a weight of a dimension that does not exist.
        InvalidRequest: a value that is not what is expected.
    """
    if HEADER_PREFIX not in "\n".join(headers):
        return NOTHING_ASKED
    values: dict[str, Any] = {}
    for header, text in headers.items():
        if not header.startswith(HEADER_PREFIX):
            continue
        name = vocabulary.headers.get(header)
        if name == "weights":
            values[name] = _header_weights(text, header, vocabulary)
        elif name is not None:
            kind = vocabulary.kinds[name]
            try:
                values[name] = kind.parse(kind.from_text(text))
            except (ValueError, KeyError, OverflowError) as exc:
                raise InvalidRequest(f"the header {header} must be {kind.expected}", param=header) from exc
    return _asked(values, vocabulary, "routing") if values else NOTHING_ASKED


def parse_flag_line(prompt: str, vocabulary: Vocabulary = VOCABULARY) -> FlagLine | None:
    """Read the flags in a prompt's first line; None where that is anything else than exactly one, and so plain text.

    The form is `[flag: word, word=0.5]`. Only the last user message may be asked, and only for a key that allows it.
    """
    if not prompt.startswith("[flag: "):
        return None
    line, _, rest = prompt.partition("\n")
    line = line.removesuffix("\r")
    match = _FLAG_LINE.fullmatch(line)
    if match is None or len(line.encode()) > MOST_FLAG_BYTES:
        return None
    weights: dict[str, float] = {}
    for flag in match[1].split(","):
        word, _, weight = flag.strip().partition("=")
        dimension = vocabulary.word.get(word)
        value = float(weight) if weight else FLAG_WEIGHT
        if dimension is None or dimension.name in weights or value > MOST_WEIGHT:
            return None
        weights[dimension.name] = value
    return FlagLine(Preferences(weights=weights), rest)


def _asked(values: dict[str, Any], vocabulary: Vocabulary, where: str) -> Asked:
    weights = values.get("weights", {})
    max_quality_loss = values.get("max_quality_loss")
    if "cost" in weights and max_quality_loss is not None:
        raise InvalidRequest(
            f"{where}.weights.cost and {where}.max_quality_loss say the same in two ways; leave one out",
            param=f"{where}.max_quality_loss",
        )
    limits = {name: value for name, value in values.items() if name in vocabulary.constraint}
    context = {each.name: values[each.name] for each in vocabulary.context if each.name in values}
    return Asked(Preferences(limits, weights, max_quality_loss), Context(**context))


def _parsed(kind: Kind, value: object, param: str) -> Any:
    try:
        return kind.parse(value)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest(f"{param} must be {kind.expected}", param=param) from exc


def _body_weights(value: object, vocabulary: Vocabulary, where: str) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{where} must be an object of dimensions and numbers", param=where)
    weights: dict[str, float] = {}
    for name, weight in value.items():
        param = shown(f"{where}.{name}")
        if name not in vocabulary.dimension:
            known = ", ".join(vocabulary.dimension)
            raise UnsupportedParameter(f"{param} does not exist; there are {known}", param=param)
        if weight is not None:
            weights[name] = _weight(weight, param)
    return weights


def _header_weights(text: str, header: str, vocabulary: Vocabulary) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        if name not in vocabulary.dimension:
            known = ", ".join(vocabulary.dimension)
            raise InvalidFlag(f"the header {header} weighs {name[:40]!r}, but there are only {known}", param=header)
        if name in weights:
            raise InvalidFlag(f"the header {header} weighs {name} twice", param=header)
        try:
            weights[name] = _weight(number_from_text(weight), header)
        except ValueError as exc:
            expected = f"the header {header} must be like cost=0.4,latency=0.1, each {_WEIGHT_EXPECTED}"
            raise InvalidRequest(expected, param=header) from exc
    return weights


def _weight(value: object, param: str) -> float:
    try:
        return number(value, most=MOST_WEIGHT)
    except ValueError as exc:
        raise InvalidRequest(f"{param} must be {_WEIGHT_EXPECTED}", param=param) from exc


def _known(vocabulary: Vocabulary) -> str:
    return "there are " + ", ".join(("weights", *vocabulary.kinds))
