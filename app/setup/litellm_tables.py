"""What is known of LiteLLM's configuration: providers, fields, and what there is here instead of a setting.

Addresses and variables are those of LiteLLM's documentation; that OpenAI's API is spoken there was looked up in the
providers' own, where it could be had.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Provider:
    """A prefix of `litellm_params.model` behind which OpenAI's API is spoken."""

    url: str | None = None
    """Where it is, unless the entry says so; None has no fixed address."""
    key_env: str | None = None
    """The variable that LiteLLM takes its key from, unless the entry says so."""
    kind: str = "openai"
    is_under_v1: bool = False
    """Whether its API is under `/v1` of an `api_base`, said or not; else it is right under it."""
    folder: str = ""
    """What LiteLLM puts before a model's name that has none of it."""


PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "custom_openai": Provider(),
    "openai_like": Provider(),
    "hosted_vllm": Provider(kind="vllm", is_under_v1=True),
    "ollama": Provider("http://localhost:11434", is_under_v1=True),
    "ollama_chat": Provider("http://localhost:11434", is_under_v1=True),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "together_ai": Provider("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "fireworks_ai": Provider(
        "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", folder="accounts/fireworks/models/"
    ),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY"),
    "cerebras": Provider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "perplexity": Provider("https://api.perplexity.ai/chat/completions", "PERPLEXITYAI_API_KEY"),
    "deepinfra": Provider("https://api.deepinfra.com/v1/openai/chat/completions", "DEEPINFRA_API_KEY"),
    "nvidia_nim": Provider("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
}

FOREIGN = {
    "*": "{provider} is not known to speak OpenAI's API; if it does, add a backend of kind openai",
    "anthropic": "anthropic speaks an API of its own; it calls its OpenAI form one for tests: add a "
    "backend of kind openai with the URL https://api.anthropic.com/v1 if that is enough",
    "azure": "azure's addresses with an api_version are not OpenAI's; its newer ones are: add a backend of kind openai "
    "with the URL https://YOUR-RESOURCE.openai.azure.com/openai/v1",
    "bedrock": "bedrock speaks an API of its own, with signed requests",
    "gemini": "gemini speaks an API of its own; Google has OpenAI's too: add a backend of kind openai with the URL "
    "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
    "vertex_ai": "vertex_ai speaks an API of its own, with tokens that expire",
}
"""Why providers are not carried over."""

# A name without a provider that LiteLLM takes for OpenAI's. Its list has every model; these are their beginnings.
OPENAI_NAME = re.compile(r"(ft:)?(gpt-|chatgpt-|o\d)")
NO_KEY = frozenset({"", "none", "empty"})
"""What stands in place of a key, in LiteLLM's documentation and vLLM's, for servers that want none."""

FLAGS = {"supports_function_calling": "tools", "supports_vision": "vision", "supports_response_schema": "json_schema"}
COSTS = {
    "input_cost_per_token": "input_usd_per_m",
    "output_cost_per_token": "output_usd_per_m",
    "cache_read_input_token_cost": "cached_input_usd_per_m",
}

NO_CHAIN = (
    "fallbacks of {name}: a model that is asked for by name is asked alone; {virtual} chooses among them by quality, "
    "not in this order, and goes on to the next where one fails"
)

_PRICE = "a price needs input_cost_per_token and output_cost_per_token, and stands in one place"
_HEADERS = "the gateway sends no headers or bodies of its own to a backend"
_DEADLINES = "deadlines are the gateway's, in upstream of gateway.yaml, and a request's own deadline_s"
_RESTS = "five failures in a row eject a replica, which is probed after 10 s; what is over its rate limit rests"
_BUDGETS = "budgets are of keys: budget: {usd: 10, per: day} in gateway.yaml, or thalamus keys create --budget 10/day"
_OBSERVED = "there are metrics under /metrics of admin_listen, one log event for each request, and decision records"
_REDIS = "what gateways share is in the Redis that store names in gateway.yaml"
_NEXT = "a request for `auto` goes on to the next of the ranked models, without a list"
_FITS = "a request for `auto` goes to models whose context_tokens it fits into"
_REFUSAL = "a refusal is an answer here, and is not tried elsewhere"
_FALLBACKS = "only chains between models of the catalogue become a profile"
_NO_DATABASE = "models are in files; keys are too, or thalamus keys create makes them in state_dir or in store"
_CHOICE = "a router model chooses between models, and the least loaded replica of a backend is asked"

