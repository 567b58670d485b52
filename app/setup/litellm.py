"""A LiteLLM proxy's configuration as a draft: what means the same here is carried over, everything else is listed.

How it works: the file is flattened into its leaves, each at its place. What is understood is taken from them, and every
leaf that nobody took becomes a part of a line of `left_out`: also a key that LiteLLM gets tomorrow.

Entries with one `model_name` are deployments of one model. The first speaks for it; those that differ from it in the
address only become further URLs of its backend. A chain of fallbacks becomes a profile that is limited to its models;
its order holds only where nothing is predicted, which `left_out` says. Keys in plain text are never copied.

What it does not do: read other files that are included, or ask the backends anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.api.access import AUTO
from app.domain.preferences import DEFAULT_PROFILE
from app.forms.yaml_files import dotted, read_yaml, refuse
from app.setup.draft import Draft, DraftBackend, DraftModel, Fact
from app.setup.litellm_entries import Deployment, NotCarriedError, read_deployment, variable_in
from app.setup.litellm_leaves import Leaves, Place
from app.setup.litellm_tables import NO_CHAIN

_SECTIONS = ("router_settings", "litellm_settings", "general_settings")


def read_litellm(path: Path) -> Draft:
    """The catalogue and the gateway's settings that a LiteLLM file amounts to; no models if none can be carried over.

    Raises:
        UsageError: it cannot be read, is no YAML, or is no LiteLLM configuration; a line for each thing that is wrong.
    """
    content = read_yaml(path, "--from-litellm")
    refuse(path, list(_problems(content)))
    leaves = Leaves(content)
    models = _merged(leaves, _deployments(leaves, content["model_list"], path.name))
    draft = _catalogue(leaves, models)
    profiles = _profiles(leaves, content, models)
    draft.gateway = _gateway(leaves, profiles)
    draft.left_out = [*leaves.lines(), *(NO_CHAIN.format(name=name, virtual=f"{AUTO}:{name}") for name in profiles)]
    return draft


def _problems(content: Any) -> Iterator[str]:
    if not isinstance(content, dict) or not isinstance(content.get("model_list"), list) or not content["model_list"]:
        yield "model_list: expected a list of models"
        return
    for section in _SECTIONS:
        if not isinstance(content.get(section), dict | None):
            yield f"{section}: expected a mapping"
    for index, entry in enumerate(content["model_list"]):
        yield from (f"model_list[{index}]{problem}" for problem in _entry_problems(entry))


def _entry_problems(entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield ": expected a mapping with model_name and litellm_params"
        return
    if not isinstance(entry.get("model_name"), str):
        yield ".model_name: expected the name that callers use"
    if not isinstance(entry.get("litellm_params"), dict):
        yield ".litellm_params: expected a mapping with model"
    elif not isinstance(entry["litellm_params"].get("model"), str):
        yield ".litellm_params.model: expected a provider and its name of the model, such as openai/gpt-4o"
    if not isinstance(entry.get("model_info"), dict | None):
        yield ".model_info: expected a mapping"


@dataclass
class _Model:
    """Deployments of one model that differ in their URLs only; the first speaks for it."""

    members: list[Deployment]
    facts: dict[str, Fact] = field(default_factory=dict)

    @property
    def first(self) -> Deployment:
        return self.members[0]

    @property
    def urls(self) -> list[str]:
        return [member.url for member in self.members]


def _deployments(leaves: Leaves, entries: list[Any], file: str) -> Iterator[Deployment]:
    for index, entry in enumerate(entries):
        try:
            yield read_deployment(("model_list", index), entry, file)
        except NotCarriedError as exc:
            leaves.leave(("model_list", index), str(exc))


def _merged(leaves: Leaves, deployments: Iterator[Deployment]) -> dict[str, _Model]:
    """Models by name; a deployment that cannot join the first of its name is left."""
    models: dict[str, _Model] = {}
    for one in deployments:
        model = models.setdefault(one.name, _Model([]))
        reason = _difference(model, one) if model.members else None
        if reason is not None:
            leaves.leave(one.place, reason)
            continue
        model.members.append(one)
        leaves.take(*one.places)
        _add_facts(leaves, model, one)
    return models


def _difference(model: _Model, one: Deployment) -> str | None:
    """Why a deployment is no further replica of a model."""
    first = dotted(model.first.place)
    if (one.served_as, one.kind) != (model.first.served_as, model.first.kind):
        return f"serves another model than {first}: give it a model_name of its own; `{AUTO}` chooses between the two"
    if one.key != model.first.key:
        return f"has another key than {first}, and a backend has one: give it a model_name of its own"
    return f"has the address of {first}, or of one that joined it" if one.url in model.urls else None


def _add_facts(leaves: Leaves, model: _Model, one: Deployment) -> None:
    for name, claim in one.claims.items():
        if model.facts.setdefault(name, claim.fact).value == claim.fact.value:
            leaves.take(*claim.places)
        for place in claim.places:
            leaves.leave(place, f"{dotted(model.first.place)} states another {name}, and they are one model here")


def _catalogue(leaves: Leaves, models: Mapping[str, _Model]) -> Draft:
    draft = Draft()
    variables = {member.key.env for model in models.values() for member in model.members}
    backends: dict[Any, DraftBackend] = {}
    for name, model in models.items():
        first = model.first
        identity = (first.kind, tuple(model.urls), first.key)
        if identity not in backends:
            backends[identity] = _backend(model, {one.name for one in backends.values()}, variables)
        backend = backends[identity]
        for member in model.members:
            _leave_key(leaves, member, backend)
        draft.models.append(_draft_model(name, model, backend))
    draft.backends = list(backends.values())
    return draft


def _backend(model: _Model, names: Collection[str], variables: set[str | None]) -> DraftBackend:
    """A new backend; its key's variable is added to those that are in use."""
    first = model.first
    name, variable = _unused(first.provider, names, "-"), first.key.env
    if first.key.literal is not None:
        # The variable is likely to be set, to another key than the file's: it may go to the provider only.
        own = first.provider_key_env if all(one.provider_key_env for one in model.members) else None
        variable = _unused(own or "KEY_OF_" + re.sub(r"\W", "_", name).upper(), variables, "_")
        variables.add(variable)
    return DraftBackend(name, first.kind, model.urls, key_env=variable, allow_cidr=_private(model.urls))


