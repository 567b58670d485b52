"""The body of an embeddings call: the closed table of its fields."""

from __future__ import annotations

from collections.abc import Mapping

from app.api.bodies.checks import either, integer, list_of, one_of, text
from app.api.bodies.parameters import TOKEN_IDS, Parameter, shared

# OpenAI's own bound; each is a prompt to read.
MAX_INPUTS = 2_048
# No known model has more than 8,192.
MAX_DIMENSIONS = 65_536


TABLE: Mapping[str, Parameter] = {
    **shared("model", "routing", "user"),
    "input": Parameter(
        "input",
        f"a text, a list of token ids, or a list of 1 to {MAX_INPUTS} of either, none of them empty",
        either(
            text(min_chars=1),
            list_of(text(min_chars=1), MAX_INPUTS, 1),
            TOKEN_IDS,
            list_of(TOKEN_IDS, MAX_INPUTS, 1),
        ),
    ),
    "encoding_format": Parameter("encoding_format", '"float" or "base64"', one_of("float", "base64")),
    "dimensions": Parameter("dimensions", f"a whole number from 1 to {MAX_DIMENSIONS}", integer(1, MAX_DIMENSIONS)),
}
