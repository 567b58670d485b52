"""What goes into a model's entry of the catalogue: what was measured or listed first, then what is known by its name.

A fact that an entry has already, stated or measured, stays. What nobody could say becomes a sentence of `open`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from app.setup.draft import DraftModel, Fact
from app.setup.known import Known, column_of, recognise
from app.setup.measure import AT_ONCE, Measured
from app.setup.probe import Served

# As capabilities are listed in the catalogue.
_CAPABILITIES = ("chat", "completion", "responses", "embeddings", "tools", "vision", "json_schema", "logprobs")
# What says the same of an adapter as of the model under it.
_SHARED = ("parameters_b", "license", "context_tokens", "capabilities")
_OF_A_NAME = ("parameters_b", "released", "license")


@dataclass(frozen=True)
class Around:
    """What holds for all models of an endpoint."""

    day: date
    is_public: bool
    kind: str
    usd_per_gpu_hour: float | None = None
    columns: Sequence[str] = ()
    """Of the artifact."""
    aliases: Mapping[str, str] = field(default_factory=dict)


def known_as(served: Served) -> Known | None:
    """What is known of a model by the name it has at its endpoint, or else by that of its weights."""
    return recognise(served.name) or (recognise(served.weights) if served.weights else None)


def add_facts(
    model: DraftModel, served: Served, around: Around, known: Known | None, measured: Measured | None
) -> None:
    """Fill an entry; `known` is of the model that an adapter is of, where it is one."""
    model.open.clear()
    facts = _known_facts(served, known)
    if served.context_tokens:
        stated = Fact(served.context_tokens, f"{served.context_source} in its /v1/models, {around.day}")
        model.card["context_tokens"] = stated
    capabilities = _capabilities(model.card.get("capabilities"), facts.get("capabilities"), around, measured)
    model.card["capabilities"] = capabilities
    for name in ("context_tokens", *_OF_A_NAME):
        if name in facts:
            model.card.setdefault(name, facts[name])
    model.card.setdefault("security", _security(around))
    model.predicted_as = model.predicted_as or _column(served, around)
    model.price = model.price or _price(around, facts.get("price"), measured)
    model.speed = model.speed or _speed(around, measured)
    model.open += _open(model, around, measured)


def _known_facts(served: Served, known: Known | None) -> dict[str, Fact]:
    if known is None:
        return {}
    if served.parent is None:
        return dict(known.facts)
    return {
        name: Fact(known.facts[name].value, f"as of {served.parent}, which it is an adapter of", is_guess=True)
        for name in _SHARED
        if name in known.facts
    }


def _capabilities(stated: Fact | None, known: Fact | None, around: Around, measured: Measured | None) -> Fact:
    if stated and not stated.is_guess:
        return stated
    guessed = stated or known
    able = {*guessed.value} if guessed else {"chat"}
    seen = measured.capabilities if measured else set()
    # vLLM constrains the answers of every model.
    able |= seen | ({"json_schema"} if around.kind == "vllm" else set())
    able -= measured.refused - seen if measured else set()
    sources = [f"measured {around.day}: {_joined(seen)}"] if seen else []
    unseen = able - seen
    if unseen:
        why = guessed.source.removeprefix("guess ") if guessed and unseen & {*guessed.value} else ""
        sources.append(f"{_joined(unseen)}: {why or _reason(unseen)}")
    return Fact([name for name in _CAPABILITIES if name in able], "; ".join(sources), is_guess=bool(unseen))


def _reason(unseen: set[str]) -> str:
    return "as of every vLLM worker" if unseen == {"json_schema"} else "nothing says otherwise"


def _joined(capabilities: set[str]) -> str:
    return ", ".join(name for name in _CAPABILITIES if name in capabilities)


def _security(around: Around) -> Fact:
    if around.is_public:
        return Fact("public_api", "its address is public", is_guess=True)
    return Fact("self_hosted", "its address is private, or on this machine", is_guess=True)


def _column(served: Served, around: Around) -> Fact | None:
    """An adapter is no model that an artifact knows."""
    if served.parent is not None:
        return None
    for name in (served.name, served.weights or ""):
        column = column_of(name, around.columns, around.aliases) if name else None
        if column is not None:
            return Fact(column, f"by its name, {name}", is_guess=True)
    return None


def _price(around: Around, known: Fact | None, measured: Measured | None) -> Fact | None:
    if around.is_public:
        return known
    if around.usd_per_gpu_hour is None or not measured or not measured.tokens_per_s:
        return None
    hosted = {
        "usd_per_gpu_hour": around.usd_per_gpu_hour,
        "gpus": 1,
        "tokens_per_s": rounded(measured.tokens_per_s),
    }
    source = (
        f"--usd-per-gpu-hour; tokens_per_s measured {around.day}, {AT_ONCE} short requests at once, and a full machine "
        "does more; one GPU is assumed"
    )
    return Fact({"self_hosted": hosted}, source, is_guess=True)


def _speed(around: Around, measured: Measured | None) -> Fact | None:
    if not measured or not measured.speed:
        return None
    speed = measured.speed
    value = {
        "prefill_tokens_per_s": rounded(speed.prefill_tokens_per_s),
        "s_per_output_token": rounded(speed.s_per_output_token),
    }
    tokens = "" if measured.tells_usage else "; it tells no token counts, so they are estimated from characters"
    return Fact(value, f"measured {around.day}, one request at a time{tokens}", is_guess=not measured.tells_usage)


def rounded(value: float) -> float:
    """Three significant digits: more would be noise."""
    short = float(f"{value:.3g}")
    return int(short) if short >= 100 else short


def _open(model: DraftModel, around: Around, measured: Measured | None) -> list[str]:
    missing = [name for name in (*_OF_A_NAME, "regions") if name not in model.card]
    sentences = [f"{', '.join(missing)}: not known; a limit on them excludes it"] if missing else []
    if "context_tokens" not in model.card:
        sentences.append("context_tokens: neither its endpoint nor its name says; a small one is assumed")
    if model.price is None:
        sentences.append(_open_price(around, measured))
    elif _is_nothing(model.price):
        sentences.append("price: zero, so no budget stops it; write what it costs, such as the rent of its machine")
    if model.speed is None:
        reason = measured.problem if measured else "no requests were made"
        sentences.append(f"speed: not measured, {reason}; it is learned from what is served")
    if measured is None:
        sentences.append("capabilities: whether it chats, or serves /v1/responses, was not asked")
        return sentences
    if not measured.is_answered:
        sentences.append(f"capabilities: what it can do was not measured, {measured.problem}")
    if measured.unsure:
        sentences.append(f"capabilities: whether it serves /v1/responses is not known, {measured.unsure}")
    if not measured.tells_usage:
        sentences.append("tokens: its answers do not tell how many; counts and costs are estimates")
    return sentences


def _is_nothing(price: Fact) -> bool:
    hosted = price.value.get("self_hosted")
    usd = [hosted["usd_per_gpu_hour"]] if hosted else [price.value[f"{side}_usd_per_m"] for side in ("input", "output")]
    return not any(usd)


def _open_price(around: Around, measured: Measured | None) -> str:
    if around.is_public:
        return "price: not known; take it from its provider's list. Until then its cost counts as the worst"
    tokens_per_s = measured.tokens_per_s if measured else None
    seen = f" ({rounded(tokens_per_s):g} tokens/s were measured, {AT_ONCE} at once)" if tokens_per_s else ""
    return f"price: what does an hour of its machine cost{seen}? Until then its cost counts as the worst"
