"""What encoders said of a conversation, kept for when the same caller sends the same again.

How it works: a prediction follows from the conversation and from the artifact alone, so it is kept for the life of a
router, which a reload replaces. All that may change between two requests (the fleet, limits, weights, allowed models)
is applied to it anew. The caller's key is part of every entry's name: nobody learns, not even from the time that an
answer takes, what others have sent. A short conversation is its own name, so nothing can be taken for it; a long one
goes by a digest under a secret of this process. Who was not asked for longest goes when there are too many.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from hashlib import sha256

from app.domain.decision import Encoder
from app.domain.request import Conversation, Request
from app.routing.estimates import Prediction

Name = tuple[str, Encoder, Conversation | bytes]
"""Whose, by which encoder, of what."""

# A longer conversation goes by its digest, which costs a microsecond and 0.7 more per thousand characters where the
# processor knows SHA-256; BLAKE2 takes almost three times as long there, and as long elsewhere.
LONG_CHARS = 1_000
# What a message takes beside its text, counted as characters.
MESSAGE_CHARS = 100
# With its text of four bytes per character at most, and arrays for a handful of models, an entry takes 2 to 6 KB.
MOST_ENTRIES = 4_096


class Recall:
    """Predictions by caller, encoder and conversation."""

    def __init__(self, most_entries: int = MOST_ENTRIES) -> None:
        self._known: OrderedDict[Name, Prediction] = OrderedDict()
        self._most_entries, self._secret = most_entries, os.urandom(32)

    def name(self, encoder: Encoder, request: Request) -> Name:
        """What `find` and `keep` go by."""
        conversation = request.conversation
        if len(conversation) == 1:
            chars = len(conversation[0][1])
        else:
            chars = sum([len(text) + MESSAGE_CHARS for _, text in conversation])
        return request.key_id, encoder, conversation if chars <= LONG_CHARS else self._digest(conversation)

    def find(self, name: Name) -> Prediction | None:
        """What was said of it, if that is still known."""
        prediction = self._known.get(name)
        if prediction is not None:
            self._known.move_to_end(name)
        return prediction

    def keep(self, name: Name, prediction: Prediction) -> None:
        """For the next time."""
        self._known[name] = prediction
        if len(self._known) > self._most_entries:
            self._known.popitem(last=False)

    def _digest(self, conversation: Conversation) -> bytes:
        # No keyed hash is needed: nobody outside of this process sees a digest.
        digest = sha256(self._secret)
        for part in (part.encode(errors="surrogatepass") for message in conversation for part in message):
            # The length in front tells where a part ends, whatever stands in it.
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.digest()
