"""The reason of a decision in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from app.domain.frozen import frozen
from app.domain.request import Preferences
from app.routing.estimates import Expected
from app.routing.objective import Positions
from app.routing.view import NO_TERMS, Terms

# So many models are named where several have something in common; the rest is counted.
MOST_NAMED = 3

Rule = Literal["best", "abstained", "default"]
"""Usefulness by what is predicted; the profile's order, because that is not to be trusted; the same without any."""


class Kept(NamedTuple):
    """What a session decided."""

    why: Literal["tool_call", "cache", "untold"]
    """A tool call is open; its cache is worth it; nothing says that a switch would be."""
    model: int
    otherwise: int
    """What would have been chosen without the session."""


@frozen
class Ground:
    """What a ranking rests on."""

    rule: Rule
    order: Positions
    """Positions of the eligible models, first choice first."""
    terms: Terms = NO_TERMS
    """Empty where no weight had a part in the order."""
    kept: Kept | None = None
    """None where the session decided nothing."""
    doubted: int | None = None
    """The model that not what was asked last spoke for, but its first words or what stands around it, where that is not
    enough."""
    unpaid: tuple[int, ...] = ()
    """Models that were eligible, but that the key's budget does not pay for, or only for answers for which they have no
    room; no part of the order."""


def why_best(expected: Expected, ground: Ground) -> str:
    """Why the first of the order is the first."""
    quality_E = expected.quality[expected.case.peers(ground.order)]
    chosen_quality, best = float(quality_E[0]), int(np.nanargmax(quality_E))
    active = {name: weight for name, weight in ground.terms.weights.items() if weight}
    head = _loss(expected, ground)
    if quality_E[best] <= chosen_quality:
        return head + _highest(quality_E, {} if _is_best_single(expected, ground) else active)
    if _is_best_single(expected, ground):
        return head + f"predicted quality {chosen_quality:.2f} here"
    chosen_shown, best_shown = _told_apart(chosen_quality, float(quality_E[best]))
    words = _gains(expected, int(ground.order[0]), int(ground.order[best]), active)
    other = expected.names[int(ground.order[best])]
    return (
        f"{head}{' and '.join(words) or 'as good'} at a predicted quality of {chosen_shown}, "
        f"against {best_shown} for {other}, the highest of {_tested(quality_E)} (weights: {_shown(active)})"
    )


def why_abstained(asked: Preferences, follows_order: bool, best_single: str | None) -> str:
    """Why the numbers do not decide though there are some, and so no weight does."""
    if follows_order:
        instead = "the first eligible model of the profile's default order answers"
    elif best_single is not None:
        instead = f"{best_single} answers, the best single model where models were measured side by side"
    else:
        instead = "the first eligible model of the catalogue answers"
    return f"this prompt is unlike what the router model learned from, so {instead}{_whatever(asked)}"


def why_kept(expected: Expected, kept: Kept) -> str:
    """Why the session's model answers and not another one."""
    model, other = expected.names[kept.model], expected.names[kept.otherwise]
    if kept.why == "tool_call":
        return f"{model} is in the middle of a tool call of this session, so it goes on instead of {other}"
    if kept.why == "cache":
        tokens = expected.case.warmth.tokens if expected.case.warmth else 0
        return f"{model} has about {tokens} tokens of this session in its cache, which {other} would have to read anew"
    return f"{model} has answered this session so far, and nothing that is predicted speaks for a switch to {other}"


def why_doubted(expected: Expected, ground: Ground, doubted: int) -> str:
    """Why a cheaper model answers than the one that was the most useful."""
    model, other = expected.names[int(ground.order[0])], expected.names[doubted]
    return (
        f"what was asked last, without its first words, needs no more than {model}; this profile wants that of {other}"
    )


def why_default(asked: Preferences, failure: str | None, has_predictor: bool, some_are_last: bool) -> str:
    """Why the profile's order decides, and no weight; whether some models are tried last, whatever is known of them."""
    head = f"first available in the profile's default order{_whatever(asked)}: "
    if failure:
        return f"{head}no prediction this time ({failure})"
    if has_predictor:
        return f"{head}no{' other' if some_are_last else ''} eligible model was tested"
    return f"{head}no router model is loaded"


def why_unpaid(expected: Expected, unpaid: Sequence[int]) -> str:
    """What goes before any reason where a budget left models out; else nothing."""
    if not unpaid:
        return ""
    return f"what is left of this key's budget rules out {_named(expected, unpaid)}; "