def _unused(name: str, taken: Collection[str | None], joint: str) -> str:
    return next(one for one in (name, *(f"{name}{joint}{n}" for n in range(2, len(taken) + 3))) if one not in taken)


def _private(urls: list[str]) -> list[str]:
    """Networks to allow, one for each address among the hosts, if any of them is private: without, none is."""
    addresses = [address for url in urls if (address := _address(urlsplit(url).hostname or "")) is not None]
    if all(address.is_global or address.is_loopback for address in addresses):
        return []
    return [f"{address}/{address.max_prefixlen}" for address in dict.fromkeys(addresses)]


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _leave_key(leaves: Leaves, member: Deployment, backend: DraftBackend) -> None:
    reason = f"a key is not copied: put it into the environment variable {backend.key_env}, which the catalogue names"
    place = (*member.place, "litellm_params", "api_key")
    if place in leaves and leaves[place] is not None:
        leaves.leave(place, "stands for no key: the backend is asked without" if member.key.literal is None else reason)


def _draft_model(name: str, model: _Model, backend: DraftBackend) -> DraftModel:
    card = {field: fact for field, fact in model.facts.items() if field != "price"}
    draft = DraftModel(name, model.first.served_as, backend.name, card=card, price=model.facts.get("price"))
    if "context_tokens" not in card:
        draft.open.append("How many tokens does it take, read and written together? LiteLLM's file does not say.")
    if "capabilities" not in card:
        draft.open.append("Can it use tools, see pictures, answer in a JSON schema? LiteLLM's file does not say.")
    return draft


