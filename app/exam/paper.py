"""The questions of an exam, in the order in which they are asked.

How it works: the anchors of an artifact, which its models answered too, say how good a model is beside them. Fresh
items of the seeded families, which no model can have learned from, say what it can do by skill, and whether its
endpoint can be trusted. Every beginning of the order has about the same share of each task, so an exam may end
anywhere.

Fresh items count for the artifact's new column where the artifact learned their family; elsewhere nothing is known of
what other models would score on them. Those that count get the room that each item gives its answer, because the
artifact's models had no more: with another room a new model would be compared with them on unequal terms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from app.collect.plan import TEMPLATE_TOKENS, Prompt
from app.errors import UsageError
from app.exam.faults import MORE_ROOM
from router_models.aptitude import FAMILIES, draw_exam, why_ungradable
from router_models.joining.exam import Questions, in_quotas, old_scores_of, parts_of
from router_models.reading.conversation import Conversation
from router_models.storage.artifact import Artifact

FRESH = "fresh"
"""The dataset that items of the families are said to be from."""
ROOM_TOKENS = 1024
"""Room of an answer where nothing says which one the artifact's models had; anchors do not."""
# Of prompts, in the tokenizers in use, with digits and code; to tell whether one fits, never to charge.
LEAST_CHARS_PER_TOKEN = 2.5
# With less room than this an answer that reasons is cut before it concludes.
LEAST_ROOM_TOKENS = 128


@dataclass(frozen=True)
class Paper:
    """The questions, and what an artifact makes of those that count."""

    prompts: tuple[Prompt, ...]
    counts: tuple[bool, ...]
    """Whether the answer informs the artifact's column."""
    anchors: tuple[Mapping[str, Any] | None, ...]
    own_room: frozenset[str] = frozenset()
    """Questions whose room is the one that the artifact's models had, by prompt_id."""
    more_room: str = MORE_ROOM
    """What an operator is told to do where a model needs more room."""

    def fitting(self, context_tokens: int | None) -> tuple[Prompt, ...]:
        """As a model with this context can answer them: with less room where it is tight, without what is too long."""
        if context_tokens is None:
            return self.prompts
        fitted = (_fitted(prompt, context_tokens) for prompt in self.prompts)
        return tuple(prompt for prompt in fitted if prompt is not None)

    def questions(self, artifact: Artifact, advance: Callable[[], object] = lambda: None) -> Questions:
        """Those that count, as the artifact's models read them; `advance` is called after each."""
        anchors = [anchor for anchor, counts in zip(self.anchors, self.counts, strict=True) if counts]
        conversations = [_conversation(prompt) for prompt in self.counted()]
        return Questions(artifact, conversations, old_scores_of(artifact, anchors), parts_of(anchors), advance)

    def counted(self) -> list[Prompt]:
        """The prompts that count, in order."""
        return [prompt for prompt, counts in zip(self.prompts, self.counts, strict=True) if counts]


def paper_of(artifact: Artifact, seed: int, per_family: int, room_tokens: int | None = None) -> Paper:
    """The anchors of an artifact and so many fresh items of each family.

    `room_tokens` is the room of every answer; None gives items of families that the artifact learned their own room,
    and ROOM_TOKENS to the rest.

    Raises:
        UsageError: nothing in it would count, or an answer to an anchor could not be graded.
    """
    _refuse_ungradable(artifact)
    learned = {task.partition("/")[2] for task in artifact.tasks}
    room_elsewhere = room_tokens or ROOM_TOKENS
    rows: list[tuple[Prompt, bool, Mapping[str, Any] | None]] = [
        (_anchor_prompt(anchor, room_elsewhere), True, anchor) for anchor in artifact.anchors
    ]
    rows += [
        (prompt, prompt.task in learned, None)
        for family in (FAMILIES if per_family else ())
        for prompt in _fresh(family, seed, per_family, room_tokens if family in learned else room_elsewhere)
    ]
    if not rows and learned & set(FAMILIES):
        raise UsageError(f"{artifact.name} has no anchors, so its exam is fresh items only: raise --items")
    if not any(counts for _, counts, _ in rows):
        raise UsageError(
            f"{artifact.name} has no anchors and learned none of the families, so nothing would compare a new model "
            "with its models; give --outcomes"
        )
    order = in_quotas(
        np.array([f"{prompt.dataset}/{prompt.task}" for prompt, _, _ in rows]), np.random.default_rng(seed)
    )
    prompts, counts, anchors = zip(*(rows[place] for place in order), strict=True)
    own_room = [prompt.prompt_id for prompt in prompts if prompt.dataset == FRESH and prompt.task in learned]
    return Paper(prompts, counts, anchors, frozenset(own_room if room_tokens is None else ()))


def _refuse_ungradable(artifact: Artifact) -> None:
    """Before anything is paid for."""
    cases = [(str(a.get("pool") or ""), a["grader"], str(a.get("reference") or "")) for a in artifact.anchors]
    if (found := why_ungradable(cases)) is not None:
        place, why = found
        raise UsageError(
            f"{artifact.name}: answers to anchor {artifact.anchors[place]['prompt_id']} cannot be graded: {why}; "
            "train it again without the mark `anchor` on such prompts, or give --outcomes"
        )


def _anchor_prompt(anchor: Mapping[str, Any], room_tokens: int) -> Prompt:
    messages = anchor.get("messages")
    return Prompt(
        prompt_id=anchor["prompt_id"],
        prompt=anchor["prompt"],
        grader=anchor["grader"],
        reference=anchor.get("reference"),
        max_tokens=room_tokens,
        messages=tuple(messages) if messages else None,
        dataset=str(anchor.get("pool") or ""),
        task=str(anchor.get("task") or ""),
    )


def _fresh(family: str, seed: int, count: int, room_tokens: int | None) -> Sequence[Prompt]:
    """Items of a family with this room, or each with its own."""
    return [
        Prompt(
            prompt_id=item.item_id,
            prompt=item.prompt,
            grader=item.grader,
            reference=item.reference,
            max_tokens=room_tokens or item.max_tokens,
            dataset=FRESH,
            task=family,
        )
        for item in draw_exam(family, seed=seed, count=count)
    ]


def _fitted(prompt: Prompt, context_tokens: int) -> Prompt | None:
    messages = prompt.to_send()
    chars = sum(len(str(message.get("content"))) for message in messages)
    room = context_tokens - round(chars / LEAST_CHARS_PER_TOKEN) - TEMPLATE_TOKENS * len(messages)
    if room >= prompt.max_tokens:
        return prompt
    return replace(prompt, max_tokens=room) if room >= LEAST_ROOM_TOKENS else None


def _conversation(prompt: Prompt) -> Conversation:
    return tuple((str(message["role"]), _text(message["content"])) for message in prompt.to_send())


def _text(content: object) -> str:
    return content if isinstance(content, str) else json.dumps(content)
