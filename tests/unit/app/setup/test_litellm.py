"""LiteLLM's configuration as a draft: each leaf of five configurations stands in it, or is listed with a reason."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.errors import UsageError
from app.settings import load_settings
from app.setup.draft import Draft, DraftBackend, DraftModel
from app.setup.litellm import read_litellm
from app.setup.litellm_tables import PROVIDERS
from app.upstream.http.addresses import versioned

FOLDER = Path(__file__).parent / "litellm"
NO_LIMITS = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency", "budget"))
MASTER = {**NO_LIMITS, "id": "master", "models": ["*"]}

# By configuration: where a leaf stands in its file, where in the draft, and as what.
CARRIED: dict[str, dict[str, tuple[str, Any]]] = {
    "quick_start": {
        "model_list[0].model_name": ("models[0].name", "daily"),
        "model_list[0].litellm_params.model": ("models[0].served_as", "gpt-4o-mini"),
        "model_list[0].litellm_params.api_key": ("backends[0].key_env", "OPENAI_API_KEY"),
        "model_list[1].model_name": ("models[1].name", "careful"),
        "model_list[1].litellm_params.model": ("models[1].served_as", "gpt-4.1"),
        "model_list[1].litellm_params.api_key": ("backends[0].key_env", "OPENAI_API_KEY"),
        "model_list[2].model_name": ("models[2].name", "lab/tiny"),
        "model_list[2].litellm_params.model": ("models[2].served_as", "HuggingFaceTB/SmolLM2-360M-Instruct"),
        "model_list[2].litellm_params.api_base": ("backends[1].urls", ["http://127.0.0.1:8010/v1"]),
    },
    "balanced": {
        **{f"model_list[{n}].model_name": ("models[0].name", "chat") for n in range(3)},
        **{
            f"model_list[{n}].litellm_params.model": ("models[0].served_as", "meta-llama/Llama-3.1-8B-Instruct")
            for n in range(3)
        },
        **{f"model_list[{n}].litellm_params.api_key": ("backends[0].key_env", "FARM_KEY") for n in range(3)},
        "model_list[0].litellm_params.api_base": ("backends[0].urls[0]", "https://one.example.org/v1"),
        "model_list[1].litellm_params.api_base": ("backends[0].urls[1]", "https://two.example.org/v1"),
        "model_list[2].litellm_params.api_base": ("backends[0].urls[2]", "https://three.example.org/v1"),
        "model_list[0].model_info.max_tokens": ("models[0].card.context_tokens.value", 8192),
        "model_list[1].model_info.max_tokens": ("models[0].card.context_tokens.value", 8192),
        "model_list[6].model_name": ("models[1].name", "large"),
        "model_list[6].litellm_params.model": ("models[1].served_as", "llama-3.3-70b-versatile"),
        "model_list[6].litellm_params.api_key": ("backends[1].key_env", "GROQ_API_KEY"),
        "model_list[7].model_name": ("models[2].name", "spare"),
        "model_list[7].litellm_params.model": ("models[2].served_as", "openai/gpt-oss-120b"),
        "model_list[7].litellm_params.api_key": ("backends[1].key_env", "GROQ_API_KEY"),
        "router_settings.num_retries": ("gateway.upstream.max_attempts", 3),
        "router_settings.timeout": ("gateway.upstream.total_timeout_s", 45),
        "router_settings.stream_timeout": ("gateway.upstream.first_byte_timeout_s", 12.5),
        "router_settings.fallbacks[0].chat[0]": ("gateway.profiles.chat.order", ["chat", "large", "spare"]),
        "router_settings.fallbacks[0].chat[1]": ("gateway.profiles.chat.limits.models", ["chat", "large", "spare"]),
        "router_settings.fallbacks[1].large[0]": ("gateway.profiles.large.order", ["large", "spare"]),
    },
    "self_hosted": {
        **{f"model_list[{n}].model_name": ("models[0].name", "coder") for n in (0, 1)},
        **{
            f"model_list[{n}].litellm_params.model": ("models[0].served_as", "Qwen/Qwen2.5-Coder-32B-Instruct")
            for n in (0, 1)
        },
        **{f"model_list[{n}].litellm_params.api_key": ("backends[0].key_env", "WORKERS_KEY") for n in (0, 1)},
        "model_list[0].litellm_params.api_base": ("backends[0].urls[0]", "http://10.1.0.11:8000"),
        "model_list[1].litellm_params.api_base": ("backends[0].urls[1]", "http://10.1.0.12:8000"),
        **{f"model_list[{n}].litellm_params.region_name": ("models[0].card.regions.value", ["eu"]) for n in (0, 1)},
        "model_list[0].model_info.input_cost_per_token": ("models[0].price.value.input_usd_per_m", 0.25),
        "model_list[0].model_info.output_cost_per_token": ("models[0].price.value.output_usd_per_m", 0.3),
        "model_list[0].model_info.cache_read_input_token_cost": ("models[0].price.value.cached_input_usd_per_m", 0.07),
        **{
            f"model_list[{n}].model_info.max_input_tokens": ("models[0].card.context_tokens.value", 32768)
            for n in (0, 1)
        },
        **{
            f"model_list[{n}].model_info.{key}": ("models[0].card.capabilities.value", ["chat", "tools", "json_schema"])
            for n in (0, 1)
            for key in ("mode", "supports_function_calling", "supports_vision", "supports_response_schema")
        },
        "model_list[2].model_name": ("models[1].name", "eyes"),
        "model_list[2].litellm_params.model": ("models[1].served_as", "Qwen/Qwen2.5-VL-7B-Instruct"),
        "model_list[2].litellm_params.api_base": ("backends[1].urls", ["http://10.1.0.11:8000"]),
        "model_list[2].litellm_params.api_key": ("backends[1].key_env", "WORKERS_KEY"),
        "model_list[2].model_info.supports_vision": ("models[1].card.capabilities.value", ["chat", "vision"]),
        "model_list[2].model_info.max_tokens": ("models[1].card.context_tokens.value", 16384),
        "model_list[3].model_name": ("models[2].name", "continue"),
        "model_list[3].litellm_params.model": ("models[2].served_as", "bigcode/starcoder2-7b"),
        "model_list[3].litellm_params.api_base": ("backends[2].urls", ["http://workers.internal:8001/v1"]),
        "model_list[3].litellm_params.input_cost_per_token": ("models[2].price.value.input_usd_per_m", 0),
        "model_list[3].litellm_params.output_cost_per_token": ("models[2].price.value.output_usd_per_m", 0),
        "model_list[3].model_info.mode": ("models[2].card.capabilities.value", ["completion"]),
        "model_list[5].model_name": ("models[3].name", "at-home"),
        "model_list[5].litellm_params.model": ("models[3].served_as", "llama3.2"),
        "model_list[5].litellm_params.api_base": ("backends[3].urls", ["http://localhost:11434"]),
        "litellm_settings.request_timeout": ("gateway.upstream.total_timeout_s", 120),
    },
    "providers": {
        **{
            f"model_list[{n}].model_name": (f"models[{n}].name", name)
            for n, name in enumerate(
                [
                    "gpt",
                    "gpt-other-account",
                    "llama-fast",
                    "llama-cheap",
                    "deepseek",
                    "mistral",
                    "any",
                    "fireworks",
                    "grok",
                    "searching",
                    "own",
                ]
            )
        },
        **{
            f"model_list[{n}].litellm_params.model": (f"models[{n}].served_as", served_as)
            for n, served_as in enumerate(
                [
                    "gpt-4.1",
                    "gpt-4.1-mini",
                    "llama3.1-8b",
                    "meta-llama/Llama-3.3-70B-Instruct-Turbo",
                    "deepseek-chat",
                    "mistral-small-latest",
                    "anthropic/claude-3.5-haiku",
                    "accounts/fireworks/models/llama-v3p1-8b-instruct",
                    "grok-3-mini",
                    "sonar",
                    "house-model",
                ]
            )
        },
        **{
            f"model_list[{n}].litellm_params.api_key": (f"backends[{n}].key_env", f"{name}_API_KEY")
            for n, name in enumerate(
                ["TOGETHERAI", "DEEPSEEK", "MISTRAL", "OPENROUTER", "FIREWORKS", "XAI", "PERPLEXITYAI"], 3
            )
        },
        "model_list[10].litellm_params.custom_llm_provider": ("backends[10].kind", "openai"),
        "model_list[10].litellm_params.api_base": (
            "backends[10].urls",
            ["https://llm.example.org/serve/chat/completions"],
        ),
    },
    "settings": {
        "model_list[0].model_name": ("models[0].name", "only"),
        "model_list[0].litellm_params.model": ("models[0].served_as", "mistral-large-latest"),
        "model_list[0].litellm_params.api_key": ("backends[0].key_env", "MISTRAL_API_KEY"),
        "model_list[0].model_info.supports_function_calling": ("models[0].card.capabilities.value", ["chat", "tools"]),
        "general_settings.master_key": ("gateway.keys", [{**MASTER, "secret_env": "PROXY_MASTER_KEY"}]),
        "general_settings.global_max_parallel_requests": ("gateway.limits.in_flight", 200),
    },
}


def draft_of(name: str) -> Draft:
    return read_litellm(FOLDER / f"{name}.yaml")


def leaves(value: Any, place: str = "") -> Iterator[str]:
    """Paths of all values of a tree, by code of its own."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{place}[{index}]")
    else:
        yield place


