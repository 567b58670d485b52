"""A draft as the text of `catalog.yaml` and of `gateway.yaml`: guesses are marked, open questions are comments."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from app.domain.preferences import DEFAULT_PROFILE
from app.domain.quantities import SECURITY_LEVELS
from app.setup.commented import mark_guess, on_one_line, one_line, plain, write_commented
from app.setup.draft import Draft, DraftBackend, DraftModel, Fact

# Every model in use takes as much; one that takes more is kept from long prompts until somebody says so.
ASSUMED_CONTEXT_TOKENS = 4096
# A weight on cost would be larger or smaller than what the default's loss becomes, so that cheap might cost more.
MAX_QUALITY_LOSS, LOSS_OF_CHEAP = 0.01, 0.05
# More names of parameters get a line each.
RENAMED_ON_ONE_LINE = 4
# A prediction may wait for its turn where models keep the same cores busy.
SHARED_LIMIT_S = 0.25

_CARD_ORDER = ("parameters_b", "released", "license", "context_tokens", "capabilities", "security", "regions")
_HEAD = """\
Written by `thalamus init` on {day}. A comment "guess" marks what nobody stated or measured: confirm it by deleting
the comment, or correct it. "open" is what is not known: it was left out, and a missing number never passes a limit and
counts as the worst of its dimension. configs/catalog.yaml of the project explains every key."""
_GATEWAY_HEAD = """\
Written by `thalamus init` on {day}; paths are relative to this file. configs/gateway.yaml of the project explains every
key, and has those that are left out here."""
_NO_KEYS = """\
No keys are set here, and nobody is let in without one: the first start makes one and prints it. To listen elsewhere
than on loopback, make one with `thalamus keys create`, or set at least one here:
keys: [{id: team, secret_env: THALAMUS_KEY, models: ["*"]}]"""


def catalog_text(draft: Draft, day: date) -> str:
    """The catalogue; a `ca_file` is written as the draft has it."""
    catalog = CommentedMap(models=_list([_model(model) for model in draft.models]))
    catalog["backends"] = CommentedSeq([_backend(backend) for backend in draft.backends])
    catalog.yaml_set_start_comment(_HEAD.format(day=day) + "\n\n")
    catalog.yaml_set_comment_before_after_key("backends", before="\n")
    return write_commented(catalog)


def gateway_text(draft: Draft, artifact: str | None, day: date, *, shares_machine: bool) -> str:
    """The gateway's file; `shares_machine` where models run beside it."""
    gateway = CommentedMap(listen="127.0.0.1:8080", admin_listen="127.0.0.1:8081", catalog="catalog.yaml")
    if artifact is not None:
        gateway["artifact"] = plain(artifact)
    if shares_machine:
        gateway["predictor_limit_s"] = SHARED_LIMIT_S
        gateway.yaml_add_eol_comment(
            "a backend is on this machine: it keeps the cores busy, so a prediction may wait for its turn",
            "predictor_limit_s",
        )
    gateway["profiles"] = _profiles(draft)
    for name, value in draft.gateway.items():
        if name != "profiles":
            gateway[name] = plain(value)
    gateway.yaml_set_start_comment(_GATEWAY_HEAD.format(day=day) + "\n\n")
    if "keys" not in gateway:
        gateway.yaml_set_comment_before_after_key("profiles", before=_NO_KEYS)
    return write_commented(gateway)


def _list(entries: list[CommentedMap]) -> CommentedSeq:
    """Entries with a blank line between them."""
    sequence = CommentedSeq(entries)
    for place in range(1, len(entries)):
        sequence.yaml_set_comment_before_after_key(place, before="\n")
    return sequence


def _model(model: DraftModel) -> CommentedMap:
    entry = CommentedMap(name=plain(model.name), served_as=plain(model.served_as), backend=plain(model.backend))
    if model.predicted_as:
        _put(entry, "predicted_as", model.predicted_as)
    entry["card"] = _card(model)
    for name, fact in (("price", model.price), ("speed", model.speed)):
        if fact:
            _put(entry, name, Fact(on_one_line(fact.value), fact.source, fact.is_guess))
    if model.open:
        questions = "\n".join(f"open: {one_line(sentence)}" for sentence in model.open)
        entry.yaml_set_comment_before_after_key("card", before=questions, indent=4)
    return entry


