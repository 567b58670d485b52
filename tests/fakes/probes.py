"""The corpus of odd HTTP/1.x in `tests/integration/http_corpus`: what its files say, as bytes to send."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.deployment import SECRET

FOLDER = Path(__file__).resolve().parents[1] / "integration/http_corpus"
_PLACEHOLDER = re.compile(r"@(path|auth|chat|n|hex|next|(?P<what>[^@]+)\*(?P<times>\d+))?@")
_GOOD = {
    "line": "POST @path@ HTTP/1.1\r\n",
    "host": "Host: gateway.example\r\n",
    "add": "",
    "framing": "Content-Length: @n@\r\n",
    "body": "@chat@",
}
_REST = "@auth@Content-Type: application/json\r\n"


@dataclass(frozen=True, slots=True)
class Probe:
    """Bytes for one connection, and what is to come of them."""

    name: str
    """Also what the prompts of its requests say."""
    rule: str
    level: str
    sent: bytes
    refused: bool
    answers: int = 1
    """At most; an error counts."""
    calls: int = 1
    """Of backends, at most."""
    requests: int = 1
    """What a benevolent reader could make of the bytes. A proxy may mend a probe, and pass on what follows it."""


@cache
def probes() -> tuple[Probe, ...]:
    return tuple(
        _probe(name, parts, group)
        for path in sorted(FOLDER.glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())
        for name, parts in group["probes"].items()
    )


def good_request(name: str) -> bytes:
    """A request that must be answered with 200; its prompt is the name."""
    return _filled(_template({}), name).encode("latin-1")


def _probe(name: str, parts: Mapping[str, Any], group: Mapping[str, Any]) -> Probe:
    parts = {**group, **parts}
    refused = {"refused": True, "answered": False}[parts["expect"]]
    follows = refused and parts.get("follow", True)
    text = parts.get("send", _template(parts)) + parts.get("then", "") + ("@next@" if follows else "")
    sent = _filled(text, name).encode("latin-1")
    answers = parts.get("answers", 1)
    calls = 0 if refused else parts.get("calls", 1)
    requests = parts.get("requests", answers + follows)
    return Probe(name, parts["rule"], parts["level"], sent, refused, answers, calls, requests)


def _template(parts: Mapping[str, str]) -> str:
    good = {part: parts.get(part, text) for part, text in _GOOD.items()}
    return f"{good['line']}{good['host']}{_REST}{good['add']}{good['framing']}\r\n{good['body']}"


def _filled(text: str, name: str) -> str:
    chat = json.dumps({"model": "small", "messages": [{"role": "user", "content": name}]})
    words = {
        "path": "/v1/chat/completions",
        "auth": f"Authorization: Bearer {SECRET}\r\n",
        "chat": chat,
        "n": str(len(chat)),
        "hex": f"{len(chat):x}",
        None: "@",
    }

    def _word(match: re.Match[str]) -> str:
        if match["times"]:
            return match["what"] * int(match["times"])
        return _filled(_template({}), name) if match[1] == "next" else words[match[1]]

    return _PLACEHOLDER.sub(_word, text)