def listed(line: str) -> list[str]:
    """Paths that a line of `left_out` names; none where it is about no leaf."""
    match = re.match(r"(\S+?)(?: \(([^)]*)\))?: ", line)
    if match is None:
        return []
    place, parts = match.groups()
    return [place + ("" if part[0] == "[" else ".") + part for part in parts.split(", ")] if parts else [place]


def stands_at(draft: Draft, path: str) -> Any:
    value: Any = asdict(draft)
    for part in re.findall(r"[^.\[\]]+", path):
        value = value[int(part) if isinstance(value, list) else part]
    return value


@pytest.mark.parametrize("name", CARRIED)
def test_each_leaf_is_carried_or_listed_and_none_is_both(name: str) -> None:
    draft = draft_of(name)
    left = [path for line in draft.left_out for path in listed(line)]
    assert len(left) == len(set(left))
    assert not CARRIED[name].keys() & set(left)
    assert sorted([*CARRIED[name], *left]) == sorted(leaves(yaml.safe_load((FOLDER / f"{name}.yaml").read_text())))


@pytest.mark.parametrize(
    ("name", "target", "value"), [(name, *claim) for name, claims in CARRIED.items() for claim in claims.values()]
)
def test_what_is_carried_stands_in_the_draft(name: str, target: str, value: Any) -> None:
    assert stands_at(draft_of(name), target) == value


