"""One entry of LiteLLM's `model_list` in the catalogue's terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from app.api.access import AUTO
from app.errors import UsageError, without_credentials
from app.forms.catalog_file import NAME
from app.forms.yaml_files import dotted
from app.setup.draft import Fact
from app.setup.litellm_leaves import Place
from app.setup.litellm_tables import COSTS, FLAGS, FOREIGN, NO_KEY, OPENAI_NAME, PROVIDERS, Provider
from app.upstream.http.addresses import AddressPolicy, check_url, versioned

_ENVIRONMENT = "os.environ/"
_ANY_ADDRESS = AddressPolicy(("0.0.0.0/0", "::/0"), allow_loopback=True)


class NotCarriedError(Exception):
    """Why an entry as a whole cannot be carried over."""


@dataclass(frozen=True)
class Key:
    """Where a backend's key is: in an environment variable, in the file itself, or nowhere."""

    env: str | None = None
    literal: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Claim:
    """A fact, and the places that it stands for."""

    fact: Fact
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Deployment:
    """An entry of `model_list` in the catalogue's terms."""

    place: Place
    name: str
    served_as: str
    provider: str
    """Where it has an address of its own: its name."""
    provider_key_env: str | None
    """The variable of the provider's keys; None at any address but the provider's own, which no such key is for."""
    kind: str
    url: str
    key: Key
    places: tuple[Place, ...]
    """What the fields above stand for."""
    claims: Mapping[str, Claim]
    """By field of the card, and `price`."""


def read_deployment(place: Place, entry: Mapping[str, Any], file: str) -> Deployment:
    """The entry at a place of a file, whose name is for the sources of facts.

    Raises:
        NotCarriedError: nothing of it can stand in the catalogue.
    """
    name, params = entry["model_name"], entry["litellm_params"]
    _check(name, params, entry.get("model_info") or {})
    provider, served_as = _provider(params)
    known = PROVIDERS[provider]
    address = next((key for key in ("api_base", "base_url") if params.get(key) is not None), None)
    url = known.url if address is None else _url(params[address], known)
    if url is None:
        raise NotCarriedError("has no api_base: write one, and run this again")
    key = _key(params.get("api_key"), known if address is None else None)
    stated = [one for one in ("model", "custom_llm_provider", address) if one and isinstance(params.get(one), str)]
    stated += ["api_key"] if key.env and "api_key" in params else []
    return Deployment(
        place=place,
        name=name,
        served_as=served_as,
        provider=provider if address is None else name,
        provider_key_env=known.key_env if url == known.url else None,
        kind=known.kind,
        url=url,
        key=key,
        places=((*place, "model_name"), *((*place, "litellm_params", one) for one in stated)),
        claims=dict(_claims(place, entry, f"{file}: {dotted(place)}")),
    )


