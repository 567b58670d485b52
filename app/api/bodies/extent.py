"""How much a body asks for beside what its texts say: choices, the least of an answer, other things to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.api.bodies.messages import BYTES_PER_TOKEN
from app.api.bodies.parameters import MAX_TOKENS
from app.upstream.answers.payload import dump

_READ = frozenset({"response_format", "structured_outputs", "text", "suffix", "chat_template_kwargs"})
# Where the texts of an item are, which are estimated; in what lists of parts have beside them is more to read.
_SAID = frozenset({"content", "output"})
_UNSAID_PARTS = frozenset({"refusal", "reasoning_text"})


def expected_choices(body: Mapping[str, Any]) -> int:
    """How many choices an answer to this body has: `n` for each prompt."""
    if "n" not in body and "prompt" not in body:
        return 1
    prompt = body.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    n: int = body.get("n", 1)
    return prompts * n


def least_tokens(body: Mapping[str, Any], most: int | None) -> int:
    """How long each choice is at least: to its maximum where no end is heeded, which without one is any context."""
    if body.get("ignore_eos"):
        return MAX_TOKENS if most is None else most
    least: int = body.get("min_tokens", 0)
    return least


def unread_tokens(body: Mapping[str, Any], items: Sequence[Mapping[str, Any]] = ()) -> int:
    """Tokens of what models read beside texts and tools: calls of functions, thoughts, refusals, schemas.

    Rounded up, so that times four they are no fewer than the bytes.
    """
    more: list[Any] = []
    for item in items:
        if len(item) != 2 or type(item.get("content")) is not str:
            more += _unsaid(item)
    if not _READ.isdisjoint(body):
        more.append({name: body[name] for name in _READ & body.keys()})
    return -(-len(dump(more)) // BYTES_PER_TOKEN) if more else 0


def _unsaid(item: Mapping[str, Any]) -> Iterable[Any]:
    """What of a message, or another item of an input, is not among its texts."""
    if len(item) > 2 or "content" not in item:
        yield {name: value for name, value in item.items() if name not in _SAID}
    for name in _SAID:
        if type(parts := item.get(name)) is list:
            yield from [part for part in parts if part["type"] in _UNSAID_PARTS]