def _card(model: DraftModel) -> CommentedMap:
    assumed = Fact(ASSUMED_CONTEXT_TOKENS, "nobody says; more is not tried", is_guess=True)
    facts: Mapping[str, Fact] = {"context_tokens": assumed, **model.card}
    card = CommentedMap()
    for name in sorted(facts, key=lambda one: (*_CARD_ORDER, one).index(one)):
        _put(card, name, facts[name])
    stated = {"price": model.price, "speed": model.speed}
    sources = {name: fact.source for name, fact in {**facts, **stated}.items() if fact}
    card["sources"] = plain({name: one_line(source) for name, source in sources.items()})
    return card


def _put(mapping: CommentedMap, name: str, fact: Fact) -> None:
    mapping[name] = fact.value if isinstance(fact.value, CommentedMap) else plain(fact.value)
    if fact.is_guess:
        mark_guess(mapping, name, fact.source)


def _backend(backend: DraftBackend) -> CommentedMap:
    entry = CommentedMap(name=plain(backend.name), kind=backend.kind, urls=plain(backend.urls))
    optional = {
        "key_env": backend.key_env,
        "ca_file": backend.ca_file,
        "allow_cidr": backend.allow_cidr,
        "rename": _rename(backend.rename),
        "max_connections": backend.max_connections,
    }
    for name, value in optional.items():
        if value:
            entry[name] = value if isinstance(value, CommentedMap) else plain(value)
    for name, source in backend.guesses.items():
        mark_guess(entry, name, source)
    if backend.allow_cidr:
        entry.yaml_add_eol_comment("the only addresses that are connected to", "allow_cidr")
    return entry


def _rename(rename: dict[str, str | None]) -> CommentedMap:
    mapping: CommentedMap = on_one_line(rename) if len(rename) <= RENAMED_ON_ONE_LINE else plain(rename)
    return mapping


def _profiles(draft: Draft) -> CommentedMap:
    largest_first = sorted(draft.models, key=_size, reverse=True)
    cheapest_first = sorted(draft.models, key=_smallness)
    profiles = CommentedMap()
    profiles[DEFAULT_PROFILE] = _profile(
        {"max_quality_loss": MAX_QUALITY_LOSS}, largest_first, _meaning("largest", largest_first)
    )
    profiles["cheap"] = _profile(
        {"max_quality_loss": LOSS_OF_CHEAP}, cheapest_first, _meaning("smallest", cheapest_first)
    )
    profiles["best"] = _profile({}, largest_first, _meaning("largest", largest_first))
    for name, profile in draft.gateway.get("profiles", {}).items():
        profiles[plain(name)] = plain(profile)
    return profiles


def _profile(routing: dict[str, Any], order: list[DraftModel], meaning: str) -> CommentedMap:
    profile = CommentedMap(routing)
    profile["order"] = plain([model.name for model in order])
    mark_guess(profile, "order", f"{meaning}; for prompts of which nothing is predicted")
    return profile


def _size(model: DraftModel) -> tuple[float, float]:
    """Billion parameters; models whose maker does not tell are sold, and stand before the others by their price."""
    if "parameters_b" in model.card:
        return float(model.card["parameters_b"].value), 0.0
    usd = _usd(model)
    return (0.0, 0.0) if usd is None else (float("inf"), usd)


def _smallness(model: DraftModel) -> tuple[bool, float, float]:
    """What is asked elsewhere comes last, before it what nobody knows the size of."""
    is_elsewhere, usd = _is_elsewhere(model), _usd(model)
    size = float(model.card["parameters_b"].value) if "parameters_b" in model.card else float("inf")
    return is_elsewhere, size, float("inf") if usd is None else usd


def _is_elsewhere(model: DraftModel) -> bool:
    return "security" in model.card and model.card["security"].value == SECURITY_LEVELS[0]


def _usd(model: DraftModel) -> float | None:
    """What a million tokens of answers cost, of a model that is sold."""
    usd = model.price.value.get("output_usd_per_m") if model.price else None
    return None if usd is None else float(usd)


def _meaning(which: str, order: list[DraftModel]) -> str:
    """What an order goes by, of which models have a size."""
    sized = [model for model in order if "parameters_b" in model.card]
    if len(sized) == len(order):
        words = f"{which} first"
    elif sized:
        words = f"{which} first where a size is known"
    else:
        words = "no size is known, so put them in order"
    is_public_last = which == "smallest" and any(map(_is_elsewhere, order)) and not all(map(_is_elsewhere, order))
    return f"{words}; public addresses last" if is_public_last else words
