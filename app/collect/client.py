"""One question to one chat endpoint, with patience: retries where another try may help, and reasons where not.

It is not the gateway's client: it waits long, asks for log-probabilities, and never streams.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import aiohttp

from app.collect.plan import Prompt, Target
from app.collect.progress import Reply
from app.collect.thoughts import NoText, answered
from app.domain.usage import MOST_TOKENS, Usage
from app.errors import UsageError
from app.upstream.answers.payload import is_logprob, renamed
from app.upstream.http import pacing
from app.upstream.http.faults import is_about_tls, why
from app.upstream.http.identity import key_header, trusted

# Overload, a restart or a proxy in between: all pass.
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
# The endpoint, not the prompt: every further request would fail the same way. Of a model that has answered before it
# may be the prompt, which a moderation refuses; many of them in a row are the endpoint again.
HOPELESS = frozenset({401, 403, 404})
# An answer with log-probabilities of a few thousand tokens stays under a megabyte.
MAX_BODY_BYTES = 16 << 20


@dataclass(frozen=True)
class Patience:
    """How long to try one request."""

    attempts: int = 6
    first_wait_s: float = 0.5
    """Doubles at each attempt, with jitter; 0.5 s, 1 s, ... 8 s in all about 15 s."""
    max_wait_s: float = 60.0
    """An endpoint that asks for more than this is not waited for."""
    request_timeout_s: float = 300.0


class AskFailed(Exception):
    """No answer to this request; the message is the reason.

    `lost_attempts` of it may have been charged for. `exhausted`: every attempt failed, so the backend may be down;
    otherwise the endpoint rejected this very request. `unreachable`: nobody took the last one, so it is no matter of
    the model.
    """

    def __init__(self, reason: str, *, lost_attempts: int, exhausted: bool, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.lost_attempts = lost_attempts
        self.exhausted = exhausted
        self.unreachable = unreachable


class AddressUnusable(UsageError):
    """No request to this address would be taken, of whatever model: its certificate or the key for it is wrong."""

    def __init__(self, message: str, wrong: Literal["certificate", "key"]) -> None:
        super().__init__(message)
        self.wrong = wrong


class AskStopped(asyncio.CancelledError):
    """The request was cancelled; as many as `lost_attempts` of it may have been charged for."""

    def __init__(self, lost_attempts: int) -> None:
        super().__init__()
        self.lost_attempts = lost_attempts


class _Retry(Exception):
    """This attempt failed in a way that another may not; the endpoint asks for `wait_s` in between."""

    def __init__(self, reason: str, *, lost: bool, wait_s: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.lost = lost
        self.wait_s = wait_s
        self.unreachable = unreachable

    def given_up(self, attempts: int, lost_attempts: int) -> AskFailed:
        """What it is when no attempt follows."""
        reason = f"{self} ({attempts} attempts)"
        return AskFailed(reason, lost_attempts=lost_attempts, exhausted=True, unreachable=self.unreachable)


@dataclass
class ChatClient:
    """Asks chat endpoints through one session. `sleep` and `clock` are parameters for tests."""

    session: aiohttp.ClientSession
    patience: Patience = field(default_factory=Patience)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.perf_counter
    has_answered: set[str] = field(default_factory=set)
    """Models, also of earlier runs."""
    _accepted: set[tuple[str, str | None]] = field(default_factory=set)
    """Addresses and keys that something was answered with."""
    _without_logprobs: set[str] = field(default_factory=set)
    _trusted: dict[str | None, ssl.SSLContext] = field(default_factory=dict)
    """By `ca_file`; connections are shared only under the same one."""

    async def ask(self, target: Target, prompt: Prompt) -> Reply:
        """The answer of a model to a prompt.

        Raises:
            AskFailed: after all attempts, or when the endpoint rejects this very request.
            AskStopped: it was cancelled.
            UsageError: the endpoint would reject every request: key, address, certificate or model name is wrong;
                `AddressUnusable`, those of other models too.
        """
        lost = 0
        try:
            for attempt in range(1, self.patience.attempts + 1):
                try:
                    return replace(await self._attempt(target, prompt, attempt), attempts=attempt, lost_attempts=lost)
                except AskFailed as failed:
                    failed.lost_attempts += lost
                    raise
                except _Retry as retry:
                    lost += retry.lost
                    if attempt == self.patience.attempts or retry.wait_s > self.patience.max_wait_s:
                        raise retry.given_up(attempt, lost) from retry
                    await self.sleep(self._wait_s(attempt, retry.wait_s))
        except asyncio.CancelledError as exc:
            raise AskStopped(lost + 1) from exc
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _wait_s(self, attempt: int, asked_s: float) -> float:
        # Jitter, so that requests refused together do not come back together.
        own_s = self.patience.first_wait_s * (1 << (attempt - 1)) * random.uniform(0.5, 1.5)
        return min(max(own_s, asked_s), self.patience.max_wait_s)

    async def _attempt(self, target: Target, prompt: Prompt, attempt: int) -> Reply:
        # Replicas take turns over prompts, and another one gets the next attempt.
        url = target.urls[(attempt - 1 + zlib.crc32(prompt.prompt_id.encode(errors="replace"))) % len(target.urls)]
        asks_logprobs = target.model not in self._without_logprobs
        began_s = self.clock()
        status, headers, content = await self._post(url, target, self._body(target, prompt, logprobs=asks_logprobs))
        if status in (400, 422, 501) and asks_logprobs:
            # Perhaps it is the log-probabilities that it does not serve; what works decides.
            began_s = self.clock()
            status, headers, content = await self._post(url, target, self._body(target, prompt, logprobs=False))
            if status == 200:
                self._without_logprobs.add(target.model)
        if status in HOPELESS and target.model not in self.has_answered:
            said = f"{url} answers {status} for model {target.served_as!r}: {_excerpt(content)}"
            # Some proxies say so of one model that a key is not for.
            if status == 401 and (url, target.key) not in self._accepted:
                raise AddressUnusable(said, "key")
            raise UsageError(said)
        if status in RETRIED:
            wait_s = pacing.retry_after_s(headers, time.time()) or 0.0
            raise _Retry(f"status {status}: {_excerpt(content)}", lost=status in (500, 504), wait_s=wait_s)
        if status != 200:
            is_gone = status in HOPELESS
            raise AskFailed(f"status {status}: {_excerpt(content)}", lost_attempts=0, exhausted=is_gone)
        reply = _reply(target, prompt, content, self.clock() - began_s)
        self.has_answered.add(target.model)
        self._accepted.add((url, target.key))
        return reply

    def _body(self, target: Target, prompt: Prompt, *, logprobs: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": target.served_as,
            "messages": prompt.to_send(),
            "max_tokens": prompt.max_tokens,
            "temperature": 0.0,
        }
        if logprobs:
            body["logprobs"] = True
        return renamed(body, target.rename)

    async def _post(self, url: str, target: Target, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        timeout = aiohttp.ClientTimeout(total=self.patience.request_timeout_s)
        how: dict[str, Any] = {
            "headers": key_header(target.backend, target.key),
            "ssl": self._trust(target),
            "timeout": timeout,
            "allow_redirects": False,
        }
        try:
            async with self.session.post(url, json=body, **how) as response:
                return response.status, response.headers, await _bounded(response)
        except aiohttp.ClientConnectorError as exc:
            if is_about_tls(exc):
                raise AddressUnusable(f"{url}: {why(exc, url)}", "certificate") from exc
            raise _Retry(f"{url}: {why(exc, url)}", lost=False, unreachable=True) from exc
        except TimeoutError as exc:
            raise _Retry(f"no answer within {self.patience.request_timeout_s:g} s", lost=True) from exc
        except aiohttp.ClientError as exc:
            raise _Retry(f"the exchange broke: {type(exc).__name__} {exc}", lost=True) from exc

    def _trust(self, target: Target) -> ssl.SSLContext:
        if target.ca_file not in self._trusted:
            self._trusted[target.ca_file] = trusted(target.backend, target.ca_file)
        return self._trusted[target.ca_file]


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise AskFailed(f"the answer is larger than {MAX_BODY_BYTES} bytes", lost_attempts=1, exhausted=False)
    return bytes(content)


def _excerpt(content: bytes) -> str:
    """The error's own message where there is one, on one line."""
    text = content[:2000].decode(errors="replace")
    try:
        message = json.loads(content)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        message = text
    return " ".join(str(message).split())[:200] or "no message"