@pytest.mark.parametrize("name", CARRIED)
def test_a_key_of_tomorrow_is_listed_wherever_it_stands(name: str, tmp_path: Path) -> None:
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    for place in [(), *_mappings(content)]:
        changed = copy.deepcopy(content)
        inner = changed
        for part in place:
            inner = inner[part]
        inner["of_tomorrow"] = {"more": [1]}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed))
        left = [path for line in read_litellm(tmp_path / "config.yaml").left_out for path in listed(line)]
        assert [path for path in left if path.endswith("of_tomorrow.more[0]")], place


def _mappings(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(inner, dict):
                yield (*place, key)
            yield from _mappings(inner, (*place, key))


@pytest.mark.parametrize("name", CARRIED)
def test_the_draft_makes_files_that_the_gateway_accepts(name: str, tmp_path: Path) -> None:
    draft = draft_of(name)
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(_catalogue(draft)))
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({"catalog": "catalog.yaml", **draft.gateway}))
    variables = [backend.key_env for backend in draft.backends] + [
        key["secret_env"] for key in draft.gateway.get("keys", [])
    ]

    settings = load_settings(tmp_path / "gateway.yaml", {name: "secret" for name in variables if name})

    assert [model.name for model in settings.catalog.models] == [model.name for model in draft.models]


def test_the_key_that_had_no_limits_has_none_here(tmp_path: Path) -> None:
    draft = draft_of("settings")
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(_catalogue(draft)))
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({"catalog": "catalog.yaml", **draft.gateway}))

    environment = {"MISTRAL_API_KEY": "secret", "PROXY_MASTER_KEY": "s" * 32}
    ((_, master),) = load_settings(tmp_path / "gateway.yaml", environment).keys

    assert {name: getattr(master, name) for name in NO_LIMITS} == NO_LIMITS


def _catalogue(draft: Draft) -> dict[str, Any]:
    backends = [{key: value for key, value in asdict(backend).items() if value} for backend in draft.backends]
    return {"models": [_entry(model) for model in draft.models], "backends": backends}


