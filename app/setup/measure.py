"""Asks a model a few small questions: whether it chats, what of the API works, and how fast it is.

How it works: the first question also offers a tool and asks for log-probabilities, at the temperature of exams and
collections; what the endpoint refuses is taken away until it answers. The words of a refusal only say what to take
first: what went for nothing is put back. What is no vLLM worker is asked once more, with a parameter of vLLM's. A
question to `/v1/responses` says whether that is served too. Then one token after a short prompt, many tokens after a
short one, and one token after a long one: differences of their times are the time of an output token and of a token
read, without the way there and back. Prompts begin with words of their own, so that nothing of them is in a cache.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app.domain.models import Speed
from app.errors import UpstreamBroken, UpstreamError
from app.upstream.answers.payload import dump, parse, renamed
from app.upstream.answers.refusals import RefusedKey, refused_key
from app.upstream.client import Message, UpstreamClient
from app.upstream.http.exchange import read_body

AT_ONCE = 8
OUTPUT_TOKENS = 48
# A tool call of one argument takes about 25 tokens.
FIRST_TOKENS = 64
# OpenAI's service accepts no fewer.
RESPONSE_TOKENS = 16
LONG_WORDS, SHORT_WORDS = 1024, 16
# A prompt of so many words of its context leaves room for tokenizers that split them, and for the answer.
WORDS_OF_CONTEXT = 4
# The first request may load an adapter, or wait in the queue of others.
ANSWER_WITHIN_S = 120.0
MAX_ANSWER_BYTES = 4 << 20
ATTEMPTS, MAX_WAIT_S = 3, 20.0
CHARS_PER_TOKEN = 4
# As exams and collections ask.
TEMPERATURE = 0.0
# The one of vLLM's own parameters that callers send most.
EXTRA, TOP_K = "top_k", 20

_WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "red",
    "green",
    "blue",
    "north",
    "south",
    "east",
    "west",
]
_FIRST = "Use the tool to find out the weather in Paris."
_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_OFFERED: Mapping[str, Any] = {"tools": [_TOOL], "logprobs": True, "temperature": TEMPERATURE}
"""Beside the first question, in the order in which it is taken away where a refusal names nothing."""


class NotAnswered(Exception):
    """The endpoint did not answer; the message is its own, or says why.

    `is_final`: it will never answer such a request.
    """

    def __init__(self, reason: str, *, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


@dataclass
class Measured:
    """What was seen of a model."""

    capabilities: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Capabilities that the endpoint refuses."""
    rename: dict[str, str | None] = field(default_factory=dict)
    refuses_temperature: bool = False
    takes_extras: bool | None = None
    """Whether it answers a request with one of vLLM's own parameters; None where that is not known."""
    tells_usage: bool = True
    speed: Speed | None = None
    tokens_per_s: float | None = None
    """Read and written, several requests at once."""
    problem: str = ""
    """Why there is no speed."""
    unsure: str = ""
    """Why it is not known whether `/v1/responses` is served; empty where it is."""

    @property
    def is_answered(self) -> bool:
        """Whether anything was seen of it."""
        return "chat" in self.capabilities


class Answered(NamedTuple):
    """The body of an answer, and after how long it was there."""

    content: Mapping[str, Any]
    took_s: float


@dataclass(frozen=True)
class Answer:
    """What came back, and after how long."""

    took_s: float
    input_tokens: int
    output_tokens: int
    tells_usage: bool
    has_logprobs: bool
    calls_tool: bool