def _profiles(leaves: Leaves, content: Mapping[str, Any], models: Collection[str]) -> dict[str, Any]:
    """A profile for each model that has fallbacks in the catalogue, named like it."""
    stated = [section for section in _SECTIONS[:2] if (content.get(section) or {}).get("fallbacks")]
    for section in stated[1:]:
        leaves.leave((section, "fallbacks"), f"{stated[0]}.fallbacks overrules it")
    profiles: dict[str, Any] = {}
    for place, name, fallbacks in _chains(content, stated[:1]):
        if name not in models or name in (DEFAULT_PROFILE, *profiles):
            continue
        found = {model: (*place, index) for index, model in enumerate(fallbacks) if model in models and model != name}
        if found:
            leaves.take(*found.values())
            profiles[name] = {"limits": {"models": [name, *found]}, "order": [name, *found]}
    return profiles


def _chains(content: Mapping[str, Any], sections: list[str]) -> Iterator[tuple[Place, str, list[str]]]:
    """Chains of fallbacks with their places; of other forms (a fallback with messages of its own) none."""
    for section in sections:
        listed = content[section]["fallbacks"]
        for index, chains in enumerate(listed if isinstance(listed, list) else ()):
            for name, models in chains.items() if isinstance(chains, dict) else ():
                if isinstance(models, list) and all(isinstance(model, str) for model in models):
                    yield (section, "fallbacks", index, name), name, models


def _attempts(retries: Any) -> int | None:
    return retries + 1 if type(retries) is int and 0 <= retries <= 4 else None


def _seconds(value: Any) -> float | None:
    return value if type(value) in (int, float) and 0 < value < float("inf") else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


@dataclass(frozen=True)
class _Setting:
    """A setting that means the same here and there."""

    places: tuple[Place, ...]
    """The first that is stated holds, as in LiteLLM."""
    section: str
    key: str
    expected: str
    convert: Callable[[Any], float | None]
    """None is a value that does not fit."""


_SETTINGS = (
    # There, retries are counted for each model of a chain of fallbacks; here, attempts are for the whole request.
    _Setting(
        (("router_settings", "num_retries"), ("litellm_settings", "num_retries")),
        "upstream", "max_attempts", "a whole number from 0 to 4, because 5 attempts are the most", _attempts,
    ),
    _Setting(
        (("router_settings", "timeout"), ("litellm_settings", "request_timeout")),
        "upstream", "total_timeout_s", "seconds above 0", _seconds,
    ),
    _Setting((("router_settings", "stream_timeout"),), "upstream", "first_byte_timeout_s", "seconds above 0", _seconds),
    _Setting(
        (("general_settings", "global_max_parallel_requests"),),
        "limits", "in_flight", "a whole number above 0", _count,
    ),
)  # fmt: skip


def _gateway(leaves: Leaves, profiles: dict[str, Any]) -> dict[str, Any]:
    gateway: dict[str, Any] = {"profiles": profiles} if profiles else {}
    for setting in _SETTINGS:
        stated = [place for place in setting.places if place in leaves and leaves[place] is not None]
        for place in stated[1:]:
            leaves.leave(place, f"{dotted(stated[0])} overrules it")
        value = setting.convert(leaves[stated[0]]) if stated else None
        if value is not None:
            leaves.take(stated[0])
            gateway.setdefault(setting.section, {})[setting.key] = value
        elif stated:
            leaves.leave(
                stated[0], f"{setting.section}.{setting.key} is the place for it, but expects {setting.expected}"
            )
    if keys := _keys(leaves):
        gateway["keys"] = keys
    return gateway


def _keys(leaves: Leaves) -> list[dict[str, Any]]:
    """The master key, which has no limits there: here it would have those of a key that states none."""
    place = ("general_settings", "master_key")
    if place not in leaves or leaves[place] is None:
        return []
    variable = variable_in(leaves[place])
    if variable is not None:
        leaves.take(place)
    else:
        variable = "THALAMUS_KEY"
        leaves.leave(place, f"a secret is not copied: put it into the environment variable {variable}")
    limits = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency", "budget"))
    return [{"id": "master", "secret_env": variable, "models": ["*"], **limits}]
