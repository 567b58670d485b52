"""What a backend's refusal means, translated once; its own words are passed on in one case only.

It is a status other than 200, or stands in a 200 as an error whose code is such a status.

A 400, 404, 413 or 422 in OpenAI's shape is about the request, so the caller gets its message. Everything else is about
the backend: the caller gets our words. Of a 429 the code is read: an account without money is no matter of seconds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

from app.domain.models import Model
from app.errors import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamSpent,
    UpstreamUnreachable,
)
from app.upstream.answers.payload import parse
from app.upstream.answers.told import ToldFailure
from app.upstream.http.exchange import Exchange, read_body

MAX_REFUSAL_BYTES = 64 << 10
# The body of a 429 mostly comes with its head. Another backend waits for what it says, so not for long.
QUOTA_WITHIN_S = 0.1
# Anthropic's status of a service that is full.
OVERLOADED = 529
# What DeepSeek and OpenRouter say of an account without money; OpenAI says it in the body of a 429.
PAYMENT_REQUIRED = 402
# What OpenAI and vLLM say of a prompt that does not fit, and vLLM's engine.
_TOO_LONG = ("maximum context length", "longer than the maximum model length of")
_CODES = {400: "invalid_request", 404: "model_not_found", 413: "too_large", 422: "invalid_request"}


class RefusedKey(UpstreamRejected):
    """The backend does not accept the gateway's own key: the operator's to change, and no other attempt helps."""

    type = "server_error"


class RefusedPage(UpstreamBroken):
    """The backend answers, and does not give a page: it has none there, or redirects. Asking again is of no use."""


async def refusal(exchange: Exchange, model: Model) -> UpstreamError:
    """The error that an exchange with a status other than 200 stands for. Does not close the exchange.

    Raises:
        UpstreamError: the connection broke while the refusal was read.
    """
    status = exchange.status
    wait_s = exchange.retry_after_s
    # Callers are told whole seconds; a part of one less would be too early. None at all says as little as nothing.
    retry_after_s = math.ceil(wait_s) if wait_s else None
    if status in _CODES:
        return _rejected(status, await _error_object(exchange), model)
    if status in (502, 504):
        return UpstreamUnreachable("the server in front of the backend cannot reach it", retry_after_s=retry_after_s)
    told = await _quota_error(exchange) if status == 429 else {}
    return _unable(status, retry_after_s, told) or UpstreamBroken(f"the backend answered with status {status}")


def told_refusal(failure: ToldFailure, model: Model) -> UpstreamError:
    """The error that a failure in a 200 of which nothing was passed on stands for: that of the status it names."""
    status = failure.means
    if status in _CODES:
        return _rejected(status, failure.told, model)
    return _unable(status, None, failure.told) or UpstreamBroken(failure.message)


def _unable(status: int | None, retry_after_s: int | None, told: Mapping[str, Any]) -> UpstreamError | None:
    """The error of a backend that says that it cannot answer now, or not us."""
    if status == PAYMENT_REQUIRED or (status == 429 and "insufficient_quota" in (told.get("code"), told.get("type"))):
        message = "the gateway's account at the backend has no quota left; ask the operator to fill it"
        return UpstreamSpent(message, retry_after_s=retry_after_s)
    if status == 429:
        return UpstreamRateLimited("the backend's rate limit is reached", retry_after_s=retry_after_s)
    if status in (503, OVERLOADED):
        return UpstreamBusy("the backend is busy", retry_after_s=retry_after_s)
    return refused_key() if status in (401, 403) else None


def refused_key() -> RefusedKey:
    """The error that a 401 or 403 of a backend stands for."""
    message = "the backend does not accept this gateway's key; ask the operator to check the backend's key_env"
    return RefusedKey(message, status=502, code="bad_upstream")


async def _error_object(exchange: Exchange) -> dict[str, Any]:
    try:
        found = parse(await read_body(exchange, MAX_REFUSAL_BYTES)).get("error")
    except UpstreamBroken:
        return {}
    return found if isinstance(found, dict) else {}


async def _quota_error(exchange: Exchange) -> dict[str, Any]:
    """What a 429 says; nothing where that breaks off or does not come at once."""
    try:
        async with asyncio.timeout(QUOTA_WITHIN_S):
            return await _error_object(exchange)
    except (UpstreamError, TimeoutError):
        return {}


def _rejected(status: int, error: Mapping[str, Any], model: Model) -> UpstreamRejected:
    message, param, code = error.get("message"), error.get("param"), _CODES[status]
    if not isinstance(message, str) or len(message) > MAX_REFUSAL_BYTES:
        own_words = f"the backend of {model.name} refuses this request (status {status})"
        return UpstreamRejected(own_words, status=status, code=code)
    if status == 400 and (_says_too_long(message) or error.get("code") == "context_length_exceeded"):
        code = "context_length_exceeded"
    shown = message.replace(model.served_as, model.name)
    return UpstreamRejected(shown, status=status, param=param if isinstance(param, str) else None, code=code)


def _says_too_long(message: str) -> bool:
    return any(words in message for words in _TOO_LONG)
