"""What a collection will do: its prompts, its models, and what that costs at most."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from app.domain.models import TOKENS_PER_PRICE, Catalog, Model, TokenPrice
from app.errors import UsageError, without_credentials
from app.upstream.http.addresses import versioned
from app.upstream.http.identity import key_header, trusted

# English text has about four characters per token; code and digits fewer. Used to announce, never to charge.
CHARS_PER_TOKEN = 3.5
# What a chat template adds around a message: role, separators, the opening of the answer.
TEMPLATE_TOKENS = 12
TOOL_NAMES = "tools"
"""Role of what a conversation has of its tools where only their names are kept; see `conversation`."""

Key = tuple[str, str]
"""(prompt_id, model): one request and its outcome."""


@dataclass(frozen=True)
class Prompt:
    """One row of `prompts.parquet`, with the room its answer gets."""

    prompt_id: str
    prompt: str
    grader: str | None
    reference: str | None
    max_tokens: int
    messages: tuple[Mapping[str, Any], ...] | None = None
    dataset: str = ""
    task: str = ""
    split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    place: str = field(default="", compare=False)
    """Where it was read."""

    def to_send(self) -> list[Mapping[str, Any]]:
        """The messages of the request."""
        return list(self.messages) if self.messages else [{"role": "user", "content": self.prompt}]

    @property
    def can_be_sent(self) -> bool:
        """Whether its messages are those of a chat; of tools a journal keeps no more than names and results."""
        return not any(
            message["role"] == TOOL_NAMES or (message["role"] == "tool" and not message.get("tool_call_id"))
            for message in self.messages or ()
        )

    def size_bytes(self) -> int:
        """Bytes of all texts; a token is at least one, so this bounds the tokens too."""
        return sum(len(str(message.get("content")).encode(errors="replace")) for message in self.to_send())


@dataclass(frozen=True)
class Target:
    """A model to ask, and where."""

    model: str
    served_as: str
    backend: str
    urls: tuple[str, ...]
    key: str | None = None
    price: TokenPrice | None = None
    rename: Mapping[str, str | None] = field(default_factory=dict)
    """As in the backend's entry of the catalogue."""
    ca_file: str | None = None
    predicted_as: str | None = None
    """What an artifact calls it, as the catalogue says."""

    def cost_usd(self, input_tokens: float | None, output_tokens: float | None) -> float | None:
        """Price of so many tokens; None without a price or without counts."""
        if self.price is None or input_tokens is None or output_tokens is None:
            return None
        usd = input_tokens * self.price.input_usd_per_m + output_tokens * self.price.output_usd_per_m
        return usd / TOKENS_PER_PRICE

    def bound_usd(self, prompt: Prompt) -> float:
        """What one request costs at most, 0 without a price."""
        return self.cost_usd(prompt.size_bytes() + TEMPLATE_TOKENS * len(prompt.to_send()), prompt.max_tokens) or 0.0


@dataclass(frozen=True)
class Estimate:
    """What asking one model everything that is still missing will send, and spend at most."""

    model: str
    requests: int
    input_tokens: int
    """As of usual text."""
    max_output_tokens: int
    about_usd: float | None
    """Of these tokens."""
    max_usd: float | None
    """Where every byte is a token. An attempt that is lost may be charged beside it."""


@dataclass(frozen=True)
class Plan:
    """Every prompt to every model, greedily."""

    prompts: tuple[Prompt, ...]
    targets: tuple[Target, ...]

    def __post_init__(self) -> None:
        if not self.prompts or not self.targets:
            raise UsageError("nothing to ask: give at least one prompt and one model")
        for what, names in (
            ("prompt_id", [prompt.prompt_id for prompt in self.prompts]),
            ("model", [target.model for target in self.targets]),
        ):
            name, times = Counter(names).most_common(1)[0]
            if times > 1:
                raise UsageError(f"{what} {name!r} occurs {times} times; leave one")

    def header(self) -> dict[str, Any]:
        """What identifies the plan: everything that changes an answer. Addresses, prices and graders do not."""
        prompts = [[p.prompt_id, p.to_send(), p.max_tokens] for p in self.prompts]
        return {
            "form": 2,
            "prompts": len(self.prompts),
            "prompts_sha256": _digest(prompts),
            "models": {target.model: target.served_as for target in self.targets},
        }

    def estimates(self, done: Iterable[Key]) -> list[Estimate]:
        """Per model, what is still to be sent."""
        done = set(done)
        return [self._estimate(target, done) for target in self.targets]

    def _estimate(self, target: Target, done: set[Key]) -> Estimate:
        left = [prompt for prompt in self.prompts if (prompt.prompt_id, target.model) not in done]
        input_tokens = sum(round(p.size_bytes() / CHARS_PER_TOKEN) + TEMPLATE_TOKENS * len(p.to_send()) for p in left)
        output_tokens = sum(prompt.max_tokens for prompt in left)
        about_usd = target.cost_usd(input_tokens, output_tokens)
        max_usd = None if target.price is None else sum(target.bound_usd(prompt) for prompt in left)
        return Estimate(target.model, len(left), input_tokens, output_tokens, about_usd, max_usd)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode(errors="replace")).hexdigest()


def targets_at(url: str, models: Sequence[str], key: str | None) -> tuple[Target, ...]:
    """The models named, all behind one address, without prices."""
    if not models:
        raise UsageError("--url needs --models: the names the endpoint serves, separated by commas")
    address = chat_url(url)
    key_header(url, key)
    return tuple(Target(name, name, url, (address,), key) for name in models)


def targets_from(catalog: Catalog, models: Sequence[str], secrets: Mapping[str, str]) -> tuple[Target, ...]:
    """The models named, or all of the catalogue; `secrets` is the environment that `key_env` names are looked up in.

    Raises:
        UsageError: a model is not there, or the key or the `ca_file` of its backend cannot be used.
    """
    known = {model.name: model for model in catalog.models}
    unknown = [name for name in models if name not in known]
    if unknown:
        raise UsageError(f"the catalogue has no model {unknown[0]!r}; it has {', '.join(known)}")
    return tuple(_target(catalog, known[name], secrets) for name in (models or known))


def _target(catalog: Catalog, model: Model, secrets: Mapping[str, str]) -> Target:
    backend = next(backend for backend in catalog.backends if backend.name == model.backend)
    key = secrets.get(backend.key_env) if backend.key_env else None
    if backend.key_env and not key:
        raise UsageError(f"backend {backend.name!r} takes its key from {backend.key_env}, which is not set")
    if backend.ca_file:
        trusted(backend.name, backend.ca_file)
    key_header(backend.name, key)
    urls = tuple(chat_url(url) for url in backend.urls)
    return Target(
        model.name,
        model.served_as,
        backend.name,
        urls,
        key,
        model.price,
        backend.rename,
        backend.ca_file,
        model.predicted_as,
    )


def chat_url(url: str) -> str:
    """Address of the chat endpoint of a backend at this URL."""
    if not url.startswith(("http://", "https://")) or not _has_host(url):
        raise UsageError(f"not an http(s) address: {without_credentials(url)!r}")
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        shown = without_credentials(re.split(r"[?#]", url)[0])
        raise UsageError(f"{shown}: leave out user, password, query and fragment; a key goes into --key-env or key_env")
    return versioned(url) + "/chat/completions"


def _has_host(url: str) -> bool:
    """Whether it names a host, and a port if any, that can be looked up."""
    try:
        parts = urlsplit(url)
        return bool((parts.hostname or "").encode("idna")) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
