"""Answers of the fake backend in which some values and fields are written as no sound backend does."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

from tests.fakes.backend import FakeBackend, Received, Script, events_of, whole_answer
from tests.fakes.other_answers import framed

ODD = (
    *("null", "true", "false", "0", "-1", "1", "7", "0.5", "1e308", "-1e308", "1e999", "9" * 400, "9" * 5000, "NaN"),
    *("[]", "{}", '""', '"a"', '"\\ud800"', '"\\u0000"', '"\x7f"', "[[]]", "[null]", "[{}]", '[""]', "[7]", '{"a":1}'),
    *("[" * depth + "]" * depth for depth in (40, 300, 990, 2000)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (300, 990)),
    *('"' + "x" * size + '"' for size in (20, 70_000, 600_000)),
    *('{"content":[{"logprob":' + odd + "}]}" for odd in ("null", "[]", "1e308", '"-1"')),
    *('{"prompt_tokens":' + odd + ',"completion_tokens":1}' for odd in ("null", "[]", "{}", "1e308", '"7"')),
    *('"failed"', '"abort"', '"error"', '"model"', '{"model":"x"}', '{"message":"a"}'),
)


class OddBackend(FakeBackend):
    """Writes `changes` odd things into each answer; which ones depends on the seed alone."""

    def __init__(self, seed: int, scripts: tuple[Script, ...], changes: int = 1) -> None:
        super().__init__()
        self._rng, self._kinds, self._changes = random.Random(seed), scripts, changes
        self.last = b""
        """What was answered last."""

    def script_for(self, request: Received) -> Script:
        script = self._rng.choice(self._kinds)
        if request.body.get("stream"):
            self.last = self._streamed(script, request)
            return Script(events=self.last, drip_bytes=self._rng.choice((None, None, 40_000)))
        self.last = self._written(whole_answer(script, request)).encode(errors="surrogatepass")
        return Script(body=self.last)

    def _streamed(self, script: Script, request: Received) -> bytes:
        events = events_of(script, request)
        place = self._rng.randrange(len(events))
        for number, event in enumerate(events):
            if event != "[DONE]" and (number == place or self._rng.random() < 0.05):
                events[number] = self._written(json.loads(event))
        return b"".join(framed(event, request) for event in events)

    def _written(self, value: Any) -> str:
        places = self._rng.sample(range(_size(value)), min(self._changes, _size(value)))
        return _Writer(self._rng, frozenset(places)).value(value)


def _size(value: Any) -> int:
    """How many values and fields there are."""
    if isinstance(value, dict):
        return 1 + sum(1 + _size(item) for item in value.values())
    return 1 + sum(_size(item) for item in value) if isinstance(value, list) else 1


class _Writer:
    """Writes JSON, and something odd at these places."""

    def __init__(self, rng: random.Random, places: frozenset[int]) -> None:
        self._rng, self._places, self._numbers = rng, places, itertools.count()

    def value(self, value: Any) -> str:
        odd = self._rng.choice(ODD) if next(self._numbers) in self._places else None
        if isinstance(value, dict):
            written = "{" + ",".join([self._field(name, item) for name, item in value.items()]) + "}"
        elif isinstance(value, list):
            written = "[" + ",".join([self.value(item) for item in value]) + "]"
        else:
            written = json.dumps(value)
        return written if odd is None else odd

    def _field(self, name: str, value: Any) -> str:
        is_odd, plain, written = next(self._numbers) in self._places, json.dumps(name), self.value(value)
        if not is_odd:
            return f"{plain}:{written}"
        escaped = '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"'
        odd = self._rng.choice(ODD)
        forms = (
            *(f"{plain} : {written}", f"{escaped}:{written}", f'"{name.upper()}":{written}'),
            *(f"{plain}:{written},{plain}:{written}", f"{plain}:{written},{escaped}:{written}"),
            *(f"{plain}:{odd},{plain}:{written}", f"{plain}:{written},{plain}:{odd}"),
            *(f'"a":{{{plain}:{written}}},{plain} : {written}', f'"a":{{{plain}:{written}}}'),
        )
        return self._rng.choice(forms)
