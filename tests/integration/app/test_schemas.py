"""Schemas of answers and of tools are the callers' own: their patterns are passed on, and nothing here runs them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.backend import Script
from tests.fakes.deployment import SECRET, deployed

PATTERNS = {
    "without end": "^(a+)+$",
    "no pattern": "(",
    "of another dialect": r"\p{L}+(?<name>x)",
    "long": "(a|b)?" * 300,
}
HARD = "a" * 48 + "!"
"""On this the first one would take years."""


def asked(pattern: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Where a schema may be: the path, and the fields that have it."""
    held = {"type": "string", "pattern": pattern, "default": HARD}
    schema = {"type": "object", "properties": {"a": held}, "patternProperties": {pattern: held}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    named = {"name": "x", "schema": schema}
    return {
        "response_format": ("chat/completions", {"response_format": {"type": "json_schema", "json_schema": named}}),
        "tools": ("chat/completions", {"tools": [tool]}),
        "structured_outputs": ("completions", {"structured_outputs": {"json": schema}}),
        "text": ("responses", {"text": {"format": {"type": "json_schema", **named}}}),
    }


@pytest.mark.parametrize("name", PATTERNS)
async def test_patterns_are_passed_on_and_not_run(tmp_path: Path, name: str) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    prompts: dict[str, dict[str, Any]] = {
        "chat/completions": {"messages": [{"role": "user", "content": HARD}]},
        "completions": {"prompt": HARD},
        "responses": {"input": HARD},
    }
    async with deployed(tmp_path, "small") as deployment, aiohttp.ClientSession(headers=headers) as session:
        backend = deployment.backends["small"]
        backend.script = Script(tokens=(HARD,))
        began_s = time.process_time()
        for path, fields in asked(PATTERNS[name]).values():
            body = {"model": "auto", **prompts[path], **fields}
            async with session.post(f"{deployment.url}/v1/{path}", json=body) as answer:
                assert answer.status == 200, await answer.text()
                assert HARD in await answer.text()
            sent = backend.requests[-1].body
            assert {field: sent[field] for field in fields} == fields
        assert time.process_time() - began_s < 1.0
