"""Models recognised by name, the table behind it, and the columns of an artifact that they are."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.setup.known import TABLE, Known, column_of, recognise

MODELS: dict[str, dict[str, Any]] = yaml.safe_load(TABLE.read_bytes())["models"]
MANIFEST = json.loads(Path("router_models/artifacts/public-v1/manifest.json").read_bytes())
COLUMNS: list[str] = MANIFEST["models"]
ALIASES: dict[str, str] = MANIFEST["aliases"]


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        # Publisher, case, separators, quantisation.
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-it"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b-it"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "qwen2.5-7b-it"),
        ("Qwen/Qwen2.5-72B-Instruct", "qwen2.5-72b-it"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b-it"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b-it"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-it"),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "llama-3.1-8b-it"),
        ("amd/Llama-3.1-405B-Instruct-FP8-KV", "llama-3.1-405b-it"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "llama-3.1-8b-it"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b-it"),
        ("/models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "llama-3.1-8b-it"),
        ("google/gemma-3-27b-it-qat-q4_0-gguf", "gemma-3-27b-it"),
        ("microsoft/phi-4", "phi-4"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "deepseek-r1-distill-qwen-32b"),
        ("internlm/internlm2_5-20b-chat", "internlm2.5-20b-it"),
        # How Ollama, Fireworks, Bedrock, Groq, Together and OpenRouter write them.
        ("llama3.1:8b-instruct-q4_K_M", "llama-3.1-8b-it"),
        ("llama3.1:8b", "llama-3.1-8b-it"),
        ("mixtral:8x7b", "mixtral-8x7b-it-v0.1"),
        ("deepseek-r1:7b", "deepseek-r1-distill-qwen-7b"),
        ("gpt-oss:20b", "gpt-oss-20b"),
        ("hf.co/bartowski/Llama-3.3-70B-Instruct-GGUF:Q4_K_M", "llama-3.3-70b-it"),
        ("accounts/fireworks/models/llama-v3p1-70b-instruct", "llama-3.1-70b-it"),
        ("meta.llama3-1-8b-instruct-v1:0", "llama-3.1-8b-it"),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3.5-sonnet-20241022"),
        ("openai.gpt-oss-120b-1:0", "gpt-oss-120b"),
        ("llama-3.3-70b-versatile", "llama-3.3-70b-it"),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "llama-3.3-70b-it"),
        ("deepseek/deepseek-chat-v3-0324:free", "deepseek-v3-0324"),
        # Services; a date is its own model where the table has it.
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai/gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-5-chat-latest", "gpt-5-chat"),
        ("gpt-3.5-turbo-instruct", "gpt-3.5-turbo-instruct"),
        ("models/gemini-1.5-pro", "gemini-1.5-pro"),
        ("gemini-1.5-pro-002", "gemini-1.5-pro-002"),
        ("anthropic/claude-3.5-sonnet", "claude-3.5-sonnet-20241022"),
        ("claude-3-5-sonnet-20240620", "claude-3.5-sonnet-20240620"),
        ("claude-3-5-haiku@20241022", "claude-3.5-haiku-20241022"),
        ("mistral-small-latest", "mistral-small-4"),
        ("mistral-large-2407", "mistral-large-it-2407"),
        ("deepseek-chat", "deepseek-chat"),
        ("amazon.nova-lite-v1:0", "nova-lite"),
        ("CohereForAI/c4ai-command-r-v01", "command-r-v01"),
        ("BAAI/bge-m3", "bge-m3"),
        # Base models.
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b-v0.1"),
        ("Qwen/Qwen2.5-7B", "qwen2.5-7b"),
    ],
)
def test_a_providers_name_is_recognised(served: str, expected: str) -> None:
    assert known(served).name == expected


@pytest.mark.parametrize(
    "served",
    [
        "",
        "my-model",
        "auto",
        "模型",
        "qwen2.5",
        "qwen2.5-1b-instruct",
        "Qwen/Qwen2.5-7B-Instruct-1M",
        "Qwen/Qwen2.5-Math-7B-Instruct",
        "Qwen/Qwen2.5-17B-Instruct",
        "llama-3-1.8b-instruct",
        "llama3.1:latest",
        "meta-llama/Llama-Guard-3-8B",
        "NousResearch/Hermes-3-Llama-3.1-8B",
        "someone/Llama-3.1-8B-Instruct-medical",
        "mistralai/Mistral-7B-Instruct-v0.9",
        "mistralai/Mistral-Small-3.1-24B-Base-2503",
        "Qwen/Qwen3-8B-Base",
        "starcoder2-15b-instruct",
        "gpt-4o-audio-preview",
        "gpt-5-turbo",
        "gpt-4o-mini-tts",
        "ft:gpt-4o-mini-2024-07-18:my-org::abc123",
        "gemini-1.5-pro-exp-0827",
        "intfloat/multilingual-e5-large-instruct",
        "llama-3.3-nemotron-super-49b-v1_5",
    ],
)
def test_a_near_miss_is_not_recognised(served: str) -> None:
    assert recognise(served) is None


def test_every_fact_is_a_guess_that_says_what_it_goes_by() -> None:
    facts = known("gpt-4o-mini").facts
    assert all(
        fact.is_guess and fact.source.startswith("guess by its name, as gpt-4o-mini: ") for fact in facts.values()
    )
    assert "list price of its publisher" in facts["price"].source
    assert facts["price"].value == {"input_usd_per_m": 0.15, "output_usd_per_m": 0.6, "cached_input_usd_per_m": 0.075}


def test_what_is_not_known_is_left_out() -> None:
    assert "parameters_b" not in known("gpt-4o").facts
    assert "price" not in known("Qwen/Qwen2.5-7B-Instruct").facts


def test_a_name_that_may_be_the_base_models_does_not_tell_capabilities() -> None:
    chat, either = known("google/gemma-2-9b-it"), known("google/gemma-2-9b")
    assert either.name == chat.name
    assert {**either.facts, "capabilities": chat.facts["capabilities"]} == dict(chat.facts)
    assert "capabilities" not in either.facts


def test_a_base_model_continues_text_and_its_chat_variant_chats() -> None:
    assert known("meta-llama/Llama-3.1-8B").facts["capabilities"].value == ["completion"]
    assert "chat" in known("meta-llama/Llama-3.1-8B-Instruct").facts["capabilities"].value


@pytest.mark.parametrize(
    ("served", "does"),
    [
        ("text-embedding-3-small", "embedding"),
        ("bge-reranker-v2-m3", "rerank"),
        ("qwen3-embedding:0.6b", "embedding"),
        ("gpt-4o", None),
    ],
)
def test_a_model_that_cannot_answer_says_what_it_does(served: str, does: str | None) -> None:
    assert known(served).not_chat == does


@given(st.text(max_size=60))
def test_any_name_is_read(served: str) -> None:
    assert recognise(served) is None or known(served).name in MODELS
    assert column_of(served, COLUMNS, ALIASES) in {None, *COLUMNS}


@pytest.mark.parametrize("name", MODELS)
def test_an_entry_has_one_source_for_each_fact_and_plausible_values(name: str) -> None:
    entry = MODELS[name]
    stated = entry.keys() - {"matches", "not_chat", "card", "sources"}
    assert Counter(field for fields in entry["sources"].values() for field in fields) == Counter(stated)
    assert ("card" in entry) == ("card" in entry["sources"])
    assert ("capabilities" in entry) != ("not_chat" in entry)
    assert date(2022, 1, 1) <= entry.get("released", date(2022, 1, 1)) <= date(2026, 11, 30)
    assert 0 < entry.get("parameters_b", 1) < 3000
    assert 128 <= entry.get("context_tokens", 128) <= 10_485_760
    price = entry.get("price", {"input_usd_per_m": 0, "output_usd_per_m": 0})
    assert "not_chat" in entry or price["input_usd_per_m"] <= price["output_usd_per_m"] < 200
    assert price.get("cached_input_usd_per_m", 0) <= price["input_usd_per_m"]


def test_names_of_every_entry_lead_to_it_and_to_no_other() -> None:
    spellings = [(name, spelling) for name, entry in MODELS.items() for spelling in (name, *entry.get("matches", ()))]
    assert len({spelling for _, spelling in spellings}) == len(spellings)
    assert [(name, known(spelling).name) for name, spelling in spellings] == [(name, name) for name, _ in spellings]


@pytest.mark.parametrize(
    ("served", "column"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-it"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b-it"),
        ("Qwen/Qwen2.5-72B-Instruct", "qwen2.5-72b-it"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2.5-coder-7b-it"),
        ("qwen2.5-coder:7b", "qwen2.5-coder-7b-it"),
        ("Qwen/Qwen1.5-110B", "qwen1.5-110b"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b-it"),
        ("llama3.1:8b-instruct-q4_K_M", "llama-3.1-8b-it"),
        ("accounts/fireworks/models/llama-v3p1-405b-instruct", "llama-3.1-405b-it"),
        ("Llama-3.1-405B-Inst@hyperbolic", "llama-3.1-405b-it"),
        ("meta-llama/Llama-2-70b-hf", "llama-2-70b"),
        ("meta-llama/Meta-Llama-3-70B", "llama-3-70b"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b-it-v0.2"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b-v0.1"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b-it"),
        ("mixtral:8x7b", "mixtral-8x7b-it"),
        ("mistralai/Mathstral-7B-v0.1", None),
        ("mistralai/mathstral-7B", "mathstral-7b"),
        ("google/gemma-2-9b-it", "gemma-2-9b-it"),
        ("google/gemma-7b", "gemma-7b"),
        ("microsoft/Phi-3.5-mini-instruct", "phi-3.5-mini-it"),
        ("internlm/internlm2_5-20b-chat", "internlm2.5-20b-it"),
        ("CohereForAI/c4ai-command-r-v01", "command-r"),
        ("nvidia/Llama3-ChatQA-1.5-8B", "llama3-chatqa-1.5-8b"),
        ("deepseek-ai/DeepSeek-V2-Chat-0628", "deepseek-v2-it-0628"),
        ("models/gemini-1.5-pro", "gemini-1.5-pro"),
        ("gemini-1.5-flash-002", "gemini-1.5-flash-002"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini-2024-07-18"),
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
        ("anthropic/claude-3-haiku", "claude-3-haiku-20240307"),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet-20241022"),
        # Two dates, or another one.
        ("gpt-4o", None),
        ("anthropic/claude-3.5-sonnet", None),
        ("gpt-4o-2024-11-20", None),
        # Base against chat.
        ("google/gemma-2-9b", None),
        ("google/gemma-7b-it", None),
        ("Qwen/Qwen2.5-7B", None),
        ("meta-llama/Llama-2-7b-chat-hf", None),
        # Another size, version or model; names that move on to newer ones.
        ("Qwen/Qwen2.5-14B-Instruct", None),
        ("google/gemma-3-27b-it", None),
        ("command-r-08-2024", None),
        ("mistral-large-latest", None),
        ("gpt-4", None),
        ("llama-3.3-nemotron-super-49b-v1_5", None),
        ("gpt-4o-audio-preview", None),
        ("", None),
    ],
)
def test_a_served_model_is_the_column_of_its_name(served: str, column: str | None) -> None:
    assert column_of(served, COLUMNS, ALIASES) == column


def test_columns_and_aliases_fit_themselves() -> None:
    assert [column_of(name, COLUMNS, ALIASES) for name in COLUMNS] == COLUMNS
    assert {alias: column_of(alias, COLUMNS, ALIASES) for alias in ALIASES} == ALIASES


def test_an_alias_of_a_column_that_the_artifact_has_not_fits_nothing() -> None:
    assert column_of("Yi-34B", ["llama-3-8b"], {"Yi-34B": "yi-34b"}) is None


def test_two_columns_of_one_name_fit_nothing() -> None:
    assert column_of("Phi-4", ["phi-4", "microsoft/phi4"], {}) is None


def known(served: str) -> Known:
    found = recognise(served)
    assert found is not None, f"{served!r} is not recognised"
    return found
