"""What of a conversation decides: the last user message, and a digest of what surrounds it.

How it works: the last user message is kept whole up to a bound, then cut in the middle: tasks are named at its
beginning or at its end. Everything else becomes one short context: the beginning of the system prompt, the names of the
tools, the two turns before. A lone user message is itself and has no context. All of it is cut by characters, so the
cost of reading a prompt does not depend on its length.
"""

from __future__ import annotations

from collections.abc import Sequence

Conversation = Sequence[tuple[str, str]]
"""(role, text) pairs in order; tool names travel as one ("tools", "name name") pair."""

# Characters kept at each end of the last user message. 31 tokens of English are about 140 characters; 400 still hold 31
# tokens of long German words or identifiers, and tokenizing 800 characters costs 0.3 ms.
EDGE_CHARS = 400
# A system prompt says what the assistant is for in its first sentence or two.
SYSTEM_CHARS = 160
TOOLS_CHARS = 120
# Of each turn before the last user message; two turns say what "and in French?" refers to.
TURN_CHARS = 120
RECENT_TURNS = 2


def last_user_text(conversation: Conversation) -> str:
    """The message that asks, cut in the middle; the last text of any other role where no user spoke."""
    index = _asking(conversation)
    return "" if index is None else _edges(conversation[index][1], EDGE_CHARS)


def context_text(conversation: Conversation) -> str:
    """System prompt, tools and the turns before, each tagged with its role and cut short; "" for a lone message."""
    asking = _asking(conversation)
    if asking is None:
        return ""
    pieces = [f"system: {text[:SYSTEM_CHARS]}" for role, text in conversation if role in ("system", "developer")][:1]
    pieces += [f"tools: {text[:TOOLS_CHARS]}" for role, text in conversation if role == "tools"][:1]
    turns = [turn for turn in conversation[:asking] if turn[0] not in ("system", "developer", "tools")]
    pieces += [f"{role}: {_edges(text, TURN_CHARS // 2)}" for role, text in turns[-RECENT_TURNS:]]
    return _storable(" ".join(pieces))


def _asking(conversation: Conversation) -> int | None:
    spoken = [index for index, (role, _) in enumerate(conversation) if role != "tools"]
    asked = [index for index in spoken if conversation[index][0] == "user"]
    return (asked or spoken)[-1] if spoken else None


def _edges(text: str, edge_chars: int) -> str:
    cut = text if len(text) <= 2 * edge_chars else f"{text[:edge_chars]} {text[-edge_chars:]}"
    return _storable(cut)


def _storable(text: str) -> str:
    """The text without lone surrogates, which JSON can carry and no tokenizer reads."""
    return text.encode(errors="replace").decode()