_INSTEAD: Mapping[str, str] = {
    "model_list.litellm_params": "a parameter of requests, or of LiteLLM's client: callers send their own",
    "model_list.litellm_params.rpm": "requests are limited for each key: requests_per_minute",
    "model_list.litellm_params.tpm": "tokens are limited for each key: tokens_per_minute",
    "model_list.litellm_params.max_parallel_requests": "backends have max_connections, which all of their models share",
    "model_list.litellm_params.max_tokens": "callers send max_tokens; max_output_tokens in a key's routing caps them",
    "model_list.litellm_params.weight": _CHOICE,
    "model_list.litellm_params.order": "a profile's order says which model is tried first where nothing is predicted",
    "model_list.litellm_params.timeout": _DEADLINES,
    "model_list.litellm_params.stream_timeout": _DEADLINES,
    "model_list.litellm_params.num_retries": "attempts are the gateway's: upstream.max_attempts",
    "model_list.litellm_params.max_retries": "attempts are the gateway's: upstream.max_attempts",
    "model_list.litellm_params.max_budget": _BUDGETS,
    "model_list.litellm_params.budget_duration": _BUDGETS,
    "model_list.litellm_params.extra_headers": _HEADERS,
    "model_list.litellm_params.extra_body": _HEADERS,
    "model_list.litellm_params.organization": _HEADERS,
    "model_list.litellm_params.drop_params": "a backend's rename leaves out a field that it refuses: null",
    "model_list.litellm_params.tags": "a key's models say which it may use",
    **{f"model_list.litellm_params.{cost}": _PRICE for cost in COSTS},
    **{f"model_list.model_info.{cost}": _PRICE for cost in COSTS},
    "model_list.model_info": "the catalogue has no such field",
    "model_list.model_info.max_tokens": "is the most it may write; the card has the context only",
    "model_list.model_info.max_output_tokens": "is the most it may write; the card has the context only",
    "model_list.model_info.base_model": "if an artifact knows the model, name its column in predicted_as",
    "model_list.model_info.access_groups": "a key's models are patterns of the names that it may use",
    "router_settings": "is about LiteLLM's router: " + _CHOICE,
    "router_settings.routing_strategy": _CHOICE,
    "router_settings.routing_strategy_args": _CHOICE,
    "router_settings.fallbacks": _FALLBACKS,
    "router_settings.default_fallbacks": _NEXT,
    "router_settings.context_window_fallbacks": _FITS,
    "router_settings.content_policy_fallbacks": _REFUSAL,
    "router_settings.model_group_alias": "a model has one name; a second entry of the catalogue can serve the same one",
    "router_settings.enable_pre_call_checks": "limits, regions and context are always checked before a call",
    "router_settings.allowed_fails": _RESTS,
    "router_settings.allowed_fails_policy": _RESTS,
    "router_settings.cooldown_time": _RESTS,
    "router_settings.disable_cooldowns": _RESTS,
    "router_settings.retry_policy": "only failures of a backend lead to another attempt, up to upstream.max_attempts",
    "router_settings.retry_after": "another attempt goes to another replica or model, at once",
    "router_settings.provider_budget_config": _BUDGETS,
    **{f"router_settings.redis_{part}": _REDIS for part in ("host", "port", "password", "url", "db")},
    "litellm_settings": "is a setting of LiteLLM's library, and has none like it here",
    "litellm_settings.fallbacks": _FALLBACKS,
    "litellm_settings.default_fallbacks": _NEXT,
    "litellm_settings.context_window_fallbacks": _FITS,
    "litellm_settings.content_policy_fallbacks": _REFUSAL,
    "litellm_settings.allowed_fails": _RESTS,
    "litellm_settings.cooldown_time": _RESTS,
    "litellm_settings.callbacks": _OBSERVED,
    "litellm_settings.success_callback": _OBSERVED,
    "litellm_settings.failure_callback": _OBSERVED,
    "litellm_settings.service_callbacks": _OBSERVED,
    "litellm_settings.cache": "answers are not cached",
    "litellm_settings.cache_params": "answers are not cached",
    "litellm_settings.drop_params": "callers set `require_parameters: true` where every parameter must be honoured",
    "litellm_settings.max_budget": _BUDGETS,
    "litellm_settings.budget_duration": _BUDGETS,
    "litellm_settings.turn_off_message_logging": "prompts and answers stay out of the logs anyway",
    "litellm_settings.json_logs": "logs are JSON anyway",
    "general_settings": "is about LiteLLM's proxy, and has none like it here",
    "general_settings.database_url": _NO_DATABASE,
    "general_settings.store_model_in_db": _NO_DATABASE,
    "general_settings.database_connection_pool_limit": _NO_DATABASE,
    "general_settings.database_connection_timeout": _NO_DATABASE,
    "general_settings.alerting": _OBSERVED + "; alerts are Prometheus's",
    "general_settings.alerting_threshold": _OBSERVED + "; alerts are Prometheus's",
    "general_settings.max_parallel_requests": "backends have max_connections, and a key its concurrency",
    "general_settings.max_request_size_mb": "limits.body_bytes is the place for it",
    "general_settings.background_health_checks": "replicas are probed anyway",
    "general_settings.health_check_interval": "replicas are probed anyway",
    "environment_variables": "set it in the environment in which thalamus starts, if it is still needed",
    "credential_list": "a backend's key is in the environment variable that its key_env names",
    "guardrails": "prompts and answers are not changed or held back",
    "include": "only this file was read: put the other's content into it, and run this again",
    "mcp_servers": "there are no MCP servers here",
}
"""What there is here instead, or that there is nothing; by path without indices, of which the longest holds."""
_NOTHING = "is not known, and nothing was made of it"


def explained(place: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], str]:
    """The longest beginning of a place that there is a word about, and that word."""
    for end in range(len(place), 0, -1):
        path = ".".join(str(part) for part in place[:end] if isinstance(part, str))
        if path in _INSTEAD and isinstance(place[end - 1], str):
            return place[:end], _INSTEAD[path]
    return place, _NOTHING
