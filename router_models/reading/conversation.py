"""What of a conversation decides: the question, and a digest of what surrounds it.

How it works: the question is the last user message without its template (`router_models.reading.boilerplate`), kept
whole up to a bound, then cut in the middle: tasks are named at its beginning or at its end. Everything else becomes one
short context: the beginning of the system prompt, the names of the tools, the two turns before, and the template's
instruction. A lone plain message has no context. All of it is cut by characters, so the cost of reading a prompt does
not depend on its length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from router_models.reading.boilerplate import split_question

Conversation = Sequence[tuple[str, str]]
"""(role, text) pairs in order; tool names travel as one ("tools", "name name") pair."""

# Characters kept at each end of the question. 31 tokens of English are about 140 characters; 400 still hold 31 tokens
# of long German words or identifiers.
EDGE_CHARS = 400
# A system prompt says what the assistant is for in its first sentence or two.
SYSTEM_CHARS = 160
TOOLS_CHARS = 120
# Of each turn before the last user message; two turns say what "and in French?" refers to.
TURN_CHARS = 120
RECENT_TURNS = 2
# Of the instruction around a question; four public benchmarks have 60 to 190 characters.
INSTRUCTION_CHARS = 160


class Parts(NamedTuple):
    """Two bounded texts that any tokenizer reads; `context` is "" for a lone plain message."""

    context: str
    question: str


def parts(conversation: Conversation) -> Parts:
    """The question, and its context: system prompt, tools and earlier turns tagged with their roles, instruction last.

    Where no user spoke, the last text of any other role asks; a conversation without text has two empty parts.
    """
    asking = _asking(conversation)
    if asking < 0:
        return Parts("", "")
    instruction, question = split_question(conversation[asking][1])
    question = _storable(_edges(question, EDGE_CHARS))
    if len(conversation) == 1 and not instruction:
        return Parts("", question)
    pieces = _surroundings(conversation, asking) if len(conversation) > 1 else []
    if instruction:
        pieces.append(instruction[:INSTRUCTION_CHARS])
    return Parts(_storable(" ".join(pieces)), question)


def _surroundings(conversation: Conversation, asking: int) -> list[str]:
    pieces = [f"system: {text[:SYSTEM_CHARS]}" for role, text in conversation if role in ("system", "developer")][:1]
    pieces += [f"tools: {text[:TOOLS_CHARS]}" for role, text in conversation if role == "tools"][:1]
    turns = [turn for turn in conversation[:asking] if turn[0] not in ("system", "developer", "tools")]
    return pieces + [f"{role}: {_edges(text, TURN_CHARS // 2)}" for role, text in turns[-RECENT_TURNS:]]


def _asking(conversation: Conversation) -> int:
    """Place of the last user message, else of the last one that is no list of tools, else -1."""
    if conversation and conversation[-1][0] == "user":
        return len(conversation) - 1
    last_spoken = -1
    for place in range(len(conversation) - 1, -1, -1):
        role = conversation[place][0]
        if role == "user":
            return place
        if role != "tools" and last_spoken < 0:
            last_spoken = place
    return last_spoken


def _edges(text: str, edge_chars: int) -> str:
    return text if len(text) <= 2 * edge_chars else f"{text[:edge_chars]} {text[-edge_chars:]}"


def _storable(text: str) -> str:
    """The text without lone surrogates, which JSON can carry and no tokenizer reads."""
    return text if text.isascii() else text.encode(errors="replace").decode()