def _entry(model: DraftModel) -> dict[str, Any]:
    card = {"context_tokens": 8192} | {field: fact.value for field, fact in model.card.items()}
    price = {"price": model.price.value} if model.price else {}
    return {"name": model.name, "served_as": model.served_as, "backend": model.backend, "card": card, **price}


@pytest.mark.parametrize("name", CARRIED)
def test_no_secret_of_the_file_is_in_the_draft(name: str) -> None:
    assert "sk-made-up" not in repr(draft_of(name))


LAB = {"model": "openai/deepseek-v3", "api_base": "http://10.0.0.5:8000/v1", "api_key": "sk-made-up"}
OWN = {"model": "openai/gpt-4.1", "api_key": "sk-made-up"}


@pytest.mark.parametrize(
    ("name", "deployments", "variable"),
    [
        ("deepseek", [LAB], "KEY_OF_DEEPSEEK"),
        ("openai", [LAB], "KEY_OF_OPENAI"),
        ("daily", [LAB | {"model": "deepseek/deepseek-chat"}], "KEY_OF_DAILY"),
        ("daily", [LAB | {"custom_llm_provider": "deepseek"}], "KEY_OF_DAILY"),
        ("daily", [OWN, OWN | {"api_base": "http://10.0.0.5:8000/v1"}], "KEY_OF_OPENAI"),
        ("daily", [OWN], "OPENAI_API_KEY"),
        ("daily", [OWN | {"api_base": "https://api.openai.com/v1"}], "OPENAI_API_KEY"),
    ],
)
def test_a_providers_variable_is_for_the_providers_own_address_only(
    name: str, deployments: list[dict[str, str]], variable: str, tmp_path: Path
) -> None:
    """What it holds on the operator's machine is the key of another account."""
    listed_models = [{"model_name": name, "litellm_params": params} for params in deployments]
    draft = read(tmp_path, yaml.safe_dump({"model_list": listed_models}))
    assert [len(backend.urls) for backend in draft.backends] == [len(deployments)]
    assert draft.backends[0].key_env == variable


def test_a_key_in_plain_text_goes_into_a_variable_that_no_other_key_is_in() -> None:
    draft = draft_of("providers")
    assert [backend.key_env for backend in draft.backends[:2]] == ["OPENAI_API_KEY", "OPENAI_API_KEY_2"]
    assert draft.left_out[0].endswith("put it into the environment variable OPENAI_API_KEY, which the catalogue names")


def test_a_provider_without_a_key_in_the_file_has_the_variable_that_litellm_takes() -> None:
    assert draft_of("providers").backends[2] == DraftBackend(
        "cerebras", "openai", ["https://api.cerebras.ai/v1"], key_env="CEREBRAS_API_KEY"
    )


def test_private_addresses_are_allowed_and_no_others() -> None:
    coder, _, by_name, _ = draft_of("self_hosted").backends
    assert (coder.kind, coder.allow_cidr) == ("vllm", ["10.1.0.11/32", "10.1.0.12/32"])
    assert by_name.allow_cidr == []


def test_what_may_be_read_or_written_is_a_guess_at_the_context() -> None:
    coder, eyes, unknown, _ = draft_of("self_hosted").models
    readable, writable = coder.card["context_tokens"], eyes.card["context_tokens"]
    assert readable.is_guess
    assert "max_input_tokens: all it may read" in readable.source
    assert writable.is_guess
    assert "all it may write, or read" in writable.source
    assert unknown.open[0].startswith("How many tokens")


def test_capabilities_are_a_guess_until_all_are_stated() -> None:
    coder, eyes, *_ = draft_of("self_hosted").models
    assert not coder.card["capabilities"].is_guess
    assert eyes.card["capabilities"].is_guess


def test_who_had_fallbacks_by_name_hears_that_the_profile_is_no_chain() -> None:
    """Its order holds only where nothing is predicted."""
    assert draft_of("balanced").left_out[-2:] == [
        f"fallbacks of {name}: a model that is asked for by name is asked alone; auto:{name} chooses among them by "
        "quality, not in this order, and goes on to the next where one fails"
        for name in ("chat", "large")
    ]


@pytest.mark.parametrize("provider", [provider for provider in PROVIDERS.values() if provider.url])
def test_a_providers_fixed_address_is_one_that_the_gateway_asks_as_it_stands(provider: Any) -> None:
    whole = provider.url.removesuffix("/chat/completions")
    assert versioned(provider.url) == (whole if not provider.is_under_v1 else f"{whole}/v1")