@dataclass
class Asker:
    """Asks one model at one endpoint."""

    client: UpstreamClient
    url: str
    model: str
    context_tokens: int | None = None
    rename: dict[str, str | None] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """What goes with every question to a chat after the first."""

    async def measure(self, *, at_once: bool, tries_extra: bool) -> Measured:
        """`at_once`: several questions are asked together as well; `tries_extra`: one has a parameter of vLLM's own.

        Raises:
            NotAnswered: it does not chat.
            RefusedKey: the endpoint does not accept our key.
        """
        measured = Measured(rename=self.rename)
        try:
            answered = await self._first(measured)
        except NotAnswered as exc:
            if exc.is_final:
                raise
            measured.problem = str(exc)
            return measured
        measured.takes_extras = await self._takes_extras(answered) if tries_extra else None
        await self._responses(measured)
        try:
            measured.speed = await self._speed()
            measured.tokens_per_s = await self._tokens_per_s() if at_once else None
        except NotAnswered as exc:
            measured.problem = str(exc)
        return measured

    async def _first(self, measured: Measured) -> Mapping[str, Any]:
        """What the question that was answered had beside its prompt."""
        extras, refused = dict(_OFFERED), dict[str, Any]()
        answer = None
        while answer is None:
            try:
                answer = await self.ask(_FIRST, FIRST_TOKENS, extras)
            except NotAnswered as exc:
                if not exc.is_final or not self._made_smaller(extras, refused, str(exc)):
                    raise
        answer = await self._put_back(extras, refused) or answer
        measured.refuses_temperature = "temperature" in refused
        measured.refused |= refused.keys() - {"temperature"}
        self.settings = {} if measured.refuses_temperature else {"temperature": extras.pop("temperature")}
        measured.tells_usage = answer.tells_usage
        measured.capabilities.add("chat")
        measured.capabilities |= {"logprobs"} if answer.has_logprobs else set()
        measured.capabilities |= {"tools"} if answer.calls_tool else set()
        return extras

    def _made_smaller(self, extras: dict[str, Any], refused: dict[str, Any], reason: str) -> bool:
        """Whether there was something to change in a request that was refused."""
        if "max_completion_tokens" in reason and not self.rename:
            self.rename["max_tokens"] = "max_completion_tokens"
            return True
        if not extras:
            return False
        name = next((name for name in extras if name.removesuffix("s") in reason.lower()), next(iter(extras)))
        refused[name] = extras.pop(name)
        return True

    async def _put_back(self, extras: dict[str, Any], refused: dict[str, Any]) -> Answer | None:
        """The last answer with what was not to blame; None where all of it was.

        What went last was refused with all else alike. What went before may only have been named, or tried first.
        """
        answer = None
        for name in list(refused)[:-1]:
            try:
                answer = await self.ask(_FIRST, FIRST_TOKENS, {**extras, name: refused[name]})
            except NotAnswered as exc:
                if not exc.is_final:
                    raise
            else:
                extras[name] = refused.pop(name)
        return answer

    async def _takes_extras(self, answered: Mapping[str, Any]) -> bool | None:
        """Nothing but the parameter is new in the question, so it is what a refusal is about, whatever its words."""
        try:
            await self.ask(_FIRST, FIRST_TOKENS, {**answered, EXTRA: TOP_K})
        except NotAnswered as exc:
            return False if exc.is_final else None
        return True

    async def _responses(self, measured: Measured) -> None:
        body = {"model": self.model, "input": "Say yes.", "max_output_tokens": RESPONSE_TOKENS}
        try:
            content, _ = await self._sent("/responses", renamed(body, self.rename))
        except NotAnswered as exc:
            if exc.is_final:
                measured.refused.add("responses")
            else:
                measured.unsure = str(exc)
            return
        # Some servers answer any path with something.
        is_response = isinstance(content.get("output"), list)
        (measured.capabilities if is_response else measured.refused).add("responses")

    async def _speed(self) -> Speed:
        short = await self.ask(_count(SHORT_WORDS), 1)
        many = await self.ask(_count(SHORT_WORDS), OUTPUT_TOKENS)
        words = min(LONG_WORDS, (self.context_tokens or 2 * LONG_WORDS) // WORDS_OF_CONTEXT)
        long = await self.ask(_count(words), 1)
        return speed_of(short, many, long)

    async def _tokens_per_s(self) -> float:
        began_s = time.perf_counter()
        answers = await asyncio.gather(*(self.ask(_count(SHORT_WORDS), OUTPUT_TOKENS) for _ in range(AT_ONCE)))
        took_s = time.perf_counter() - began_s
        return sum(one.input_tokens + one.output_tokens for one in answers) / took_s

    async def ask(self, prompt: str, tokens: int, extras: Mapping[str, Any] | None = None) -> Answer:
        """One answer of at most so many tokens.

        Raises:
            NotAnswered, RefusedKey
        """
        messages = [{"role": "user", "content": prompt}]
        asked = {"model": self.model, "messages": messages, "max_tokens": tokens, **self.settings, **(extras or {})}
        body = renamed(asked, self.rename)
        content, took_s = await self._sent("/chat/completions", body)
        try:
            return _answer(content, took_s, len(dump(body)))
        except UpstreamError as exc:
            raise NotAnswered(str(exc), is_final=False) from exc

    async def _sent(self, path: str, body: Mapping[str, Any]) -> Answered:
        """What comes back from a path, and after how long.

        Raises:
            NotAnswered, RefusedKey
        """
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                for _ in range(ATTEMPTS - 1):
                    answered = await self._exchange(path, dump(body))
                    if isinstance(answered, Answered):
                        return answered
                    await asyncio.sleep(answered)
                answered = await self._exchange(path, dump(body))
        except TimeoutError as exc:
            raise NotAnswered(f"no answer within {ANSWER_WITHIN_S:g} s", is_final=False) from exc
        except RefusedKey:
            raise
        except UpstreamError as exc:
            raise NotAnswered(str(exc), is_final=False) from exc
        if not isinstance(answered, Answered):
            raise NotAnswered("its rate limit is reached, or it is busy", is_final=False)
        return answered

    async def _exchange(self, path: str, body: bytes) -> Answered | float:
        """The answer, or the seconds to wait before the next try."""
        began_s = time.perf_counter()
        exchange = await self.client.send(
            self.url, self.url, Message(path, body, stream=False, request_id=uuid.uuid4().hex)
        )
        try:
            if exchange.status == 401:
                raise refused_key()
            if exchange.status in (429, 503):
                return min(exchange.retry_after_s or 1.0, MAX_WAIT_S)
            content = await read_body(exchange, MAX_ANSWER_BYTES)
            if exchange.status != 200:
                raise NotAnswered(
                    _reason(exchange.status, content), is_final=exchange.status < 500 or exchange.status == 501
                )
            return Answered(parse(content), time.perf_counter() - began_s)
        finally:
            exchange.close()


def speed_of(short: Answer, many: Answer, long: Answer) -> Speed:
    """Speeds from one token after a short prompt, many tokens after a short one, and one token after a long one.

    Where the difference of two times says nothing, the whole time counts: slower than it is, never faster.
    """
    written, read = many.output_tokens - short.output_tokens, long.input_tokens - short.input_tokens
    write_s, read_s = many.took_s - short.took_s, long.took_s - short.took_s
    if written <= 0 or write_s <= 0:
        written, write_s = max(many.output_tokens, 1), many.took_s
    if read <= 0 or read_s <= 0:
        read, read_s = max(long.input_tokens, 1), long.took_s
    return Speed(prefill_tokens_per_s=read / read_s, s_per_output_token=write_s / written)


def _count(words: int) -> str:
    drawn = " ".join(random.choices(_WORDS, k=words))
    return f"{drawn}. Now count from one to one hundred, in words."


def _answer(body: Mapping[str, Any], took_s: float, sent_bytes: int) -> Answer:
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        calls, logprobs = message.get("tool_calls"), choice.get("logprobs")
        usage = body.get("usage") or {}
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (KeyError, TypeError, IndexError, AttributeError) as exc:
        raise UpstreamBroken("answers with something else than a chat completion") from exc
    return Answer(
        took_s,
        read if isinstance(read, int) else round(sent_bytes / CHARS_PER_TOKEN),
        written if isinstance(written, int) else round(len(str(text)) / CHARS_PER_TOKEN),
        tells_usage=isinstance(read, int) and isinstance(written, int),
        has_logprobs=bool(logprobs.get("content")) if isinstance(logprobs, dict) else False,
        calls_tool=bool(calls),
    )


def _reason(status: int, content: bytes) -> str:
    try:
        error = parse(content).get("error")
        message = error["message"] if isinstance(error, dict) else error
    except (UpstreamBroken, KeyError):
        message = None
    if message is None:
        message = content[:2000].decode(errors="replace")
    return f"status {status}: {' '.join(str(message).split())[:160]}"
