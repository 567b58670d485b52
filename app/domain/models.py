"""What the operator's catalogue says: models, their cards, prices and speeds, and the backends that serve them.

These classes carry no validation; `app.forms.catalog_file` reads YAML into them and names file, key and what was
expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TOKENS_PER_PRICE = 1_000_000
"""Prices are stated in USD per this many tokens."""
MOST_TOKENS_PER_IMAGE = 16_384
"""Of a picture as large as Qwen2-VL and Qwen2.5-VL read it; others stay below."""


@dataclass(frozen=True)
class Card:
    """What is known about a model without asking it."""

    context_tokens: int
    capabilities: frozenset[str] = frozenset({"chat"})
    """Any of chat, completion, responses, embeddings, tools, vision, json_schema, logprobs."""
    license: str | None = None
    regions: frozenset[str] = frozenset()
    values: Mapping[str, float] = field(default_factory=dict)
    """Numbers that a dimension or a constraint reads, by the name of their `CardField`; absent where not stated."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where a number came from, by its name."""
    tokens_per_image: int = MOST_TOKENS_PER_IMAGE
    """The most that one picture takes."""


@dataclass(frozen=True)
class TokenPrice:
    """USD per million tokens. A self-hosted model's follows from its GPU hours and measured tokens per second."""

    input_usd_per_m: float
    output_usd_per_m: float
    cached_input_usd_per_m: float | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether no request costs anything, so that no budget stops one."""
        return self.input_usd_per_m == self.output_usd_per_m == 0.0

    @classmethod
    def self_hosted(cls, usd_per_gpu_hour: float, gpus: int, tokens_per_s: float) -> TokenPrice:
        """Price of a token from the machine's rent and the tokens, read or written, that it handles in a second."""
        usd_per_m = usd_per_gpu_hour * gpus / 3600 / tokens_per_s * TOKENS_PER_PRICE
        return cls(usd_per_m, usd_per_m, usd_per_m)


@dataclass(frozen=True)
class Speed:
    """Where to start; corrected by what is seen."""

    prefill_tokens_per_s: float
    s_per_output_token: float


@dataclass(frozen=True)
class Model:
    """A catalogue entry: an LLM that may be chosen."""

    name: str
    served_as: str
    backend: str
    card: Card
    price: TokenPrice | None = None
    speed: Speed | None = None
    predicted_as: str | None = None
    """Column of the artifact; None is an untested model, never chosen on quality."""


@dataclass(frozen=True)
class Backend:
    """A service that serves models, as one or more replicas."""

    name: str
    kind: Literal["vllm", "openai"]
    urls: tuple[str, ...]
    key_env: str | None = None
    ca_file: str | None = None
    """Certificates of the only authorities that may have signed the backend's own; None is the system's."""
    allow_cidr: tuple[str, ...] = ()
    rename: Mapping[str, str | None] = field(default_factory=dict)
    """The backend's names of a body's fields, by ours; None for a field that it refuses, and so is not sent."""
    max_connections: int = 256


@dataclass(frozen=True)
class Catalog:
    """All models and backends, in file order."""

    models: tuple[Model, ...]
    backends: tuple[Backend, ...]