def _check(name: str, params: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    if not NAME.fullmatch(name) or name == AUTO:
        raise NotCarriedError(f"names are letters, digits and ._/- here, not `{AUTO}`: write an entry for each model")
    if info.get("mode") not in (None, "chat", "completion"):
        raise NotCarriedError(f"its mode is {info['mode']}: only models that chat or complete are routed")
    if "litellm_credential_name" in params:
        raise NotCarriedError("its key is in credential_list: write it into the entry, and run this again")


def _provider(params: Mapping[str, Any]) -> tuple[str, str]:
    """The provider's name in LiteLLM, and its own name of the model."""
    model, stated = params["model"], params.get("custom_llm_provider")
    prefix, slash, rest = model.partition("/")
    if isinstance(stated, str):
        prefix, rest = stated, model.removeprefix(f"{stated}/")
    elif not slash:
        if not OPENAI_NAME.match(model) and not (params.get("api_base") or params.get("base_url")):
            raise NotCarriedError("names no provider and has no api_base: write both, and run this again")
        prefix, rest = "openai", model
    if prefix not in PROVIDERS:
        raise NotCarriedError(FOREIGN.get(prefix, FOREIGN["*"]).format(provider=prefix))
    if not rest or "*" in rest or model.startswith(_ENVIRONMENT):
        raise NotCarriedError("stands for more than one model: write an entry for each")
    folder = PROVIDERS[prefix].folder
    return prefix, rest if rest.startswith(folder.partition("/")[0]) else folder + rest


def _url(stated: Any, known: Provider) -> str:
    """The backend's URL: where LiteLLM asks `api_base` plus /chat/completions, the gateway is to ask there too."""
    if not isinstance(stated, str) or stated.startswith(_ENVIRONMENT):
        raise NotCarriedError("its api_base is not in the file: write it there, and run this again")
    # As an address to connect to, the unspecified one means this machine; the gateway does not accept it.
    url = stated.rstrip("/").replace("//0.0.0.0", "//127.0.0.1", 1)
    try:
        check_url(url, _ANY_ADDRESS)
    except UsageError as exc:  # its text begins with the URL, which may hold a password
        raise NotCarriedError(
            f"its api_base cannot be used; {str(exc).removeprefix(f'{without_credentials(url)}: ')}"
        ) from exc
    return url if known.is_under_v1 or versioned(url) == url else f"{url}/chat/completions"


def _key(stated: Any, known: Provider | None) -> Key:
    """A backend's key; without one LiteLLM takes the variable of the provider, if it is `known` by its own address."""
    if stated is None:
        return Key(env=known.key_env if known else None)
    variable = variable_in(stated)
    if variable is not None or str(stated).lower() in NO_KEY:
        return Key(env=variable)
    return Key(literal=str(stated))


def variable_in(stated: Any) -> str | None:
    """The environment variable that a value refers to."""
    return stated.removeprefix(_ENVIRONMENT) or None if str(stated).startswith(_ENVIRONMENT) else None


def _claims(place: Place, entry: Mapping[str, Any], source: str) -> Iterator[tuple[str, Claim]]:
    info, region = entry.get("model_info") or {}, entry["litellm_params"].get("region_name")
    prices, costs = _prices(entry)
    if {"input_usd_per_m", "output_usd_per_m"} <= prices.keys():
        yield "price", Claim(Fact(prices, f"{source}, costs per token"), tuple((*place, *cost) for cost in costs))
    for key, meaning in (("max_input_tokens", "all it may read"), ("max_tokens", "all it may write, or read")):
        if type(info.get(key)) is int and info[key] > 0:
            fact = Fact(info[key], f"{source}.model_info.{key}: {meaning}; the context may be longer", is_guess=True)
            yield "context_tokens", Claim(fact, ((*place, "model_info", key),))
            break
    flags = [flag for flag in FLAGS if isinstance(info.get(flag), bool)]
    if flags or info.get("mode"):
        able = [info.get("mode") or "chat", *(FLAGS[flag] for flag in flags if info[flag])]
        fact = Fact(able, f"{source}.model_info", is_guess=len(flags) < len(FLAGS))
        stated = [key for key in (*flags, "mode") if info.get(key) is not None]
        yield "capabilities", Claim(fact, tuple((*place, "model_info", key) for key in stated))
    if isinstance(region, str) and variable_in(region) is None:
        fact = Fact([region], f"{source}.litellm_params.region_name")
        yield "regions", Claim(fact, ((*place, "litellm_params", "region_name"),))


def _prices(entry: Mapping[str, Any]) -> tuple[dict[str, float], list[Place]]:
    """Prices per million tokens, and the costs per token behind them; model_info's hold, and those that agree."""
    prices: dict[str, float] = {}
    costs: list[Place] = []
    for cost, name in COSTS.items():
        for section in ("model_info", "litellm_params"):
            price = _usd_per_m((entry.get(section) or {}).get(cost))
            if price is not None and prices.setdefault(name, price) == price:
                costs.append((section, cost))
    return prices, costs


def _usd_per_m(usd_per_token: Any) -> float | None:
    """Also of a string: YAML takes 5e-7, without a point, for one. Nine digits, so that no noise of floats shows."""
    try:
        price = Decimal(str(usd_per_token)) * 1_000_000
    except InvalidOperation:
        return None
    return float(f"{price:.9g}") if price.is_finite() and price >= 0 else None
