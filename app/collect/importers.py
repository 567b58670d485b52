"""Where prompts come from: a JSONL file, an outcomes dataset, task families. A new source is one entry in SOURCES."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.collect.plan import Prompt
from app.errors import UsageError
from router_models.aptitude import FAMILIES, Item, draw

# Room for an answer where neither the prompt nor --max-tokens says more: a paragraph.
DEFAULT_MAX_TOKENS = 256
# A larger one is a slip; the JSON readers of some endpoints hold no more.
MOST_MAX_TOKENS = 2**31 - 1
FAMILIES_PREFIX = "families:"
FAMILIES_EXAMPLE = "families:sql,dates@seed=1,count=200"

_DECIDING = ("grader", "reference", "max_tokens", "split")
_OWN = {"prompt_id", "prompt", "messages", "reference", "grader", "max_tokens", "dataset", "task", "split"}


def read_prompts(source: str) -> tuple[Prompt, ...]:
    """The prompts of one `--prompts` value.

    Raises:
        UsageError: with file and line, or with what the source should look like.
    """
    for fits, read in SOURCES:
        if fits(source):
            return tuple(read(source))
    raise UsageError(f"no prompts at {source!r}: give a .jsonl file, a dataset folder or {FAMILIES_EXAMPLE!r}")


def once(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The prompts without those that come again, by their ids: of one that has none that is its text.

    Raises:
        UsageError: what comes again is asked or graded in another way, so that one of both would be lost.
    """
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        known = first.setdefault(prompt.prompt_id, prompt)
        places = f"{known.place} and {prompt.place}"
        if (known.prompt, known.messages) != (prompt.prompt, prompt.messages):
            raise UsageError(f"{places}: two prompts have the prompt_id {prompt.prompt_id!r}; give each its own")
        for name in _DECIDING:
            if getattr(known, name) != getattr(prompt, name):
                raise UsageError(f"{places}: the same prompt with another {name}; leave one, or give each a prompt_id")
    return list(first.values())


def _from_jsonl(source: str) -> Iterable[Prompt]:
    path = Path(source)
    try:
        # Not `splitlines`: a text in JSON may have U+2028 and others that it takes for an end of line.
        # And with the mark that some programs of Windows begin a file with.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read {path}: {exc}") from exc
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield replace(prompt_from(_read(line), dataset=path.stem), place=f"{path}, line {number}")
            except (ValueError, RecursionError) as exc:
                raise UsageError(f"{path}, line {number}: {exc}") from exc


def _read(line: str) -> object:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as exc:
        raise ValueError(f"expected one JSON object a line; {exc.msg} at character {exc.colno}") from exc
    if not isinstance(row, Mapping):
        raise ValueError("expected one JSON object a line")
    return row


def prompt_from(row: object, dataset: str) -> Prompt:
    """One prompt of one JSON object. Raises ValueError that says what is wrong with it."""
    if not isinstance(row, Mapping):
        raise ValueError("not a JSON object")
    messages = _messages(row.get("messages"))
    text = row.get("prompt") if row.get("prompt") is not None else _last_text(messages)
    if not isinstance(text, str) or not text:
        raise ValueError('needs "prompt" (a text) or "messages" (a list)')
    max_tokens = row.get("max_tokens") if row.get("max_tokens") is not None else DEFAULT_MAX_TOKENS
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or not 1 <= max_tokens <= MOST_MAX_TOKENS:
        raise ValueError(f'"max_tokens" must be a whole number from 1 to {MOST_MAX_TOKENS}, not {max_tokens!r}')
    reference = row.get("reference")
    return Prompt(
        prompt_id=_id(row) or _content_id(text, messages),
        prompt=text,
        messages=messages,
        grader=_text(row, "grader") or None,
        reference=reference if reference is None or isinstance(reference, str) else json.dumps(reference),
        max_tokens=max_tokens,
        dataset=_text(row, "dataset") or dataset,
        task=_text(row, "task"),
        split=_text(row, "split") or None,
        extra={name: value for name, value in row.items() if name not in _OWN},
    )


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f'"{name}" must be a text, not {value!r}')
    return value


def _id(row: Mapping[str, Any]) -> str:
    prompt_id = _text(row, "prompt_id")
    if prompt_id.encode(errors="replace").decode() != prompt_id:
        raise ValueError(f'"prompt_id" must be a text that UTF-8 has, not {prompt_id!r}')
    return prompt_id


def _messages(value: object) -> tuple[Mapping[str, Any], ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, list) or not value:
        raise ValueError('"messages" must be a list with at least one message')
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise ValueError('each of "messages" must be an object with "role" and "content"')
    return tuple(value)


def _last_text(messages: tuple[Mapping[str, Any], ...] | None) -> str | None:
    texts = [_content_text(message["content"]) for message in messages or () if message["role"] == "user"]
    return texts[-1] if texts else None


def _content_text(content: object) -> str:
    """The text of a message; parts that are not text are left out."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return "" if content is None else str(content)


def _content_id(text: str, messages: tuple[Mapping[str, Any], ...] | None) -> str:
    content = json.dumps([text, messages], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode(errors="replace")).hexdigest()[:16]


def _from_dataset(source: str) -> Iterable[Prompt]:
    path = Path(source) / "prompts.parquet"
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as exc:
        raise UsageError(f"cannot read {path}: {str(exc).splitlines()[0]}") from exc
    for number, row in enumerate(rows, start=1):
        try:
            yield replace(prompt_from(row, dataset=Path(source).name), place=f"{path}, row {number}")
        except ValueError as exc:
            raise UsageError(f"{path}, row {number}: {exc}") from exc


def _from_families(source: str) -> Iterable[Prompt]:
    names, _, rest = source.removeprefix(FAMILIES_PREFIX).partition("@")
    options = dict(part.partition("=")[::2] for part in rest.split(",") if part)
    wording = options.pop("wording", "seen")
    split = options.pop("split", "train" if wording == "seen" else "unseen")
    try:
        seed, count = int(options.pop("seed")), int(options.pop("count"))
    except (KeyError, ValueError) as exc:
        raise UsageError(f"say which items of the families, as in {FAMILIES_EXAMPLE}") from exc
    if options or wording not in ("seen", "unseen") or count < 1:
        raise UsageError("families take seed=N, count=N (per family, from 1), wording=seen|unseen and split=NAME")
    for name in FAMILIES if names == "all" else names.split(","):
        try:
            items = draw(name, seed=seed, count=count, wording="seen" if wording == "seen" else "unseen")
        except ValueError as exc:
            raise UsageError(str(exc)) from exc
        yield from (replace(_from_item(item, split), place=source) for item in items)


def _from_item(item: Item, split: str) -> Prompt:
    return Prompt(
        prompt_id=item.item_id,
        prompt=item.prompt,
        grader=item.grader,
        reference=item.reference,
        max_tokens=item.max_tokens,
        dataset="aptitude",
        task=item.family,
        split=split,
        extra={"skill": item.skill, "level": item.level, "wording": item.wording},
    )


SOURCES: tuple[tuple[Callable[[str], bool], Callable[[str], Iterable[Prompt]]], ...] = (
    (lambda source: source.startswith(FAMILIES_PREFIX), _from_families),
    (lambda source: Path(source).is_dir(), _from_dataset),
    (lambda source: Path(source).is_file(), _from_jsonl),
)
