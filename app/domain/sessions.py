"""What is remembered of a conversation between two of its requests: who answered, and what that model has read.

How it works: a session goes by a digest of the key and of the id that its caller chose, so nobody finds another key's,
and whoever sees what is kept learns no id. What was read is kept as a digest too, under a secret that follows from
both. A request continues a session when it begins with the same messages; only then does a cache hold them.
"""

from __future__ import annotations

from hashlib import blake2b

from app.domain.frozen import frozen
from app.domain.request import Conversation, Request

TOOLS = "tools"
"""Role of the names of tools, which stand last in a conversation and first in a prompt."""


@frozen
class Session:
    """A conversation as its last request left it."""

    model: str
    """Who answered."""
    messages: int
    """How many it read."""
    read: str
    """Their digest."""
    input_tokens: int
    """What they took, as estimated."""
    age_s: float = 0.0
    """Since then."""

    @classmethod
    def after(cls, request: Request, model: str) -> Session:
        """What is to be remembered when this model has begun to answer this request."""
        messages = len(_said(request.conversation))
        return cls(model, messages, _read(request, messages), request.input_tokens)

    def goes_on_in(self, request: Request) -> bool:
        """Whether this request begins with what was read, under the same tools."""
        is_long_enough = len(_said(request.conversation)) >= self.messages
        return is_long_enough and _read(request, self.messages) == self.read


def name_of(request: Request) -> str:
    """What the session of a request that has one is kept by."""
    return blake2b(_material(request), digest_size=16, person=b"name").hexdigest()


def _material(request: Request) -> bytes:
    # The length in front tells where the key's id ends, whatever stands in the session's.
    return f"{len(request.key_id)}:{request.key_id}{request.session_id}".encode(errors="surrogatepass")


def _said(conversation: Conversation) -> Conversation:
    return conversation[:-1] if conversation and conversation[-1][0] == TOOLS else conversation


def _read(request: Request, messages: int) -> str:
    """A digest of the tools and of so many messages."""
    conversation = request.conversation
    said = _said(conversation)
    secret = blake2b(_material(request), digest_size=32, person=b"read").digest()
    digest = blake2b(key=secret, digest_size=16)
    for pair in (*conversation[len(said) :], *said[:messages]):
        for part in pair:
            text = part.encode(errors="surrogatepass")
            digest.update(len(text).to_bytes(8, "little"))
            digest.update(text)
    return digest.hexdigest()
