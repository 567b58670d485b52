"""What is known of an operator's models and backends before it is in files: facts, guesses, open questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fact:
    """One value of the catalogue, as its YAML has it, and where it comes from."""

    value: Any
    source: str
    is_guess: bool = False
    """Marked in the file, for the operator to confirm."""


@dataclass
class DraftModel:
    """An entry of the catalogue in the making."""

    name: str
    served_as: str
    backend: str
    card: dict[str, Fact] = field(default_factory=dict)
    """By field of the card, `context_tokens` and `capabilities` among them."""
    predicted_as: Fact | None = None
    price: Fact | None = None
    """Its value is what stands under `price`."""
    speed: Fact | None = None
    """Its value is what stands under `speed`."""
    open: list[str] = field(default_factory=list)
    """What nobody could say, a sentence each."""


@dataclass
class DraftBackend:
    """A backend of the catalogue in the making."""

    name: str
    kind: str
    urls: list[str]
    key_env: str | None = None
    ca_file: str | None = None
    allow_cidr: list[str] = field(default_factory=list)
    rename: dict[str, str | None] = field(default_factory=dict)
    max_connections: int | None = None
    guesses: dict[str, str] = field(default_factory=dict)
    """Where a value comes from that nobody stated, by its key."""


@dataclass
class Draft:
    """A catalogue and a gateway's settings in the making."""

    models: list[DraftModel] = field(default_factory=list)
    backends: list[DraftBackend] = field(default_factory=list)
    gateway: dict[str, Any] = field(default_factory=dict)
    """Keys of gateway.yaml beside those that every set-up has (listeners, catalogue, artifact)."""
    left_out: list[str] = field(default_factory=list)
    """What was found and is not in the files, with the reason: a line each."""
