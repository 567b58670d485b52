"""The body of an embeddings call: the closed table of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.api.checks import either, integer, list_of, one_of
from app.api.parameters import TOKEN_IDS, Parameter, shared

# OpenAI's own bound; each is a prompt to read.
MAX_INPUTS = 2_048
# No known model has more than 8,192.
MAX_DIMENSIONS = 65_536


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


TABLE: Mapping[str, Parameter] = {
    **shared("model", "routing", "user"),
    "input": Parameter(
        "input",
        f"a text, a list of token ids, or a list of 1 to {MAX_INPUTS} of either, none of them empty",
        either(
            _text,
            lambda value: value != [] and list_of(_text, MAX_INPUTS)(value),
            lambda value: value != [] and TOKEN_IDS(value),
            lambda value: value != [] and list_of(lambda one: one != [] and TOKEN_IDS(one), MAX_INPUTS)(value),
        ),
    ),
    "encoding_format": Parameter("encoding_format", '"float" or "base64"', one_of("float", "base64")),
    "dimensions": Parameter("dimensions", f"a whole number from 1 to {MAX_DIMENSIONS}", integer(1, MAX_DIMENSIONS)),
}