def _reply(target: Target, prompt: Prompt, content: bytes, latency_s: float) -> Reply:
    """The reply in an answer's body.

    Raises:
        AskFailed: it has no text.
        _Retry: the body is not one.
    """
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        text = answered(choice["message"])
    except NoText as exc:
        # Another attempt would be answered alike.
        raise AskFailed(str(exc), lost_attempts=1, exhausted=False) from exc
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as exc:
        raise _Retry(f"not a chat completion: {_excerpt(content)}", lost=True) from exc
    if text is None:
        raise _Retry("the answer's content is not a text", lost=True)
    usage = body.get("usage")
    whole = Usage.parse(usage)  # with what was reasoned beside the answer
    finish_reason = choice.get("finish_reason")
    if finish_reason in ("abort", "error"):
        raise _Retry(f"the model stopped with {finish_reason!r}", lost=True)
    return Reply(
        prompt_id=prompt.prompt_id,
        model=target.model,
        answer=text,
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens") if whole is None else whole.output_tokens,
        latency_s=round(latency_s, 6),
        mean_logprob=_mean_logprob(choice),
    )


def _count(usage: object, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def _mean_logprob(choice: dict[str, Any]) -> float | None:
    values = list(_logprobs(choice.get("logprobs")))
    return round(sum(values) / len(values), 6) if values else None


def _logprobs(logprobs: object) -> Iterator[float]:
    """Log-probabilities of the answer's tokens; anything else in their place is as good as absent."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    for token in tokens if isinstance(tokens, list) else ():
        value = token.get("logprob") if isinstance(token, dict) else None
        if is_logprob(value):
            yield float(value)