def read(tmp_path: Path, text: str) -> Draft:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return read_litellm(path)


def entry(**params: Any) -> str:
    return yaml.safe_dump({"model_list": [{"model_name": "m", "litellm_params": {"model": "openai/m", **params}}]})


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://h.example.org/v1/", "https://h.example.org/v1"),
        ("https://h.example.org/v1beta", "https://h.example.org/v1beta"),
        ("https://h.example.org", "https://h.example.org/chat/completions"),
        ("https://h.example.org/v1/openai", "https://h.example.org/v1/openai/chat/completions"),
    ],
)
def test_the_gateway_asks_where_litellm_did(address: str, url: str, tmp_path: Path) -> None:
    assert read(tmp_path, entry(api_base=address)).backends[0].urls == [url]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("os.environ/BASE", "its api_base is not in the file"),
        ("h.example.org", "write a URL such as"),
        ("http://169.254.169.254/v1", "nothing is ever asked at link-local"),
        ("https://me:sk-made-up@h.example.org/v1", "leave out user, password"),
        ("http://me:sk-made-up@[bad/v1", "write a URL such as"),
        ("http://me:sk-made-up@h.example.org/v 1", "leave out the space"),
    ],
)
def test_an_address_that_cannot_be_used_leaves_the_entry_out(address: str, reason: str, tmp_path: Path) -> None:
    draft = read(tmp_path, entry(api_base=address))
    assert draft.models == []
    assert reason in draft.left_out[0]
    assert "sk-made-up" not in repr(draft)


@pytest.mark.parametrize(
    ("costs", "price"),
    [
        ((1.5e-7, 6e-7), {"input_usd_per_m": 0.15, "output_usd_per_m": 0.6}),
        (("5e-7", 0.1 + 0.2), {"input_usd_per_m": 0.5, "output_usd_per_m": 300000.0}),
        ((1e-6, None), None),
        ((-1e-6, 1e-6), None),
        ((float("inf"), 1e-6), None),
        ((True, 1e-6), None),
    ],
)
def test_costs_per_token_become_a_price_per_million_without_noise(costs: Any, price: Any, tmp_path: Path) -> None:
    draft = read(tmp_path, entry(input_cost_per_token=costs[0], output_cost_per_token=costs[1]))
    found = draft.models[0].price
    assert (found.value if found else None) == price
    assert bool(draft.left_out) == (price is None)


@pytest.mark.parametrize("name", ["auto", "auto:cheap", "*", "-m", "with space", "n" * 129])
def test_a_name_that_the_catalogue_refuses_is_listed(name: str, tmp_path: Path) -> None:
    draft = read(tmp_path, yaml.safe_dump({"model_list": [{"model_name": name, "litellm_params": {"model": "xai/m"}}]}))
    assert draft.models == []
    assert "names are letters" in draft.left_out[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model_list: [", "line 1 column 14: "),
        ("", "model_list: expected a list of models"),
        ("- a", "model_list: expected a list of models"),
        ("litellm_settings: {}", "model_list: expected a list of models"),
        ("model_list: []", "model_list: expected a list of models"),
        ("model_list: [gpt]", "model_list[0]: expected a mapping with model_name and litellm_params"),
        ("model_list: [{model_name: a}]", "model_list[0].litellm_params: expected a mapping with model"),
        (
            "model_list: [{model_name: a, litellm_params: {}}]",
            "model_list[0].litellm_params.model: expected a provider and its name of the model, such as openai/gpt-4o",
        ),
        (
            "model_list: [{model_name: 4, litellm_params: {model: xai/m}}]",
            "model_list[0].model_name: expected the name that callers use",
        ),
        (
            "model_list: [{model_name: a, litellm_params: {model: xai/m}, model_info: 3}]",
            "model_list[0].model_info: expected a mapping",
        ),
        (
            "router_settings: [1]\nmodel_list: [{model_name: a, litellm_params: {model: xai/m}}]",
            "router_settings: expected a mapping",
        ),
        ("model_list: []\nmodel_list: []", "line 2 column 1: the key 'model_list' occurs twice"),
    ],
)
def test_what_is_no_litellm_configuration_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'config.yaml'}: {problem}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory; say where it is with --from-litellm"):
        read_litellm(tmp_path / "config.yaml")
