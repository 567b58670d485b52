"""Recognises a model by the name that its provider serves it under.

How it works: a name becomes a reading, its parts in order and whether it says to be the chat variant. Dropped are the
publisher, separators, the quantisation and what providers append to say how they serve; a date is dropped only where no
name has it. Two names mean the same model if their readings are equal, so a size, a version or a word that only one of
them has keeps them apart.
What it does not do: guess from part of a name. A fine-tune of a known model is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field, model_validator

from app.forms.catalog_file import Capability, Count, Form, Positive, Usd
from app.forms.yaml_files import load_form
from app.setup.draft import Fact

TABLE = Path(__file__).with_name("known_models.yaml")

_FACTS = ("parameters_b", "released", "license", "context_tokens", "capabilities", "price")
_CHAT = frozenset({"instruct", "inst", "chat", "it"})
# `v` stands before versions in some spellings only; `hf` is a format of weights.
_SAYS_NOTHING = frozenset({"v", "hf"})

_SERVED_HOW = re.compile(r":(?:latest|free|beta|nitro|floor|extended)$|-(?:v)?\d+:\d+$")
_QUANTISATION = re.compile(
    r"[-_.:](?:awq|gptq|gguf|ggml|exl[23]|mlx|bnb|qat|bf16|f(?:16|32)|fp(?:4|16)|fp8(?:[-_]kv)?|int[48]|(?:nv|mx)fp4|w\d+a\d+"
    r"|[2-8][-_]?bits?|\d+g|i?q[2-8](?:[-_](?:k|[01]|xxs|xs|s|m|l|xl|nl))*|dynamic|quantized)(?![a-z\d])"
)
# Bedrock's `us.anthropic.`, and names that repeat the publisher's.
_PUBLISHER = re.compile(r"^(?:[a-z]+\d*\.)+(?=[a-z])|^(?:meta|c4ai|nvidia|google)-(?=[a-z])")
_DATE = re.compile(r"(?<!\d)(20\d\d)-?([01]\d)-?([0-3]\d)(?!\d)")
# Ollama's `llama3.1:8b` is the chat variant; its base models have another word after the size.
_OLLAMA_SIZE = re.compile(r":(?:\d+x)?\d+(?:\.\d+)?[bm](?![a-z\d])")
_PART = re.compile(r"\d+\.\d+[bm](?![a-z\d])|[a-z]+|\d[a-z\d]*")


@dataclass(frozen=True)
class Known:
    """What the table says of a model."""

    name: str
    facts: Mapping[str, Fact]
    """By field of the card, and `price`; what is not known is left out."""
    not_chat: str | None
    """What it does instead of answering: embedding, rerank."""


@dataclass(frozen=True)
class _Reading:
    parts: tuple[str, ...]
    is_chat: bool


class _ListPriceForm(Form):
    input_usd_per_m: Usd
    output_usd_per_m: Usd
    cached_input_usd_per_m: Usd | None = None


class _KnownForm(Form):
    matches: tuple[str, ...] = ()
    not_chat: str | None = None
    parameters_b: Positive | None = None
    released: date | None = None
    license: str | None = None
    context_tokens: Count | None = None
    capabilities: tuple[Capability, ...] | None = None
    price: _ListPriceForm | None = None
    card: str | None = None
    sources: dict[str, tuple[str, ...]]
    """Which facts a source gave."""

    @model_validator(mode="after")
    def _each_fact_has_one_source(self) -> _KnownForm:
        sourced = sorted(field for fields in self.sources.values() for field in fields)
        if sourced != sorted(self.values()):
            raise ValueError(f"expected one source for each of {', '.join(self.values())}")
        return self

    def values(self) -> dict[str, Any]:
        stated = self.model_dump(include=set(_FACTS), exclude_none=True)
        return {name: list(value) if name == "capabilities" else value for name, value in stated.items()}

    @property
    def is_chat(self) -> bool:
        return "chat" in (self.capabilities or ())


class _TableForm(Form):
    sources: dict[str, str] = Field(min_length=1)
    models: dict[str, _KnownForm] = Field(min_length=1)

    @model_validator(mode="after")
    def _sources_are_described(self) -> _TableForm:
        used = {source for form in self.models.values() for source in form.sources}
        if used - self.sources.keys():
            raise ValueError(f"sources: expected a text for {', '.join(sorted(used - self.sources.keys()))}")
        return self


def recognise(served_name: str) -> Known | None:
    """What the table says of the model of this name, each fact marked as a guess; None for an unknown model.

    A name that may be that of the base model as well gives what both have in common, so no capabilities.
    """
    index = _index()
    for reading in (_read(served_name), _read(served_name, dated=False)):
        if reading in index:
            return _known(index[reading])
        chat = replace(reading, is_chat=True)
        if chat in index:
            return _known(index[chat], left_out="capabilities")
    return None


def column_of(served_name: str, columns: Sequence[str], aliases: Mapping[str, str]) -> str | None:
    """The column of an artifact that a served model is, by `aliases` too; None where no column fits, or two.

    Base and chat variants are different columns. A name without a date fits a column with one where only one does.
    """
    named = {alias: column for alias, column in aliases.items() if column in columns} | {one: one for one in columns}
    if served_name in named:
        return named[served_name]
    reading = _read(served_name)
    fitting = {column for name, column in named.items() if _read(name) == reading} or {
        column for name, column in named.items() if _read(name, dated=False) == reading
    }
    return fitting.pop() if len(fitting) == 1 else None


@cache
def _table() -> _TableForm:
    return load_form(TABLE, _TableForm)


@cache
def _index() -> dict[_Reading, str]:
    models = _table().models
    index = {_read(spelling): name for name, spelling in _spellings(models)}
    for name, spelling in _spellings(models):
        # A model without a base variant is also called by its name with a suffix, unless that is another model.
        if models[name].is_chat:
            index.setdefault(replace(_read(spelling), is_chat=True), name)
    return index


def _spellings(models: Mapping[str, _KnownForm]) -> Iterable[tuple[str, str]]:
    return [(name, spelling) for name, form in models.items() for spelling in (name, *form.matches)]


def _known(name: str, left_out: str = "") -> Known:
    form = _table().models[name]
    facts = {field: _guess(name, field, value) for field, value in form.values().items() if field != left_out}
    return Known(name, MappingProxyType(facts), form.not_chat)


def _guess(name: str, field: str, value: Any) -> Fact:
    form = _table().models[name]
    source = next(source for source, fields in form.sources.items() if field in fields)
    told = _table().sources[source].format(card=form.card)
    what = "list price of its publisher, " if field == "price" else ""
    return Fact(value, f"guess by its name, as {name}: {what}{told}", is_guess=True)


@cache
def _read(name: str, dated: bool = True) -> _Reading:
    text = _SERVED_HOW.sub("", name.lower().rstrip("/").rpartition("/")[2])
    is_ollama = bool(_OLLAMA_SIZE.search(text))
    # Fireworks writes 3p1 for 3.1.
    text = re.sub(r"(?<=\d)p(?=\d)", ".", _PUBLISHER.sub("", _QUANTISATION.sub("", text)))
    text = _DATE.sub(r"\1\2\3" if dated else "", text)
    parts = [part for part in _PART.findall(text) if part not in _SAYS_NOTHING]
    without_kind = tuple(part for part in parts if part not in _CHAT)
    return _Reading(without_kind, is_ollama or len(without_kind) < len(parts))
