"""The list of models of an OpenAI-compatible server, and what is wrong with a server that has none to give."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.upstream.http.faults import is_for_another_name, why

if TYPE_CHECKING:
    from app.upstream.client import UpstreamClient

# A worker lists its models in milliseconds; through a tunnel in tenths of a second.
PROBE_WITHIN_S = 5.0
# Services with hundreds of models list them with prices and descriptions.
MAX_LIST_BYTES = 8 << 20
# So many names of a longer list are said.
NAMED = 8
NO_MODELS = "lists no models; start it with one, or ask its provider which ones the key may use"


def listed(body: bytes) -> dict[str, Mapping[str, Any]]:
    """The models of a list, by name.

    Raises:
        ValueError: it is no list of models.
    """
    try:
        found = json.loads(body)
        # Together lists them bare.
        entries = found if isinstance(found, list) else found["data"]
        # Google lists models/NAME and answers to NAME.
        return {str(entry["id"]).removeprefix("models/"): entry for entry in entries}
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ValueError("answers /v1/models with something else than a list of models") from exc


async def fault(client: UpstreamClient, backend: str, url: str, error: Exception) -> str:
    """What is wrong with a replica of a backend that gave no list of models."""
    if is_for_another_name(error):
        names = await client.certificate_names(backend, url, PROBE_WITHIN_S)
        if names:
            return f"its certificate is for {some(names)}, not for {urlsplit(url).hostname}"
    return why(error, url)


def some(names: Iterable[str], like: str = "") -> str:
    """All of a few names; of many, those that are most `like` this one, and how many there are."""
    every = list(names)
    if len(every) <= NAMED:
        return ", ".join(every)
    close = difflib.get_close_matches(like, every, NAMED, 0.3) or every[:NAMED]
    return f"{len(every)} models, such as {', '.join(close)}"