def why_tried_last(expected: Expected, ground: Ground) -> str:
    """What goes before any reason where models come last because of their replicas or contexts; else nothing."""
    last = ground.order[len(expected.case.peers(ground.order)) :].tolist()
    last_M = expected.fleet.last_resort_M
    failing = [number for number in last if last_M is not None and last_M[number]]
    tight = [number for number in last if number not in failing]
    return _tried_last(expected, tight, "may be too small for this prompt") + _tried_last(
        expected, failing, "fails too often at the moment" if len(failing) == 1 else "fail too often at the moment"
    )


def _tried_last(expected: Expected, models: Sequence[int], because: str) -> str:
    if not models:
        return ""
    return f"{_named(expected, models)} {because}, so {'it is' if len(models) == 1 else 'they are'} tried last; "


def _named(expected: Expected, models: Sequence[int]) -> str:
    """The names of models, or of the first few and how many more there are."""
    names, more = ", ".join(str(expected.names[number]) for number in models[:MOST_NAMED]), len(models) - MOST_NAMED
    return f"{names} and {more} more" if more > 0 else names


def _whatever(asked: Preferences) -> str:
    """What has no part in the order though it was asked for; else nothing."""
    active = {name: weight for name, weight in asked.weights.items() if weight}
    ignored = [f"the weights ({_shown(active)})"] if active else []
    if asked.max_quality_loss is not None:
        ignored.append(f"the max_quality_loss of {asked.max_quality_loss:g}")
    return f", whatever {' and '.join(ignored)}" if ignored else ""


def _tested(quality_E: np.ndarray) -> int:
    """Models of which something is predicted."""
    return len(quality_E) - int(np.isnan(quality_E).sum())


def _highest(quality_E: np.ndarray, active: Mapping[str, float]) -> str:
    tested, chosen = _tested(quality_E), float(quality_E[0])
    if tested == 1:
        return f"the only tested one among {len(quality_E)} (predicted quality {chosen:.2f})"
    first, second = _told_apart(chosen, float(np.nanmax(quality_E[1:])))
    suits = f", and none is better by the weights ({_shown(active)})" if active else ""
    return f"highest predicted quality among {tested} ({first} against {second} for the next){suits}"


def _gains(expected: Expected, chosen: int, other: int, active: Mapping[str, float]) -> list[str]:
    """In what the chosen model is better, most important first."""
    dimension = expected.table.vocabulary.dimension
    gains = {}
    for name, weight in active.items():
        share_M = expected.share(name)
        gains[name] = weight * float(share_M[other] - share_M[chosen])
    return [dimension[name].gain for name in sorted(gains, key=lambda name: -gains[name]) if gains[name] > 0]


def _is_best_single(expected: Expected, ground: Ground) -> bool:
    return bool(expected.names[int(ground.order[0])] == ground.terms.best_single)


def _loss(expected: Expected, ground: Ground) -> str:
    """What became of `max_quality_loss`, if anything was to become of it."""
    terms = ground.terms
    if terms.max_quality_loss is None:
        return ""
    loss = f"{terms.max_quality_loss:g}"
    others = [name for name, weight in terms.weights.items() if weight and name != "cost"]
    if terms.cost_weight is not None:
        return _kept_loss(terms.cost_weight, loss, others)
    if terms.point is None:
        return f"nothing is measured about which weight keeps the average loss within {loss}: "
    if _is_best_single(expected, ground):
        unweighed = f", whatever the weight{_s(others)} on {', '.join(others)}" if others else ""
        return (
            f"no weight on cost keeps the average loss within {loss} with confidence and costs less, "
            f"so the best single model{unweighed}: "
        )
    return f"no weight on cost keeps the average loss within {loss} with confidence: "


def _kept_loss(cost_weight: float, loss: str, others: Sequence[str]) -> str:
    """The weight was looked up as if it were the only one: nothing is known of what is lost to the others."""
    if not others:
        return f"a weight on cost of {cost_weight:.3g} keeps the average loss within {loss}: "
    return (
        f"a weight on cost of {cost_weight:.3g} would keep the average loss within {loss} on its own; "
        f"what is lost to the weight{_s(others)} on {', '.join(others)} comes on top: "
    )


def _s(several: Sequence[str]) -> str:
    return "s" if len(several) > 1 else ""


def _shown(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())


def _told_apart(one: float, other: float) -> tuple[str, str]:
    """Both numbers with two decimals, or with as many more as it takes to see that they differ."""
    for decimals in range(2, 6):
        shown = f"{one:.{decimals}f}", f"{other:.{decimals}f}"
        if one == other or shown[0] != shown[1]:
            break
    return shown
